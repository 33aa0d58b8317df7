package slot_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/image/verity"
)

const mib = int64(1) << 20

// root is what one release has in a slot.
type root struct {
	data, tree []byte
	hash       string
}

func newRoot(t testing.TB, seed uint64, blocks int) root {
	t.Helper()
	r := root{data: make([]byte, blocks*verity.BlockSize)}
	src := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = src.Read(r.data)
	var w bytes.Buffer
	hash, err := verity.Write(&w, bytes.NewReader(r.data), int64(len(r.data)), verity.Options{Salt: []byte("salt"), UUID: [16]byte{byte(seed)}})
	if err != nil {
		t.Fatal(err)
	}
	r.tree, r.hash = w.Bytes(), hex.EncodeToString(hash[:])
	return r
}

func source(b []byte) slot.Source {
	return slot.Source{
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		Raw:  store.Content{Digest: store.FromBytes(b), Size: int64(len(b))},
	}
}

const (
	rootB   = "00112233-4455-6677-8899-0000000000b0"
	verityB = "00112233-4455-6677-8899-0000000000b1"
)

// layout is a node's disk whose slot a has the root's identifiers.
func layout(t testing.TB, a root) disk.Layout {
	t.Helper()
	raw, err := hex.DecodeString(a.hash)
	if err != nil {
		t.Fatal(err)
	}
	rootA, verityA := disk.RootGUIDs([32]byte(raw))
	content := func(b []byte) func(io.WriterAt) error {
		return func(w io.WriterAt) error { _, err := w.WriteAt(b, 0); return err }
	}
	return disk.Layout{GUID: "00112233-4455-6677-8899-000000000000", Partitions: []disk.Partition{
		{Name: "holdfast-esp", TypeGUID: disk.TypeESP, PartGUID: "00112233-4455-6677-8899-000000000001", Size: disk.MinESPSize},
		{Name: "holdfast-root-a", TypeGUID: disk.TypeRootX86, PartGUID: rootA, Size: 4 * mib, Content: content(a.data)},
		{Name: "holdfast-verity-a", TypeGUID: disk.TypeRootX86Verity, PartGUID: verityA, Size: mib, Content: content(a.tree)},
		{Name: "holdfast-root-b", TypeGUID: disk.TypeRootX86, PartGUID: rootB, Size: 4 * mib},
		{Name: "holdfast-verity-b", TypeGUID: disk.TypeRootX86Verity, PartGUID: verityB, Size: mib},
	}}
}

func newDisk(t testing.TB, l disk.Layout) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := disk.Write(name, l); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func slotsOf(t testing.TB, f *os.File) []slot.Slot {
	t.Helper()
	size, err := slot.Size(f)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := disk.ReadGPT(f, size)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := slot.Slots(parts)
	if err != nil {
		t.Fatal(err)
	}
	return slots
}

// A new root goes into the idle slot, and is found there.
func TestFillAndFind(t *testing.T) {
	ctx := context.Background()
	old, new := newRoot(t, 1, 300), newRoot(t, 2, 500)
	f := newDisk(t, layout(t, old))
	idle, err := slot.Idle(slotsOf(t, f), old.hash)
	if err != nil || idle.Name != "b" {
		t.Fatalf("idle is %q, %v", idle.Name, err)
	}
	var last, total int64
	progress := func(done, all int64) {
		if done < last {
			t.Errorf("progress goes back from %d to %d", last, done)
		}
		last, total = done, all
	}
	if err := slot.Fill(ctx, f, idle, source(new.data), source(new.tree), progress); err != nil {
		t.Fatal(err)
	}
	if last != total || total != 2*int64(len(new.data)+len(new.tree)) {
		t.Errorf("progress ends at %d of %d", last, total)
	}
	if _, ok := slot.Find(slotsOf(t, f), new.hash); ok {
		t.Error("found before its identifiers were set")
	}
	size, _ := slot.Size(f)
	if err := slot.SetGUIDs(f, size, idle, new.hash); err != nil {
		t.Fatal(err)
	}
	got, ok := slot.Find(slotsOf(t, f), new.hash)
	if !ok || got.Name != "b" {
		t.Fatalf("found %q, %v", got.Name, ok)
	}
	if err := slot.Check(ctx, f, got, new.hash); err != nil {
		t.Error(err)
	}
	running, _ := slot.Find(slotsOf(t, f), old.hash)
	if err := slot.Check(ctx, f, running, old.hash); err != nil {
		t.Errorf("the other slot: %v", err)
	}
	if idle, err = slot.Idle(slotsOf(t, f), new.hash); err != nil || idle.Name != "a" {
		t.Errorf("then idle is %q, %v", idle.Name, err)
	}
}

