package crash_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// tinyLog is of a disk of 4 MiB with an ESP at 1 MiB.
func tinyLog(t *testing.T) (*nbd.Log, *os.File, []disk.Partition) {
	t.Helper()
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	must(t, os.WriteFile(base, bytes.Repeat([]byte{7}, 4<<20), 0o644))
	d, err := nbd.Open(base, filepath.Join(dir, "disk"), nbd.Options{Log: filepath.Join(dir, "log")})
	must(t, err)
	for i := range int64(40) {
		must(t, d.Do(nbd.Op{Kind: nbd.Write, Off: 3<<20 + i*512, Len: 512}, make([]byte, 512)))
	}
	must(t, d.Do(nbd.Op{Kind: nbd.Write, Off: 1 << 20, Len: 512}, make([]byte, 512)))
	must(t, d.Do(nbd.Op{Kind: nbd.Flush}, nil))
	must(t, d.Close())
	l, err := nbd.OpenLog(filepath.Join(dir, "log"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	f, err := os.Open(base)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return l, f, []disk.Partition{{TypeGUID: disk.TypeESP, Start: 1 << 20, Size: 1 << 20}}
}

func TestChooseCuts(t *testing.T) {
	l, _, parts := tinyLog(t)
	for _, n := range []int{10, 100, 2000} {
		cuts := chooseCuts(l, parts, n, rand.New(rand.NewPCG(1, 2)))
		if len(cuts) != n || len(slices.Compact(slices.Clone(cuts))) != n {
			t.Errorf("%d cuts are chosen instead of %d", len(cuts), n)
		}
		if !slices.IsSortedFunc(cuts, func(a, b cutAt) int { return a.Op - b.Op }) {
			t.Error("they are not in the order of the log")
		}
		again := chooseCuts(l, parts, n, rand.New(rand.NewPCG(1, 2)))
		if !slices.Equal(cuts, again) {
			t.Error("another choice for the same seed")
		}
		if n >= 100 && !slices.Contains(cuts, cutAt{41, nbd.KeepNone}) {
			t.Error("none right after the write to the ESP that keeps nothing")
		}
	}
}

func TestPages(t *testing.T) {
	l, base, _ := tinyLog(t)
	s, err := nbd.StateAt(l, base, 0, nbd.KeepAll)
	must(t, err)
	p := &pages{s, map[int64][]byte{}}
	want := bytes.Repeat([]byte{7}, 64<<10)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		off, n := rnd.IntN(60<<10), 1+rnd.IntN(4<<10)
		b := bytes.Repeat([]byte{byte(rnd.IntN(256))}, n)
		copy(want[off:], b)
		_, err := p.WriteAt(b, int64(off))
		must(t, err)
		off = rnd.IntN(60 << 10)
		got := make([]byte, 1+rnd.IntN(4<<10))
		_, err = p.ReadAt(got, int64(off))
		must(t, err)
		if !bytes.Equal(got, want[off:off+len(got)]) {
			t.Fatalf("%d bytes at %d are not what was written", len(got), off)
		}
	}
}
