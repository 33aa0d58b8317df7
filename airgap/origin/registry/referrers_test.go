package registry_test

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/signing"
)

// A registry that lists referrers by itself is asked for the list.
func TestReferrers(t *testing.T) {
	const digest = "sha256:6fa9990e737b9f9ca44f86022c1d74e6e7ef74f74dd23ff2c712fa7b65e13877" // what the bundle is over
	bundle, err := os.ReadFile("../../../signing/testdata/cosign3.bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile("../../../signing/testdata/cosign3.pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(fake.New(fake.WithReferrersSupport(true), fake.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	for i, kind := range []types.MediaType{signing.BundleType, "application/spdx+json"} {
		im := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), kind)
		im, err := mutate.AppendLayers(im, static.NewLayer(bundle, kind))
		if err != nil {
			t.Fatal(err)
		}
		about := mutate.Subject(im, v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hash, Size: 517})
		tag, err := name.NewTag(addr + "/team/app:" + strings.Repeat("x", i+1))
		if err == nil {
			err = remote.Write(tag, about.(v1.Image))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	claims, err := (&registry.Client{}).Signatures(context.Background(), ref(t, addr+"/team/app:1"), digest)
	if err != nil || len(claims.Bundles) != 1 {
		t.Fatal(claims, err)
	}
	if err := signing.VerifyKey(key, digest, claims); err != nil {
		t.Error(err)
	}
}