func TestCheckSeesEveryChange(t *testing.T) {
	r := newRoot(t, 1, 300)
	f := newDisk(t, layout(t, r))
	s := slotsOf(t, f)[0]
	for name, at := range map[string]int64{
		"first of the root": s.Root.Start, "last of the root": s.Root.Start + int64(len(r.data)) - 1,
		"superblock": s.Verity.Start + 72, "size": s.Verity.Start + 79, "tree": s.Verity.Start + 5000,
	} {
		b := []byte{0}
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		flip := func() {
			b[0] ^= 0x40
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		flip()
		if err := slot.Check(context.Background(), f, s, r.hash); !errors.Is(err, verity.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
		flip()
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := slot.Check(ended, f, s, r.hash); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	if err := slot.Check(context.Background(), f, s, "xyz"); err == nil {
		t.Error("no root hash: no error")
	}
}

func TestFillRefuses(t *testing.T) {
	r := newRoot(t, 1, 10)
	f := newDisk(t, layout(t, r))
	before := readAll(t, f)
	b := slotsOf(t, f)[1]
	changed := func(s slot.Source, change func(*slot.Source)) slot.Source { change(&s); return s }
	fill := func(x slot.Source) error { return slot.Fill(context.Background(), f, b, x, source(r.tree), nil) }
	for name, c := range map[string]struct {
		src  slot.Source
		want error
	}{
		"other bytes": {changed(source(r.data), func(s *slot.Source) { s.Raw.Digest = store.FromBytes(nil) }), store.ErrMismatch},
		"too long":    {changed(source(r.data), func(s *slot.Source) { s.Raw.Size-- }), store.ErrMismatch},
		"too short":   {changed(source(r.data), func(s *slot.Source) { s.Raw.Size++ }), io.ErrUnexpectedEOF},
		"no source":   {slot.Source{Open: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }, Raw: source(r.data).Raw}, os.ErrNotExist},
	} {
		if err := fill(c.src); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fill(slot.Source{Raw: store.Content{Size: b.Root.Size + 1}}); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("larger than the partition: %v", err)
	}
	after := readAll(t, f)
	clear(before[b.Root.Start:][:b.Root.Size])
	clear(after[b.Root.Start:][:b.Root.Size])
	if !bytes.Equal(before, after) {
		t.Error("bytes outside of the slot have changed")
	}
}

func readAll(t testing.TB, f *os.File) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSlotsRefuses(t *testing.T) {
	parts := layout(t, newRoot(t, 1, 1)).Partitions
	if _, err := slot.Slots(parts[:4]); err == nil || !strings.Contains(err.Error(), "0 partitions holdfast-verity-b") {
		t.Errorf("one missing: %v", err)
	}
	if _, err := slot.Slots(append(parts, parts[1])); err == nil || !strings.Contains(err.Error(), "2 partitions holdfast-root-a") {
		t.Errorf("one twice: %v", err)
	}
	parts[1].TypeGUID = disk.TypeLinux
	if _, err := slot.Slots(parts); err == nil || !strings.Contains(err.Error(), "has type") {
		t.Errorf("another type: %v", err)
	}
	if _, err := slot.Idle(nil, strings.Repeat("0", 64)); err == nil {
		t.Error("idle of none")
	}
}
