package disk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/disk"
)

// memDisk keeps what was written since the last flush apart.
type memDisk struct {
	b       []byte
	pending [][2]any // offset and sector
	cuts    func(pending [][2]any, b []byte)
}

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(d.b).ReadAt(p, off)
	for _, w := range d.pending { // sectors, as all reads are of a sector or more
		if at := w[0].(int64) - off; at >= 0 && at < int64(len(p)) {
			copy(p[at:], w[1].([]byte))
		}
	}
	return n, err
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.pending = append(d.pending, [2]any{off, bytes.Clone(p)})
	return len(p), nil
}

func (d *memDisk) Sync() error {
	if d.cuts != nil {
		d.cuts(d.pending, d.b)
	}
	d.b, d.pending = d.apply(d.pending), nil
	return nil
}

func (d *memDisk) apply(writes [][2]any) []byte {
	if len(writes) == 0 {
		return d.b
	}
	b := bytes.Clone(d.b)
	for _, w := range writes {
		copy(b[w[0].(int64):], w[1].([]byte))
	}
	return b
}

// small is a node's disk without content.
func small(t *testing.T) ([]byte, map[string]string) {
	t.Helper()
	l := disk.Layout{GUID: guid(0)}
	for i, name := range []string{"esp", "root-a", "verity-a", "root-b", "verity-b", "seed"} {
		l.Partitions = append(l.Partitions, disk.Partition{Name: name, TypeGUID: disk.TypeLinux, PartGUID: guid(i + 1), Size: 4096})
	}
	return read(t, write(t, l)), map[string]string{"root-b": guid(0xb1), "verity-b": guid(0xb2)}
}

