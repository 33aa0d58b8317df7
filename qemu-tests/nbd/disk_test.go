package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testSize = chunk + 1<<20

// newBase is a raw image that is shorter than the disks over it.
func newBase(t testing.TB) string {
	t.Helper()
	b := make([]byte, 1<<20)
	for s := range len(b) / Sector {
		binary.LittleEndian.PutUint64(b[s*Sector:], uint64(1)<<40+uint64(s))
	}
	name := filepath.Join(t.TempDir(), "base.raw")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t testing.TB, base, overlay string, o Options) *Disk {
	t.Helper()
	d, err := Open(base, overlay, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func contents(t testing.TB, r io.ReaderAt) []byte {
	t.Helper()
	b := make([]byte, testSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// model knows, for each sector, what it reads as and what it may read as after
// a power cut. A value is the sector's first eight bytes; all are different.
type model struct {
	now   []uint64
	may   [][]uint64
	stamp uint64
}

func newModel(disk []byte) *model {
	m := &model{now: make([]uint64, len(disk)/Sector), may: make([][]uint64, len(disk)/Sector)}
	for s := range m.now {
		m.now[s] = binary.LittleEndian.Uint64(disk[s*Sector:])
		m.may[s] = []uint64{m.now[s]}
	}
	return m
}

// random does one random operation on the disk and the model.
func (m *model) random(t *testing.T, r *rand.Rand, d *Disk) {
	t.Helper()
	op := Op{Kind: Write, FUA: r.IntN(10) == 0}
	switch n := r.IntN(100); {
	case n < 5:
		op.Kind = Flush
	case n < 10:
		op.Kind = Trim
	case n < 15:
		op.Kind = Zero
	}
	first := r.IntN(len(m.now))
	count := min(1+r.IntN(1<<r.IntN(10)), len(m.now)-first)
	op.Off, op.Len = int64(first)*Sector, int64(count)*Sector
	var data []byte
	if op.Kind == Write {
		data = make([]byte, op.Len)
	}
	for s := first; s < first+count && op.Kind != Flush; s++ {
		m.now[s] = 0
		if op.Kind == Write {
			m.stamp++
			m.now[s] = m.stamp
			binary.LittleEndian.PutUint64(data[(s-first)*Sector:], m.stamp)
		}
		if op.FUA {
			m.may[s] = nil
		}
		m.may[s] = append(m.may[s], m.now[s])
	}
	if op.Kind == Flush {
		op.FUA = false
		for s := range m.may {
			m.may[s] = []uint64{m.now[s]}
		}
	}
	if err := d.Do(op, data); err != nil {
		t.Fatal(err)
	}
}

func (m *model) check(t *testing.T, disk []byte, cut bool) {
	t.Helper()
	for s := range m.now {
		v := binary.LittleEndian.Uint64(disk[s*Sector:])
		if !cut && v != m.now[s] || cut && !slices.Contains(m.may[s], v) {
			t.Fatalf("sector %d reads as %d, not as %d; after a cut as one of %d", s, v, m.now[s], m.may[s])
		}
	}
}

// TestCut does random operations and cuts the power, again and again: what was
// flushed is there, all else is old or new sector by sector, and the log of
// each run gives the same disk.
func TestCut(t *testing.T) {
	dir, base := t.TempDir(), newBase(t)
	name := filepath.Join(dir, "disk")
	r := rand.New(rand.NewPCG(1, 2))
	var changed int
	for round := range 30 {
		d := open(t, base, name, Options{Size: testSize})
		before := contents(t, d)
		m := newModel(before)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		o := Options{Log: filepath.Join(dir, "log"+string(rune('A'+round)))}
		if round%2 == 1 {
			o = Options{Cache: 100 << 10} // what a full cache writes by itself is in no log
		}
		d = open(t, base, name, o)
		for range r.IntN(150) {
			m.random(t, r, d)
		}
		m.check(t, contents(t, d), false)
		n, seed := d.Ops(), uint64(round)
		if err := d.Cut(seed); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadAt(make([]byte, Sector), 0); !errors.Is(err, ErrOff) {
			t.Errorf("reading after the cut: %v", err)
		}
		again := open(t, base, name, Options{})
		after := contents(t, again)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		m.check(t, after, seed != KeepAll)
		if !slices.Equal(newModel(after).now, m.now) {
			changed++
		}
		if o.Log != "" {
			sameAsLog(t, o.Log, before, after, n, seed)
		}
	}
	if changed < 15 {
		t.Errorf("only %d cuts of 30 lost anything", changed)
	}
}

func sameAsLog(t *testing.T, name string, before, after []byte, n int, seed uint64) {
	t.Helper()
	l, err := OpenLog(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Len() != n || l.Size() != testSize {
		t.Fatalf("%d operations in the log, not %d", l.Len(), n)
	}
	s, err := StateAt(l, bytes.NewReader(before), n, seed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, s), after) {
		t.Error("the log gives another disk than the cut")
	}
}

// TestReplay looks at every place of a log, forwards and in other orders.
func TestReplay(t *testing.T) {
	dir, base := t.TempDir(), newBase(t)
	log := filepath.Join(dir, "log")
	d := open(t, base, filepath.Join(dir, "disk"), Options{Size: testSize, Log: log})
	before := contents(t, d)
	r := rand.New(rand.NewPCG(3, 4))
	m := newModel(before)
	const n = 60
	var prefixes [][]byte
	var legal [][][]uint64
	for i := range n + 1 {
		prefixes = append(prefixes, contents(t, d))
		legal = append(legal, slices.Clone(m.may))
		for s := range m.may {
			m.may[s] = slices.Clone(m.may[s])
		}
		if i < n {
			m.random(t, r, d)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(log)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rep := l.Replay(bytes.NewReader(before))
	var kept []*State
	for i := range n + 1 {
		if err := rep.To(i); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, rep.State(KeepAll))
		for seed := range uint64(4) {
			s := rep.State(seed + 1)
			(&model{now: make([]uint64, len(m.now)), may: legal[i]}).check(t, contents(t, s), true)
		}
	}
	for i, s := range kept { // they stay as they were
		if !bytes.Equal(contents(t, s), prefixes[i]) {
			t.Fatalf("another disk after %d operations", i)
		}
		if i > 0 && s.Key(0, testSize) == kept[i-1].Key(0, testSize) && !bytes.Equal(prefixes[i], prefixes[i-1]) {
			t.Errorf("one key for two disks, after %d operations", i)
		}
	}
	if err := rep.To(7); err != nil || !bytes.Equal(contents(t, rep.State(KeepAll)), prefixes[7]) {
		t.Error("stepping back:", err)
	}
	if a, b := rep.State(5), rep.State(5); a.Key(0, testSize) != b.Key(0, testSize) {
		t.Error("one state has two keys")
	}
	if err := rep.To(n + 1); err == nil {
		t.Error("more operations than there are")
	}
	odd := make([]byte, 3000)
	if k, err := kept[n].ReadAt(odd, testSize-1000); k != 1000 || err != io.EOF || !bytes.Equal(odd[:k], prefixes[n][testSize-1000:]) {
		t.Errorf("reading over the end: %d, %v", k, err)
	}
}

func TestDamagedLog(t *testing.T) {
	dir, base := t.TempDir(), newBase(t)
	log := filepath.Join(dir, "log")
	d := open(t, base, filepath.Join(dir, "disk"), Options{Log: log})
	if err := d.Do(Op{Write, false, 0, Sector}, make([]byte, Sector)); err != nil {
		t.Fatal(err)
	}
	d.Close()
	good, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"magic":     func(b []byte) []byte { b[0]++; return b },
		"kind":      func(b []byte) []byte { b[logHeader] = 9; return b },
		"range":     func(b []byte) []byte { b[logHeader+14] = 0x7f; return b },
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"half head": func(b []byte) []byte { return append(b, 1) },
	} {
		if err := os.WriteFile(log, change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := OpenLog(log); err == nil {
			l.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir, base := t.TempDir(), newBase(t)
	name := filepath.Join(dir, "disk")
	d := open(t, base, name, Options{Size: testSize})
	refused := func(want, base, name string, o Options) {
		t.Helper()
		if d, err := Open(base, name, o); err == nil {
			d.Close()
			t.Errorf("accepted where it should say %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
	refused("in use", base, name, Options{})
	d.Close()
	refused("keeps its size", base, name, Options{Size: 2 * testSize})
	refused("over a base", base, name+"2", Options{Size: Sector})
	refused("no such file", base+"none", name, Options{})
	qcow := filepath.Join(dir, "qcow2")
	if err := os.WriteFile(qcow, []byte("QFI\xfb and so on"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("qcow2", qcow, name+"2", Options{})
	other := newBase(t)
	if err := os.WriteFile(other, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("not made over", other, name, Options{})
	for _, n := range []string{"disk2", "disk2.map"} {
		if _, err := os.Stat(filepath.Join(dir, n)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind", n)
		}
	}
	d = open(t, base, name, Options{})
	for _, op := range []Op{{Write, false, 1, Sector}, {Trim, false, testSize, Sector}, {Zero, false, -Sector, Sector}, {Zero, false, Sector, 1 << 62}, {Kind: 9}} {
		if err := d.Do(op, make([]byte, Sector)); err == nil {
			t.Errorf("%+v was done", op)
		}
	}
}
