package bundles

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func blocksOf(ns ...int) []byte {
	var out []byte
	for _, n := range ns {
		r := rand.New(rand.NewPCG(uint64(n), 0))
		for range patchBlock / 8 {
			out = append(out, byte(r.Uint32()), byte(r.Uint32()), 0, 0, byte(n), byte(n>>8), 1, 2)
		}
	}
	return out
}

func patchOf(t testing.TB, from, to []byte) []byte {
	t.Helper()
	at, err := blockSums(bytes.NewReader(from))
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := makePatch(w, at, bytes.NewReader(to)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two patches of the same files differ")
	}
	return a.Bytes()
}

func TestPatchMakesTheNewFile(t *testing.T) {
	check := func(name string, from, to []byte) int {
		t.Helper()
		p := patchOf(t, from, to)
		var got bytes.Buffer
		// Behind the old file there may be more: a slot is larger.
		if err := applyPatch(&got, io.MultiReader(bytes.NewReader(from), bytes.NewReader([]byte("more"))), bytes.NewReader(p), int64(len(to))); err != nil || !bytes.Equal(got.Bytes(), to) {
			t.Errorf("%s: %d bytes of %d, %v", name, got.Len(), len(to), err)
		}
		return len(p)
	}
	long := make([]int, 3*patchInsert)
	for i := range long {
		long[i] = i + 10
	}
	check("equal", blocksOf(1, 2, 3), blocksOf(1, 2, 3))
	check("empty", nil, nil)
	check("from nothing", nil, blocksOf(1, 2))
	check("to nothing", blocksOf(1, 2), nil)
	check("another order", blocksOf(1, 2, 3), blocksOf(3, 2, 1))
	check("a long insertion", blocksOf(1, 2), blocksOf(append(long, 2)...))
	check("repeated blocks", blocksOf(1, 1, 2, 1, 1), blocksOf(1, 2, 1, 1, 1, 1))
	if n := check("a block in the middle", blocksOf(long...), blocksOf(append(append(long[:300:300], 1), long[300:]...)...)); n > patchBlock+100 {
		t.Errorf("a block more makes a patch of %d bytes", n)
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		some := func() (out []int) {
			for range r.IntN(40) {
				out = append(out, r.IntN(12))
			}
			return out
		}
		check("random", blocksOf(some()...), blocksOf(some()...))
	}
}

// packPatch is a patch of these bytes behind the magic.
func packPatch(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err == nil {
		_, err = z.Write(append([]byte(patchMagic), body...))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBadPatches(t *testing.T) {
	old := blocksOf(1, 2, 3)
	good := patchOf(t, old, blocksOf(1, 9, 3))
	for name, p := range map[string][]byte{
		"nothing":           nil,
		"no zstd":           []byte("x"),
		"cut off":           good[:len(good)-8],
		"another magic":     packPatch(t, nil)[1:],
		"no step":           packPatch(t, nil),
		"an empty step":     packPatch(t, []byte{0, 0, 0}),
		"too much":          packPatch(t, []byte{0, 4, 0}),
		"too much together": packPatch(t, append([]byte{0, 2, 2}, blocksOf(1, 2)...)),
		"behind the end":    packPatch(t, []byte{1, 3, 0}),
		"a huge skip":       packPatch(t, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 3, 0}),
		"a long number":     packPatch(t, bytes.Repeat([]byte{0x80}, 20)),
		"half a number":     packPatch(t, []byte{0, 3}),
		"half a block":      packPatch(t, append([]byte{0, 0, 3}, old[:5000]...)),
		"something behind":  packPatch(t, []byte{0, 3, 0, 0}),
	} {
		if err := applyPatch(io.Discard, bytes.NewReader(old), bytes.NewReader(p), int64(len(old))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := applyPatch(io.Discard, bytes.NewReader(old[:5000]), bytes.NewReader(good), int64(len(old))); err == nil {
		t.Error("taken from half of the old file")
	}
}

func FuzzApplyPatch(f *testing.F) {
	old := blocksOf(1, 2, 3)
	f.Add([]byte{0, 1, 0, 1, 1, 0})
	f.Add([]byte{0, 0, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		var got bytes.Buffer
		if err := applyPatch(&got, bytes.NewReader(old), bytes.NewReader(packPatch(t, body)), 2*patchBlock); err == nil && got.Len() != 2*patchBlock {
			t.Errorf("%d bytes", got.Len())
		}
		if got.Len() > 2*patchBlock {
			t.Errorf("%d bytes came out", got.Len())
		}
		_ = applyPatch(io.Discard, bytes.NewReader(old), bytes.NewReader(body), 2*patchBlock)
	})
}
