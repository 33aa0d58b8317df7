package bundles_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"math/big"
	"os"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/signing"
)

// testKey is the same in every run, so that a test bundle is too.
func testKey(n int64) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(n).FillBytes(make([]byte, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

var (
	mine     = testKey(1)
	second   = testKey(2)
	stranger = testKey(3)
)

// trustFor is a trust for zone with all keys needed.
func trustFor(t testing.TB, zone string, keys ...*ecdsa.PrivateKey) bundles.Trust {
	t.Helper()
	r := signing.Rule{Zone: zone, Threshold: len(keys)}
	var ks []signing.Key
	for _, k := range keys {
		pk, err := signing.NewKey("test", &k.PublicKey, false)
		if err != nil {
			t.Fatal(err)
		}
		ks, r.Keys = append(ks, pk), append(r.Keys, pk.ID)
	}
	p, err := signing.NewPolicy(ks, []signing.Rule{r})
	if err != nil {
		t.Fatal(err)
	}
	return bundles.Trust{Policy: p, Zone: zone}
}

func put(t testing.TB, s *store.Store, b string) store.Content {
	t.Helper()
	c, err := s.WriteBytes([]byte(b))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func putImage(t testing.TB, s *store.Store, layers ...string) store.Content {
	t.Helper()
	type desc struct {
		MediaType string       `json:"mediaType"`
		Digest    store.Digest `json:"digest"`
		Size      int64        `json:"size"`
	}
	config := put(t, s, `{"os":"linux"}`)
	m := map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": desc{"application/vnd.oci.image.config.v1+json", config.Digest, config.Size}}
	var ds []desc
	for _, l := range layers {
		c := put(t, s, l)
		ds = append(ds, desc{"application/vnd.oci.image.layer.v1.tar", c.Digest, c.Size})
	}
	m["layers"] = ds
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, s, string(b))
}

// input is a small release with one of everything.
func input(t testing.TB, s *store.Store) bundles.ReleaseInput {
	t.Helper()
	image := putImage(t, s, "layer one", strings.Repeat("layer two ", 300))
	raw := store.Content{Digest: store.FromBytes([]byte("raw")), Size: 3}
	return bundles.ReleaseInput{
		Facts: bundles.Facts{Name: "demo", Release: 7, Zone: "official", Domain: "demo.example", Version: "0.1.0", Epoch: 1700000000, RootHash: strings.Repeat("a", 64)},
		OS: []bundles.File{
			{Title: bundles.RootErofs, MediaType: bundles.MediaRoot, Content: put(t, s, "the root"), Raw: raw},
			{Title: bundles.RootVerity, MediaType: bundles.MediaVerity, Content: put(t, s, "the verity tree"), Raw: raw},
			{Title: bundles.UKI, MediaType: bundles.MediaUEFI, Content: put(t, s, "the kernel")},
		},
		Images: []bundles.Image{
			{Name: "registry.example/db:v1", Component: "db", Manifest: image},
			{Name: "registry.example/db:v1.0", Component: "db", Manifest: image},
			{Name: "registry.example/web:v2", Component: "web", Manifest: putImage(t, s, "layer one", "web")},
		},
		Manifests: []bundles.ComponentManifests{
			{Component: "db", Files: []bundles.File{{Title: "00-namespace.yaml", Content: put(t, s, "kind: Namespace\n")}, {Title: "10-db.yaml", Content: put(t, s, "kind: StatefulSet\n")}}},
			{Component: "web", Files: []bundles.File{{Title: "web.yaml", Content: put(t, s, "kind: Deployment\n")}}},
		},
		Site: put(t, s, `{"site":1}`), Node: put(t, s, `{"name":"demo","release":7}`),
		SBOM: put(t, s, `{"spdxVersion":"SPDX-2.3","packages":[{"name":"a"},{"name":"b"}],"files":[]}`), Provenance: put(t, s, `{"lock":"x"}`),
	}
}

func compose(t testing.TB, s *store.Store, in bundles.ReleaseInput) bundles.Release {
	t.Helper()
	rel, err := bundles.Compose(s, in)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func signWith(t testing.TB, rel bundles.Release, keys ...*ecdsa.PrivateKey) []signing.Signature {
	t.Helper()
	var sigs []signing.Signature
	for _, k := range keys {
		s, err := signing.Sign(string(rel.Index.Digest), "demo:7", k, nil)
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, s)
	}
	return sigs
}

func pack(t testing.TB, s *store.Store, rel bundles.Release, sigs []signing.Signature) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundles.Pack(t.Context(), &b, s, rel, sigs, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// demo is a bundle of the small release, signed with mine.
func demo(t testing.TB) []byte {
	t.Helper()
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	return pack(t, s, rel, signWith(t, rel, mine))
}

func openBytes(t testing.TB, b []byte, trust bundles.Trust) (*bundles.Verified, error) {
	t.Helper()
	return bundles.OpenAt(t.Context(), bytes.NewReader(b), int64(len(b)), trust, nil)
}

func mustWrite(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