func guidsOf(t *testing.T, b []byte) string {
	t.Helper()
	parts, err := disk.ReadGPT(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range parts {
		out = append(out, p.PartGUID)
	}
	return strings.Join(out, " ")
}

// Whichever sectors of those that wait for a flush a power cut keeps, the table
// is the old or the new one, and setting it again works.
func TestSetGUIDsSurvivesEveryCut(t *testing.T) {
	before, guids := small(t)
	size := int64(len(before))
	d := &memDisk{b: before}
	if err := disk.SetGUIDs(d, size, guids); err != nil {
		t.Fatal(err)
	}
	old, new := guidsOf(t, before), guidsOf(t, d.b)
	if strings.Count(new, "0000000000b") != 2 {
		t.Fatalf("GUIDs %s", new)
	}
	states, seen := 0, map[string]int{}
	d = &memDisk{b: before, cuts: func(pending [][2]any, b []byte) {
		for mask := range 1 << len(pending) {
			var kept [][2]any
			for i, w := range pending {
				if mask>>i&1 == 1 {
					kept = append(kept, w)
				}
			}
			after := &memDisk{b: (&memDisk{b: b}).apply(kept)}
			got := guidsOf(t, after.b)
			if got != old && got != new {
				t.Fatalf("a third table: %s", got)
			}
			seen[got]++
			states++
			if _, err := disk.RepairGPT(after, size); err != nil {
				t.Fatal(err)
			}
			if guidsOf(t, after.b) != got {
				t.Error("repair changes what is read")
			}
			if which, err := disk.RepairGPT(after, size); which != "" || err != nil {
				t.Errorf("a second repair: %q, %v", which, err)
			}
			if err := disk.SetGUIDs(after, size, guids); err != nil || guidsOf(t, after.b) != new {
				t.Errorf("set again: %v", err)
			}
		}
	}}
	if err := disk.SetGUIDs(d, size, guids); err != nil {
		t.Fatal(err)
	}
	if states != 16 || seen[old] == 0 || seen[new] == 0 { // two flushes of three sectors
		t.Errorf("%d states, %v", states, seen)
	}
	if err := disk.SetGUIDs(&memDisk{b: d.b, cuts: func([][2]any, []byte) { t.Error("a flush for nothing") }}, size, guids); err != nil {
		t.Error(err)
	}
}

func TestRepairGPT(t *testing.T) {
	sgdisk := tool(t, "sgdisk")
	good, guids := small(t)
	for name, c := range map[string]struct {
		spoil func(b []byte) []byte
		want  string
	}{
		"whole":           {func(b []byte) []byte { return b }, ""},
		"no first header": {func(b []byte) []byte { clear(b[512:1024]); return b }, "primary"},
		"first entries":   {func(b []byte) []byte { b[1024+130] ^= 1; return b }, "primary"},
		"no backup":       {func(b []byte) []byte { clear(b[len(b)-512:]); return b }, "backup"},
		"backup entries":  {func(b []byte) []byte { b[len(b)-33*512+20] ^= 1; return b }, "backup"},
		"a larger disk":   {func(b []byte) []byte { return append(b, make([]byte, mib)...) }, "backup"},
	} {
		d := &memDisk{b: c.spoil(bytes.Clone(good))}
		size := int64(len(d.b))
		which, err := disk.RepairGPT(d, size)
		if err != nil || which != c.want {
			t.Errorf("%s: wrote %q, %v", name, which, err)
			continue
		}
		if guidsOf(t, d.b) != guidsOf(t, good) {
			t.Errorf("%s: other GUIDs", name)
		}
		if name != "a larger disk" && !bytes.Equal(d.b, good) {
			t.Errorf("%s: not as it was", name)
		}
		if err := disk.SetGUIDs(d, size, guids); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		file := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(file, d.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := sgdisk("-v", file); !strings.Contains(out, "No problems found") {
			t.Errorf("%s: %s", name, out)
		}
		if out := sgdisk("-i", "4", file); !strings.Contains(strings.ToLower(out), guids["root-b"]) {
			t.Errorf("%s: %s", name, out)
		}
	}
	both := bytes.Clone(good)
	clear(both[512:1024])
	clear(both[len(both)-512:])
	if _, err := disk.RepairGPT(&memDisk{b: both}, int64(len(both))); err == nil || !strings.Contains(err.Error(), "backup: no GPT") {
		t.Errorf("neither is valid: %v", err)
	}
	if _, err := disk.RepairGPT(&memDisk{}, 100); err == nil {
		t.Error("no disk: no error")
	}
}

// A partition that reaches to the disk's end leaves no room for the backup.
func TestSetGUIDsKeepsOffPartitions(t *testing.T) {
	b, guids := small(t)
	le := binary.LittleEndian
	h := b[512:1024]
	last := uint64(len(b)/512 - 1)
	le.PutUint64(h[48:], last)
	le.PutUint64(b[1024+5*128+40:], last)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(b[1024:][:128*128]))
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	d := &memDisk{b: b}
	if err := disk.SetGUIDs(d, int64(len(b)), guids); err == nil || !strings.Contains(err.Error(), "partition seed lies where") {
		t.Errorf("got %v", err)
	}
	if len(d.pending) != 0 {
		t.Error("something was written")
	}
}

func TestSetGUIDsRefuses(t *testing.T) {
	b, _ := small(t)
	for want, guids := range map[string]map[string]string{
		"no partition nobody": {"nobody": guid(9)},
		"is not a GUID":       {"root-a": "x"},
		"is that of esp":      {"root-a": guid(1)},
	} {
		d := &memDisk{b: b, cuts: func([][2]any, []byte) { t.Error("a flush") }}
		if err := disk.SetGUIDs(d, int64(len(b)), guids); err == nil || !strings.Contains(err.Error(), want) || len(d.pending) != 0 {
			t.Errorf("%s: %v, %d writes", want, err, len(d.pending))
		}
	}
	// Exchanging two is allowed.
	d := &memDisk{b: b}
	if err := disk.SetGUIDs(d, int64(len(b)), map[string]string{"root-a": guid(4), "root-b": guid(2)}); err != nil {
		t.Error(err)
	}
	if got := strings.Fields(guidsOf(t, d.b)); !slices.Equal(got[1:4], []string{guid(4), guid(3), guid(2)}) {
		t.Errorf("GUIDs %s", got)
	}
}

func FuzzRepairGPT(f *testing.F) {
	f.Add(uint16(600), byte(1))
	f.Add(uint16(1100), byte(0xff))
	l := disk.Layout{GUID: guid(0), Partitions: []disk.Partition{{Name: "a", TypeGUID: disk.TypeLinux, PartGUID: guid(1), Size: 4096}}}
	name := filepath.Join(f.TempDir(), "disk")
	if err := disk.Write(name, l); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, at uint16, flip byte) {
		b := bytes.Clone(good)
		b[at] ^= flip
		h := b[512:1024]
		if at >= 512 && at < 1024 { // let the numbers through
			binary.LittleEndian.PutUint32(h[16:], 0)
			binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		}
		d := &memDisk{b: b}
		if _, err := disk.RepairGPT(d, int64(len(b))); err != nil {
			return
		}
		if !bytes.Equal(d.b[mib:2*mib], good[mib:2*mib]) {
			t.Error("a partition was written")
		}
		if got := fmt.Sprint(disk.ReadGPT(bytes.NewReader(d.b), int64(len(d.b)))); strings.Contains(got, "cannot") {
			t.Error(got)
		}
	})
}
