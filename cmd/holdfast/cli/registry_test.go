package cli_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"

	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/qemu-tests/distribution"
	"holdfast.dev/holdfast/qemu-tests/sigstore"
	"holdfast.dev/holdfast/signing"
)

type registryKey struct{}

// testRegistry is a registry with a proxy before it.
type testRegistry struct {
	*distribution.Registry
	proxy *distribution.Proxy
}

// registryCmd changes the registry:
//
//	start CAFILE         runs it; its authority's certificate goes into CAFILE, $REGISTRY is its address
//	login                gives this user the password, in Docker's configuration
//	put REPOSITORY:TAG   pushes a new index, for amd64 and arm64
//	upstream             pushes a stand-in for each image that a project of the catalog publishes,
//	                     under its whole name; with the packages that others are put over
//	signed REPOSITORY:TAG ROOT IDENTITY ISSUER   the same of a new index that is signed without a key; ROOT
//	                     becomes the trusted root that the signature is good by
//	bare NAME            the same of one image, without any packages
//	lose REPOSITORY      forgets its images
//	layout DIR NAME      writes a new index of the same kind as an OCI layout
//	stalls, mend         stops in the middle of every layer, from now on; no more
//	hangs N              waits until so many layers have stopped
//	resumed N            wants so many transfers to have begun in the middle, since it was last asked
//	moved BYTES          wants so many bytes of blobs, or more, to have moved since it was last asked; 0 wants no request
func registryCmd(ts *testscript.TestScript, _ bool, args []string) {
	what, args := args[0], args[1:]
	if what == "start" {
		program, err := distribution.Find()
		ts.Check(err)
		r, err := distribution.Start(program, ts.MkAbs("registry"))
		ts.Check(err)
		ts.Defer(func() { _ = r.Stop() })
		p, err := r.Proxy()
		ts.Check(err)
		ts.Defer(func() { _ = p.Close() })
		b, err := os.ReadFile(r.CA)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
		ts.Setenv("REGISTRY", p.Addr)
		ts.Setenv("DOCKER_CONFIG", ts.MkAbs("docker"))
		*ts.Value(registryKey{}).(*testRegistry) = testRegistry{r, p}
		return
	}
	r := ts.Value(registryKey{}).(*testRegistry)
	switch what {
	case "login":
		ts.Check(distribution.Login(ts.MkAbs("docker"), r.proxy.Addr))
	case "put":
		ts.Check(r.Put(args[0], newIndex(ts, nil)))
		r.proxy.Seen()
	case "signed":
		signedImage(ts, r.Registry, args[0], args[1], sigstore.Signing{Identity: args[2], Issuer: args[3]})
		r.proxy.Seen()
	case "bare":
		ts.Check(r.Put(args[0], newIndex(ts, nil)))
	case "upstream":
		all, err := catalog.Load()
		ts.Check(err)
		n := 0
		for _, c := range all {
			for _, im := range c.Images {
				if im.Upstream.Ref != "" {
					ts.Check(r.Put(im.Upstream.Ref, newIndex(ts, im.Upstream.Add)))
					n++
				}
			}
		}
		if n == 0 {
			ts.Fatalf("no project publishes an image")
		}
	case "lose":
		ts.Check(os.RemoveAll(ts.MkAbs(filepath.Join("registry", "data", "docker", "registry", "v2", "repositories", args[0]))))
	case "layout":
		p, err := layout.Write(ts.MkAbs(args[0]), empty.Index)
		ts.Check(err)
		ts.Check(p.AppendIndex(newIndex(ts, nil), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": args[1]})))
	case "stalls":
		r.proxy.Break(func(q *http.Request) *distribution.Fault {
			if !distribution.Blob(q) {
				return nil
			}
			return &distribution.Fault{After: 50_000, Pause: time.Hour}
		})
	case "mend":
		r.proxy.Break(nil)
	case "hangs":
		for deadline := time.Now().Add(time.Minute); strconv.Itoa(r.proxy.Stopped()) != args[0]; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				ts.Fatalf("%d transfers hang, want %s", r.proxy.Stopped(), args[0])
			}
		}
		time.Sleep(200 * time.Millisecond) // the last of it is on its way
	case "resumed":
		if _, n, _ := r.proxy.Seen(); strconv.Itoa(n) != args[0] {
			ts.Fatalf("%d transfers were resumed, want %s", n, args[0])
		}
	case "moved":
		want, err := strconv.ParseInt(args[0], 10, 64)
		ts.Check(err)
		requests, _, n := r.proxy.Seen()
		if n < want || want == 0 && len(requests) > 0 {
			ts.Fatalf("%d bytes moved, by %v", n, requests)
		}
	default:
		ts.Fatalf("registry %s: not known", what)
	}
}

// signedImage pushes an image and a signature of it without a key, and writes
// the trusted root that it is good by.
func signedImage(ts *testscript.TestScript, r *distribution.Registry, repositoryTag, root string, by sigstore.Signing) {
	s, err := sigstore.New()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(root), s.TrustedRoot(), 0o644))
	ix := newIndex(ts, nil)
	ts.Check(r.Put(repositoryTag, ix))
	d, err := ix.Digest()
	ts.Check(err)
	payload, err := signing.Payload(d.String(), repositoryTag, nil)
	ts.Check(err)
	annotations, err := s.Attach(by, payload)
	ts.Check(err)
	im, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer: static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"), Annotations: annotations})
	ts.Check(err)
	repository, _, _ := strings.Cut(repositoryTag, ":")
	ts.Check(r.Put(repository+":sha256-"+d.Hex+".sig", im))
}

// newIndex has an image that has the packages which add leaves to it.
func newIndex(ts *testscript.TestScript, add *catalog.Source) v1.ImageIndex {
	ix := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		im, err := random.Image(100_000, 2)
		ts.Check(err)
		if add != nil && len(add.Exclude) > 0 {
			var status string
			for _, e := range add.Exclude {
				status += "Package: " + e.Name + "\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\n"
			}
			im, err = mutate.AppendLayers(im, static.NewLayer(tarOf(map[string]string{
				"etc/os-release": "ID=debian\nVERSION_ID=\"13\"\n", "var/lib/dpkg/status": status,
			}), types.OCIUncompressedLayer))
			ts.Check(err)
		}
		c, err := im.ConfigFile()
		ts.Check(err)
		c = c.DeepCopy()
		c.OS, c.Architecture = "linux", arch
		im, err = mutate.ConfigFile(im, c)
		ts.Check(err)
		ix = mutate.AppendManifests(ix, mutate.IndexAddendum{Add: im, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return ix
}

// expand writes a file with the script's variables in it.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o644))
}
