package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
)

func skopeo(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	if out, err := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("skopeo %v: %v\n%s", args, err, out)
	}
}

// ociLayout writes an index with images as a layout, under a name.
func ociLayout(t *testing.T, ix v1.ImageIndex, called string) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendIndex(ix, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": called}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func take(t *testing.T, file, image string) (*store.Store, registry.Image, error) {
	t.Helper()
	s := open(t)
	im, err := registry.Import(context.Background(), s, file, ref(t, image), amd64, nil)
	return s, im, err
}

// whole checks that s has an image with all its layers.
func whole(t *testing.T, s *store.Store, im registry.Image) {
	t.Helper()
	blobs, err := registry.Blobs(s, im.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	s.Rehash = true
	var n int64
	for _, c := range blobs {
		n += c.Size
		if err := s.Check(c); err != nil {
			t.Error(err)
		}
	}
	if n != im.Bytes {
		t.Errorf("%d bytes, not %d", n, im.Bytes)
	}
}

func TestOCILayout(t *testing.T) {
	ix, all := index(t, 10_000, "arm64", "amd64")
	dir := ociLayout(t, ix, "1")
	s, im, err := take(t, dir, "registry.example/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, s, im)
	if im.Manifest.Digest != digest(t, all["amd64"]) || im.Index != digest(t, ix) {
		t.Errorf("got %+v", im)
	}
	// The same in a tar file.
	tar := filepath.Join(t.TempDir(), "app.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", tar, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s, again, err := take(t, tar, "registry.example/team/app@"+string(im.Index))
	if err != nil || again != im {
		t.Fatalf("%+v, %v", again, err)
	}
	whole(t, s, again)
	// A byte of a layer is another.
	blobs, err := registry.Blobs(s, im.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(dir, "blobs", "sha256", blobs[1].Digest.Hex())
	b, err := os.ReadFile(layer)
	if err != nil {
		t.Fatal(err)
	}
	b[50] ^= 1
	if err := os.WriteFile(layer, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if s, _, err := take(t, dir, "registry.example/team/app:1"); !errors.Is(err, store.ErrMismatch) || s.Check(blobs[1]) == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

// A layout of several images must have one of that name.
func TestNamesInLayout(t *testing.T) {
	one, two := image(t, 100, 1, "linux", "amd64"), image(t, 100, 1, "linux", "amd64")
	ix := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": "registry.example/team/one:1"}}},
		mutate.IndexAddendum{Add: two, Descriptor: v1.Descriptor{Annotations: map[string]string{"io.containerd.image.name": "docker.io/library/two:1", "org.opencontainers.image.ref.name": "1"}}})
	dir := t.TempDir()
	if _, err := layout.Write(dir, ix); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]v1.Image{"registry.example/team/one:1": one, "docker.io/library/two:1": two} {
		if _, im, err := take(t, dir, name); err != nil || im.Manifest.Digest != digest(t, want) {
			t.Errorf("%s: %+v, %v", name, im, err)
		}
	}
	if _, _, err := take(t, dir, "registry.example/team/three:2"); err == nil || !strings.Contains(err.Error(), "it has 2 images, and 0 of them have that name") {
		t.Errorf("got %v", err)
	}
}

// What docker, podman and skopeo write comes in with the same layers.
func TestDockerArchive(t *testing.T) {
	im := image(t, 10_000, 3, "linux", "amd64")
	tag, err := name.NewTag("registry.example/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(t.TempDir(), "app.tar")
	if err := tarball.WriteToFile(packed, tag, im); err != nil {
		t.Fatal(err)
	}
	s, got, err := take(t, packed, "registry.example/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	whole(t, s, got)
	plain := filepath.Join(t.TempDir(), "plain.tar")
	skopeo(t, "copy", "docker-archive:"+packed, "docker-archive:"+plain+":registry.example/team/app:1")
	s, got, err = take(t, plain, "registry.example/other/name:2") // alone in its archive
	if err != nil {
		t.Fatal(err)
	}
	whole(t, s, got)
	// It is an image that others can read.
	out := t.TempDir()
	blobs, err := registry.Blobs(s, got.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(blobs, got.Manifest) {
		b, err := os.ReadFile(s.Path(c.Digest))
		if err == nil {
			err = os.MkdirAll(filepath.Join(out, "blobs", "sha256"), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(out, "blobs", "sha256", c.Digest.Hex()), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ix := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, got.MediaType, got.Manifest.Digest, got.Manifest.Size)
	if err := errors.Join(os.WriteFile(filepath.Join(out, "index.json"), ix, 0o644), os.WriteFile(filepath.Join(out, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	skopeo(t, "copy", "oci:"+out, "dir:"+t.TempDir())

	b, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	layer := bytes.LastIndex(b, []byte("random_file")) // in the last layer
	b[layer+2000] ^= 1
	if err := os.WriteFile(plain, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := take(t, plain, "registry.example/team/app:1"); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

func TestNoArchive(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar.gz")
	if err := os.WriteFile(file, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0}, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{dir: "neither an OCI layout nor a docker archive", file: "hint: a compressed archive must be unpacked", dir + "/none": "no such file"} {
		if _, _, err := take(t, name, "registry.example/team/app:1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
}
