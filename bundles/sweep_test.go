package bundles_test

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

// nodeStore is a layout of n releases that share some of their blobs.
func nodeStore(t *testing.T, s *store.Store, r *rand.Rand, n int) (string, []*bundles.Verified) {
	t.Helper()
	dir := t.TempDir()
	trust := trustFor(t, "official", mine)
	var all []*bundles.Verified
	for i := range n {
		in := input(t, s)
		in.Facts.Release = uint64(i + 1)
		in.OS[0].Content = put(t, s, fmt.Sprint("root ", r.IntN(3)))
		in.Images[2].Manifest = putImage(t, s, fmt.Sprint("layer ", r.IntN(3)), fmt.Sprint("layer ", r.IntN(3), "b"))
		in.Node = put(t, s, fmt.Sprint("node ", i))
		one := seed(t, s, compose(t, s, in))
		rels, err := bundles.OpenLayout([]string{one}, trust)
		if err != nil {
			t.Fatal(err)
		}
		copyBlobs(t, one, dir, rels[0])
		all = append(all, rels[0])
	}
	if err := bundles.WriteIndex(dir, all...); err != nil {
		t.Fatal(err)
	}
	return dir, all
}

// there are the blobs of v that a layout holds, whole.
func there(t *testing.T, dir string, v *bundles.Verified) []store.Digest {
	t.Helper()
	blobs, err := v.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Digest
	for _, c := range blobs {
		b, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", c.Digest.Hex()))
		if err == nil && store.FromBytes(b) == c.Digest {
			out = append(out, c.Digest)
		}
	}
	return out
}

// opened is the layout's releases as a node would find them.
func opened(t *testing.T, dir string) []*bundles.Verified {
	t.Helper()
	rels, err := bundles.OpenLayout([]string{dir}, trustFor(t, "official", mine))
	if err != nil {
		t.Fatal(err)
	}
	return rels
}

var errCut = errors.New("the power went")

// TestSweepCutAnywhere cuts random sweeps at every change: what is kept stays
// whole, and a repetition leaves nothing else.
func TestSweepCutAnywhere(t *testing.T) {
	s := openStore(t)
	for trial := range 6 {
		r := rand.New(rand.NewPCG(uint64(trial), 1))
		dir, all := nodeStore(t, s, r, 2+r.IntN(4))
		rels := opened(t, dir)
		r.Shuffle(len(rels), func(i, j int) { rels[i], rels[j] = rels[j], rels[i] })
		keep := rels[:1+r.IntN(2)]
		before := map[*bundles.Verified][]store.Digest{}
		for _, v := range keep {
			before[v] = there(t, dir, v)
		}
		for cut := 0; ; cut++ {
			n := 0
			err := bundles.SweepCut(dir, keep, time.Time{}, func(string) error {
				if n++; n > cut {
					return errCut
				}
				return nil
			})
			found := opened(t, dir)
			for _, v := range keep {
				if !slices.Equal(there(t, dir, v), before[v]) || !slices.ContainsFunc(found, func(f *bundles.Verified) bool { return f.Index() == v.Index() }) {
					t.Fatalf("trial %d, cut at %d: release %d is not whole", trial, cut, v.Facts().Release)
				}
			}
			// What index.json names is whole as well: first the name goes.
			for _, v := range found {
				if i := slices.IndexFunc(all, func(a *bundles.Verified) bool { return a.Index() == v.Index() }); !slices.Equal(there(t, dir, v), there(t, dir, all[i])) {
					t.Fatalf("trial %d, cut at %d: release %d is named and not whole", trial, cut, v.Facts().Release)
				}
				if _, err := v.NodeJSON(); err != nil {
					t.Fatal(err)
				}
			}
			if err == nil {
				break
			}
			if !errors.Is(err, errCut) {
				t.Fatal(err)
			}
		}
		needed := map[string]bool{}
		for _, v := range keep {
			for _, d := range before[v] {
				needed[d.Hex()] = true
			}
		}
		es, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
		if err != nil || len(es) != len(needed) {
			t.Errorf("trial %d: %d blobs are left, %d are needed, %v", trial, len(es), len(needed), err)
		}
		if got := opened(t, dir); len(got) != len(keep) {
			t.Errorf("trial %d: %d releases are named, want %d", trial, len(got), len(keep))
		}
	}
}

