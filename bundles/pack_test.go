package bundles_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/image/rootfs"
)

func TestComposeTellsAllThatIsWrong(t *testing.T) {
	s := openStore(t)
	in := input(t, s)
	in.Facts.Zone = "private"
	in.Facts.Release = 0
	gone := store.Content{Digest: store.FromBytes([]byte("gone")), Size: 4}
	in.SBOM = gone
	in.Images[2].Manifest = gone
	_, err := bundles.Compose(s, in)
	for _, want := range []string{`zone "private"`, `release number "0"`, "sbom.spdx.json: ", "registry.example/web:v2: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestComposeRefuses(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, s *store.Store, in *bundles.ReleaseInput){
		"an image twice":       func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Images[1].Name = in.Images[0].Name },
		"no component":         func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Images[1].Component = "" },
		"a component twice":    func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Manifests[1].Component = "db" },
		"a title twice":        func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.OS[1].Title = in.OS[0].Title },
		"a path as title":      func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Manifests[0].Files[0].Title = "../x" },
		"no root":              func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.OS = in.OS[1:] },
		"no raw digest":        func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.OS[0].Raw = store.Content{} },
		"a bad root hash":      func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Facts.RootHash = "A" },
		"a bad name":           func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Facts.Name = "a b" },
		"no site":              func(_ *testing.T, _ *store.Store, in *bundles.ReleaseInput) { in.Site = store.Content{} },
		"no manifest":          func(t *testing.T, s *store.Store, in *bundles.ReleaseInput) { in.Images[0].Manifest = put(t, s, "x") },
		"a layer that is gone": func(t *testing.T, s *store.Store, _ *bundles.ReleaseInput) { remove(t, s, "layer one") },
		"a layer from elsewhere": func(t *testing.T, s *store.Store, in *bundles.ReleaseInput) {
			c := put(t, s, "x")
			in.Images[0].Manifest = put(t, s, `{"schemaVersion":2,"config":{"digest":"`+string(c.Digest)+`","size":1},"layers":[{"digest":"`+string(c.Digest)+`","size":1,"urls":["http://x"]}]}`)
		},
	} {
		s := openStore(t)
		in := input(t, s)
		change(t, s, &in)
		if _, err := bundles.Compose(s, in); err == nil {
			t.Errorf("%s: composed", name)
		}
	}
}

func remove(t *testing.T, s *store.Store, b string) {
	t.Helper()
	if err := os.Remove(s.Path(store.FromBytes([]byte(b)))); err != nil {
		t.Fatal(err)
	}
}

func TestReadRelease(t *testing.T) {
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	if got, err := bundles.ReadRelease(s, rel.Index); err != nil || got != rel {
		t.Errorf("got %v, %v, want %v", got, err, rel)
	}
}

func TestPackRefuses(t *testing.T) {
	s := openStore(t)
	in := input(t, s)
	rel := compose(t, s, in)
	in.Facts.Release = 8
	next := compose(t, s, in)
	sigs := signWith(t, rel, mine)
	if err := bundles.Pack(t.Context(), io.Discard, s, rel, nil, nil); err == nil {
		t.Error("packed without a signature")
	}
	if err := bundles.Pack(t.Context(), io.Discard, s, next, sigs, nil); err == nil {
		t.Error("packed with the signature of another release")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := bundles.Pack(ctx, io.Discard, s, rel, sigs, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	remove(t, s, "web")
	remove(t, s, "the root")
	err := bundles.Pack(t.Context(), io.Discard, s, rel, sigs, nil)
	if !errors.Is(err, store.ErrMissing) || strings.Count(err.Error(), store.ErrMissing.Error()) != 2 {
		t.Errorf("got %v, want both missing blobs", err)
	}
}

// seed writes the seed tree of a release into a new directory.
func seed(t *testing.T, s *store.Store, rel bundles.Release) string {
	t.Helper()
	tree, err := bundles.SeedTree(s, rel, signWith(t, rel, mine), 5)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range tree.Files() {
		if f.MTime != 5 {
			t.Errorf("%s has the time %d", f.Path, f.MTime)
		}
		p := filepath.Join(dir, f.Path)
		if f.IsDir() {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mustWrite(t, p, readAll(t, f))
	}
	return dir
}

func readAll(t *testing.T, f rootfs.File) []byte {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != f.Size() {
		t.Fatalf("%s: %d bytes of %d, %v", f.Path, len(b), f.Size(), err)
	}
	return b
}

func TestSeedTreeLeavesTheRootOut(t *testing.T) {
	s := openStore(t)
	dir := seed(t, s, compose(t, s, input(t, s)))
	for blob, want := range map[string]bool{"the root": false, "the verity tree": false, "the kernel": true, "layer one": true} {
		_, err := os.Stat(filepath.Join(dir, "blobs/sha256", store.FromBytes([]byte(blob)).Hex()))
		if (err == nil) != want {
			t.Errorf("%s: %v", blob, err)
		}
	}
}
