package bundles_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/signing"
)

func TestOpenLayout(t *testing.T) {
	s := openStore(t)
	in := input(t, s)
	dir := seed(t, s, compose(t, s, in))
	trust := trustFor(t, "official", mine)
	empty := t.TempDir()
	rels, err := bundles.OpenLayout([]string{empty, dir}, trust)
	if err != nil || len(rels) != 1 {
		t.Fatalf("got %v, %v", rels, err)
	}
	v := rels[0]
	if n, err := v.NodeJSON(); err != nil || string(n) != `{"name":"demo","release":7}` {
		t.Errorf("node.json %s, %v", n, err)
	}
	root, _ := v.File(bundles.PartOS, bundles.RootErofs)
	if _, err := v.ReadBlob(root.Content); !errors.Is(err, store.ErrMissing) {
		t.Errorf("root.erofs: got %v, want ErrMissing", err)
	}
	if sum, err := bundles.Inspect(v); err != nil || sum.Packages != 2 {
		t.Errorf("got %+v, %v", sum, err)
	}
	fromBundle, err := openBytes(t, demo(t), trust)
	if err != nil {
		t.Fatal(err)
	}
	a, errA := v.Blobs()
	b, errB := fromBundle.Blobs()
	if errA != nil || errB != nil || len(a) != len(b) {
		t.Fatalf("%d and %d blobs, %v, %v", len(a), len(b), errA, errB)
	}
	for i := range a {
		if a[i].Content != b[i].Content {
			t.Errorf("blob %d is %v in the layout, %v in the bundle", i, a[i], b[i])
		}
	}
}

// copyBlobs imports what the layout at dir has of a release into another.
func copyBlobs(t *testing.T, dir, to string, v *bundles.Verified) {
	t.Helper()
	blobs, err := v.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(to, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range blobs {
		name := filepath.Join("blobs/sha256", c.Digest.Hex())
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // left out of the seed
		}
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, filepath.Join(to, name), b)
	}
}

func TestTwoReleasesInOneLayout(t *testing.T) {
	s := openStore(t)
	in := input(t, s)
	trust := trustFor(t, "official", mine)
	all := t.TempDir()
	var both []*bundles.Verified
	for _, n := range []uint64{8, 7} {
		in.Facts.Release = n
		dir := seed(t, s, compose(t, s, in))
		rels, err := bundles.OpenLayout([]string{dir}, trust)
		if err != nil {
			t.Fatal(err)
		}
		copyBlobs(t, dir, all, rels[0])
		both = append(both, rels[0])
	}
	if err := bundles.WriteIndex(all, both...); err != nil {
		t.Fatal(err)
	}
	rels, err := bundles.OpenLayout([]string{all}, trust)
	if err != nil || len(rels) != 2 || rels[0].Facts().Release != 7 || rels[1].Facts().Release != 8 {
		t.Fatalf("got %v, %v", rels, err)
	}
	trust.MinRelease = 8
	rels, err = bundles.OpenLayout([]string{all}, trust)
	if !errors.Is(err, bundles.ErrRefused) || len(rels) != 1 {
		t.Errorf("with a lowest number: got %v, %v", rels, err)
	}
	if err := bundles.WriteIndex(all, both[0]); err != nil {
		t.Fatal(err)
	}
	if rels, err := bundles.OpenLayout([]string{all}, trust); err != nil || len(rels) != 1 {
		t.Errorf("after a removal: got %v, %v", rels, err)
	}
}

func TestABadCopyIsPassedOver(t *testing.T) {
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	bad, good := seed(t, s, rel), seed(t, s, rel)
	blobs, err := filepath.Glob(filepath.Join(bad, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range blobs {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		mustWrite(t, p, b)
	}
	trust := trustFor(t, "official", mine)
	if _, err := bundles.OpenLayout([]string{bad}, trust); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
	rels, err := bundles.OpenLayout([]string{bad, good}, trust)
	if err != nil || len(rels) != 1 {
		t.Fatalf("got %v, %v", rels, err)
	}
	if _, err := rels[0].NodeJSON(); err != nil {
		t.Error(err)
	}
}

func TestOpenLayoutRefuses(t *testing.T) {
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	dir := seed(t, s, rel)
	if _, err := bundles.OpenLayout([]string{dir}, trustFor(t, "official", stranger)); !errors.Is(err, signing.ErrUntrusted) {
		t.Errorf("another key: got %v, want ErrUntrusted", err)
	}
	if _, err := bundles.OpenLayout([]string{t.TempDir()}, trustFor(t, "official", mine)); err == nil {
		t.Error("nothing there, and no error")
	}
	index := filepath.Join(dir, "index.json")
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty":         "",
		"not JSON":      "x",
		"no signatures": strings.Replace(string(b), "cosign/sigs", "cosign/atts", 1),
		"a bad digest":  strings.Replace(string(b), rel.Index.Digest.Hex(), "../../../../etc/passwd", 1),
		"too large":     string(b) + strings.Repeat(" ", 1<<20),
		"another size":  strings.Replace(string(b), `"size":`, `"size":1`, 1),
	} {
		mustWrite(t, index, []byte(bad))
		if rels, err := bundles.OpenLayout([]string{dir}, trustFor(t, "official", mine)); err == nil || len(rels) != 0 {
			t.Errorf("%s: got %v, %v", name, rels, err)
		}
	}
}