func TestSweepFreesAndLeavesTheRest(t *testing.T) {
	s := openStore(t)
	dir, all := nodeStore(t, s, rand.New(rand.NewPCG(7, 7)), 3)
	now := time.Now()
	for name, old := range map[string]bool{
		"blobs/sha256/.import-1": true, "blobs/sha256/.import-2": false,
		".index.json-1": true, ".index.json-2": false, "notes": true, "blobs/sha256/folder": true,
	} {
		name = filepath.Join(dir, name)
		if strings.HasSuffix(name, "folder") {
			if err := os.Mkdir(name, 0o755); err != nil {
				t.Fatal(err)
			}
		} else {
			mustWrite(t, name, []byte("12345"))
		}
		if old {
			if err := os.Chtimes(name, now, now.Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
	}
	stranger := strings.Repeat("ab", 32)
	mustWrite(t, filepath.Join(dir, "blobs/sha256", stranger), []byte("123456789"))
	if _, err := bundles.Sweep(dir, all, now.Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"blobs/sha256/.import-1": false, "blobs/sha256/.import-2": true, "blobs/sha256/folder": true,
		".index.json-1": false, ".index.json-2": true, "notes": true, "blobs/sha256/" + stranger: false,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	if got := opened(t, dir); len(got) != 3 {
		t.Errorf("%d releases are left of 3 to keep", len(got))
	}
	mustWrite(t, filepath.Join(dir, "blobs/sha256", stranger), []byte("123456789"))
	if freed, err := bundles.Sweep(dir, all, now.Add(-time.Minute)); err != nil || freed != 9 {
		t.Errorf("freed %d bytes, %v, want 9", freed, err)
	}
}

func TestSweepRefuses(t *testing.T) {
	s := openStore(t)
	dir, _ := nodeStore(t, s, rand.New(rand.NewPCG(1, 1)), 2)
	if _, err := bundles.Sweep(dir, nil, time.Time{}); err == nil {
		t.Error("swept with nothing to keep")
	}
	// A kept release whose manifest is gone: what it needs cannot be told.
	rels := opened(t, dir)
	im := rels[0].Images()[0].Manifest
	if err := os.Remove(filepath.Join(dir, "blobs/sha256", im.Digest.Hex())); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundles.Sweep(dir, rels[:1], time.Time{}); !errors.Is(err, store.ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
	after, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	if err != nil || len(after) != len(before) || len(opened(t, dir)) != 2 {
		t.Errorf("%d of %d blobs are left, %v", len(after), len(before), err)
	}
}

// Two people may have signed apart: a release then has two signature
// manifests, and needs both.
func TestSweepKeepsAllSignatures(t *testing.T) {
	s := openStore(t)
	rel := compose(t, s, input(t, s))
	trust := trustFor(t, "official", mine, second)
	dir := t.TempDir()
	for _, key := range []*ecdsa.PrivateKey{mine, second} {
		v, err := openBytes(t, pack(t, s, rel, signWith(t, rel, key)), trustFor(t, "official", key))
		if err != nil {
			t.Fatal(err)
		}
		blobs, err := v.Blobs()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, c := range blobs {
			b, err := v.ReadBlob(c.Content)
			if err != nil {
				t.Fatal(err)
			}
			mustWrite(t, filepath.Join(dir, "blobs/sha256", c.Digest.Hex()), b)
		}
		if err := bundles.AddToIndex(dir, v); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		rels, err := bundles.OpenLayout([]string{dir}, trust)
		if err != nil || len(rels) != 1 {
			t.Fatalf("%d releases, %v", len(rels), err)
		}
		if _, err := bundles.Sweep(dir, rels, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}
