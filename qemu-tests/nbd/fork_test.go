package nbd

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// step is an operation with its data.
type step struct {
	op   Op
	data []byte
}

func randomSteps(r *rand.Rand, n int) []step {
	var all []step
	for range n {
		first := r.Int64N(testSize / Sector)
		op := Op{Write, r.IntN(15) == 0, first * Sector, min(1+r.Int64N(1<<r.IntN(10)), testSize/Sector-first) * Sector}
		switch k := r.IntN(20); {
		case k < 2:
			op = Op{Kind: Flush}
		case k < 4:
			op.Kind, op.FUA = Trim, false
		}
		s := step{op: op}
		if op.Kind == Write {
			s.data = make([]byte, op.Len)
			for i := range s.data {
				s.data[i] = byte(r.Uint32())
			}
		}
		all = append(all, s)
	}
	return all
}

func (d *Disk) doAll(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		if err := d.Do(s.op, slices.Clone(s.data)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFork has one disk do all operations with a log, and others only the first
// n before their power is cut. The disk that begins as the log's state after n
// is the one that was cut, then and in all that follows: more operations, and
// another cut in their middle, taken from the fork's own log.
func TestFork(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 20 {
		dir, base := t.TempDir(), newBase(t)
		file := func(name string) string { return filepath.Join(dir, name) }
		all, more := randomSteps(r, 120), randomSteps(r, 60)
		n, m, seed := r.IntN(len(all)+1), r.IntN(len(more)+1), []uint64{KeepAll, KeepNone, r.Uint64(), r.Uint64()}[round%4]

		whole := open(t, base, file("whole"), Options{Size: testSize, Log: file("log")})
		whole.doAll(t, all)
		if err := whole.Close(); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, file("log"))
		image, err := rawImage(base)
		if err != nil {
			t.Fatal(err)
		}
		defer image.close()
		state, err := StateAt(l, image, n, seed)
		if err != nil {
			t.Fatal(err)
		}
		fork, err := state.Disk(file("fork"), Options{Log: file("fork.log")})
		if err != nil {
			t.Fatal(err)
		}

		cut := open(t, base, file("cut"), Options{Size: testSize})
		cut.doAll(t, all[:n])
		if err := cut.Cut(seed); err != nil {
			t.Fatal(err)
		}
		cut = open(t, base, file("cut"), Options{})
		same(t, "after the cut", fork, cut)
		fork.doAll(t, more)
		if err := fork.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := StateAt(openLog(t, file("fork.log")), state, m, seed+2)
		if err != nil {
			t.Fatal(err)
		}
		cut.doAll(t, more[:m])
		if err := cut.Cut(seed + 2); err != nil {
			t.Fatal(err)
		}
		same(t, "after the second cut", again, open(t, base, file("cut"), Options{}))

		kept, err := state.Disk(file("fork"), Options{}) // with its power back
		if err != nil {
			t.Fatal(err)
		}
		other := open(t, base, file("other"), Options{Size: testSize})
		other.doAll(t, all[:n])
		if err := other.Cut(seed); err != nil {
			t.Fatal(err)
		}
		other = open(t, base, file("other"), Options{})
		other.doAll(t, more)
		same(t, "with its power back", kept, other)
		if err := kept.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func same(t *testing.T, when string, a, b interface {
	ReadAt([]byte, int64) (int, error)
}) {
	t.Helper()
	if !bytes.Equal(contents(t, a), contents(t, b)) {
		t.Errorf("%s the fork is another disk than the one that was cut", when)
	}
}

func openLog(t *testing.T, name string) *Log {
	t.Helper()
	l, err := OpenLog(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestAltered leaves out flushes and moves a write behind what came after it.
func TestAltered(t *testing.T) {
	dir, base := t.TempDir(), newBase(t)
	d := open(t, base, filepath.Join(dir, "disk"), Options{Size: testSize, Log: filepath.Join(dir, "log")})
	at := func(sector int64) step {
		return step{Op{Write, true, sector * Sector, Sector}, bytes.Repeat([]byte{byte(sector)}, Sector)}
	}
	d.doAll(t, []step{at(1), {op: Op{Kind: Flush}}, at(2), {op: Op{Kind: Flush}}, at(3)})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, filepath.Join(dir, "log")).Altered([]int{0, 1, 4, 2})
	has := func(n int, seed uint64, want ...byte) {
		t.Helper()
		s, err := StateAt(l, bytes.NewReader(make([]byte, testSize)), n, seed)
		if err != nil {
			t.Fatal(err)
		}
		got := contents(t, s)
		for sector := range byte(4) {
			if there := got[int(sector)*Sector] == sector && sector > 0; there != slices.Contains(want, sector) {
				t.Errorf("after %d operations, seed %d: sector %d is there: %v", n, seed, sector, there)
			}
		}
	}
	has(2, KeepNone, 1)
	has(3, KeepAll, 1, 3)
	has(4, KeepAll, 1, 2, 3)
	has(4, KeepNone, 1)
}
