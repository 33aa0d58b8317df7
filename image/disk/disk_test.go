package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.dev/holdfast/image/disk"
)

const mib = int64(1) << 20

func tool(t *testing.T, name string) func(args ...string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		t.Skip("no " + name + " on this host")
	}
	return func(args ...string) string {
		t.Helper()
		out, err := exec.Command(file, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func guid(n int) string { return fmt.Sprintf("00112233-4455-6677-8899-%012x", n) }

// sample has a partition from a sparse file, one that writes itself, an empty
// one, and one whose size is no multiple of the alignment.
func sample(t *testing.T) disk.Layout {
	t.Helper()
	src := filepath.Join(t.TempDir(), "root")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("root"), 3*mib); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5 * mib); err != nil {
		t.Fatal(err)
	}
	write := func(w io.WriterAt) error {
		b := bytes.Repeat([]byte("x"), 20000)
		if _, err := w.WriteAt(b, 100); err != nil {
			return err
		}
		_, err := w.WriteAt(make([]byte, 10000), 4000)
		return err
	}
	root, verity := disk.RootGUIDs([32]byte{0: 0xab, 31: 0xcd})
	return disk.Layout{GUID: guid(0), Partitions: []disk.Partition{
		{Name: "esp", TypeGUID: disk.TypeESP, PartGUID: guid(1), Size: 40 * mib},
		{Name: "root-a", TypeGUID: disk.TypeRootX86, PartGUID: root, Size: 8*mib + 4096, Attributes: disk.AttributeReadOnly, Content: disk.FromFile(src)},
		{Name: "verity-a", TypeGUID: disk.TypeRootX86Verity, PartGUID: verity, Size: mib, Content: write},
		{Name: "holdfast-seed", TypeGUID: disk.TypeLinux, PartGUID: guid(4), Size: 2 * mib},
		{Name: "holdfast-var", TypeGUID: disk.TypeVar, PartGUID: guid(5), Size: 64 * mib},
	}}
}

func write(t *testing.T, l disk.Layout) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	if err := disk.Write(name, l); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWrite(t *testing.T) {
	l := sample(t)
	name := write(t, l)
	b := read(t, name)
	if !bytes.Equal(b, read(t, write(t, l))) {
		t.Error("two disks of one layout differ")
	}
	parts, err := disk.ReadGPT(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(parts) != len(l.Partitions) {
		t.Fatalf("%d partitions, %v", len(parts), err)
	}
	end := int64(0)
	for i, p := range parts {
		want := l.Partitions[i]
		if p.Name != want.Name || p.TypeGUID != want.TypeGUID || p.PartGUID != want.PartGUID || p.Size != want.Size || p.Attributes != want.Attributes {
			t.Errorf("got %+v, want %+v", p, want)
		}
		if p.Start < end || p.Start%disk.Alignment != 0 {
			t.Errorf("%s begins at %d, the one before ends at %d", p.Name, p.Start, end)
		}
		end = p.Start + p.Size
	}
	root, verity := b[parts[1].Start:][:parts[1].Size], b[parts[2].Start:][:parts[2].Size]
	if !bytes.Equal(bytes.Trim(root, "\x00"), []byte("root")) || string(root[3*mib:3*mib+4]) != "root" {
		t.Error("the root partition has other content")
	}
	want := append(make([]byte, 100), bytes.Repeat([]byte("x"), 20000)...)
	clear(want[4000:14000])
	if !bytes.HasPrefix(verity, want) {
		t.Error("the verity partition has other content")
	}
	var st syscall.Stat_t
	if err := syscall.Stat(name, &st); err != nil || st.Blocks*512 > mib {
		t.Errorf("%d bytes are allocated, %v", st.Blocks*512, err)
	}
}

func TestSfdisk(t *testing.T) {
	sfdisk := tool(t, "sfdisk")
	l := sample(t)
	name := write(t, l)
	if out := sfdisk("--verify", name); !strings.Contains(out, "No errors detected") {
		t.Error(out)
	}
	dump := strings.ToLower(sfdisk("--dump", name))
	for _, p := range l.Partitions {
		for _, s := range []string{p.TypeGUID, p.PartGUID, `name="` + p.Name + `"`} {
			if !strings.Contains(dump, s) {
				t.Errorf("%s is not in\n%s", s, dump)
			}
		}
	}
	if !strings.Contains(dump, "label-id: "+guid(0)) {
		t.Errorf("no disk GUID in\n%s", dump)
	}
}

func TestWriteRefuses(t *testing.T) {
	fail := errors.New("cannot go on")
	for name, c := range map[string]struct {
		change func(*disk.Layout)
		want   string
	}{
		"disk GUID":    {func(l *disk.Layout) { l.GUID = "x" }, "not a GUID"},
		"type":         {func(l *disk.Layout) { l.Partitions[0].TypeGUID = "" }, "not a GUID"},
		"GUID twice":   {func(l *disk.Layout) { l.Partitions[1].PartGUID = strings.ToUpper(guid(1)) }, "same GUID"},
		"name twice":   {func(l *disk.Layout) { l.Partitions[1].Name = "esp" }, "a second esp"},
		"long name":    {func(l *disk.Layout) { l.Partitions[1].Name = strings.Repeat("x", 37) }, "printable"},
		"no name":      {func(l *disk.Layout) { l.Partitions[1].Name = "" }, "printable"},
		"no size":      {func(l *disk.Layout) { l.Partitions[1].Size = 0 }, "size 0"},
		"odd size":     {func(l *disk.Layout) { l.Partitions[1].Size = 1000 }, "size 1000"},
		"huge":         {func(l *disk.Layout) { l.Partitions[1].Size = 1 << 62 }, "size"},
		"small disk":   {func(l *disk.Layout) { l.Size = 20 * mib }, "partitions need"},
		"all at once":  {func(l *disk.Layout) { l.GUID = ""; l.Partitions[2].Size = 1 }, "size 1 "},
		"content":      {func(l *disk.Layout) { l.Partitions[1].Content = func(io.WriterAt) error { return fail } }, "root-a: cannot go on"},
		"no file":      {func(l *disk.Layout) { l.Partitions[1].Content = disk.FromFile("does-not-exist") }, "root-a: open"},
		"large source": {func(l *disk.Layout) { l.Partitions[1].Size = mib }, "root-a: cannot write"},
		"outside": {func(l *disk.Layout) {
			l.Partitions[1].Content = func(w io.WriterAt) error { _, err := w.WriteAt([]byte("x"), 1<<40); return err }
		}, "root-a: cannot write"},
	} {
		l := sample(t)
		c.change(&l)
		dir := t.TempDir()
		err := disk.Write(filepath.Join(dir, "disk.raw"), l)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

func TestReadGPTTakesTheBackup(t *testing.T) {
	b := read(t, write(t, sample(t)))
	want, err := disk.ReadGPT(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	b[512+60] ^= 1
	got, err := disk.ReadGPT(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(got) != len(want) {
		t.Errorf("got %v, %v", got, err)
	}
	b[len(b)-1024] ^= 1 // in the backup's entries
	if _, err := disk.ReadGPT(bytes.NewReader(b), int64(len(b))); err == nil {
		t.Error("both copies are damaged, no error")
	}
	for _, size := range []int64{0, 511, 512, 1024, 5000} {
		if _, err := disk.ReadGPT(bytes.NewReader(b), size); err == nil {
			t.Errorf("a disk of %d bytes: no error", size)
		}
	}
}

func FuzzReadGPT(f *testing.F) {
	dir := f.TempDir()
	name := filepath.Join(dir, "d")
	if err := disk.Write(name, disk.Layout{GUID: guid(0), Partitions: []disk.Partition{
		{Name: "a", TypeGUID: disk.TypeLinux, PartGUID: guid(1), Size: 4096}}}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:34*512])
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := disk.ReadGPT(bytes.NewReader(b), 3*mib)
		for _, p := range parts {
			if err != nil || p.Start < 0 || p.Size <= 0 || p.Start+p.Size > 3*mib {
				t.Errorf("partition %+v, %v", p, err)
			}
		}
	})
}

func TestQcow2(t *testing.T) {
	qemuImg := tool(t, "qemu-img")
	raw := write(t, sample(t))
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, name := range []string{a, b} {
		if err := disk.WriteQcow2(name, raw); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, a), read(t, b)) {
		t.Error("two images differ")
	}
	if out := qemuImg("check", "-f", "qcow2", a); !strings.Contains(out, "No errors were found") {
		t.Error(out)
	}
	if out := qemuImg("compare", "-f", "raw", "-F", "qcow2", raw, a); !strings.Contains(out, "identical") {
		t.Error(out)
	}
	if n := len(read(t, a)); int64(n) > mib {
		t.Errorf("%d bytes", n)
	}
	// The same bytes without holes give the same image.
	full := filepath.Join(dir, "full")
	if err := os.WriteFile(full, read(t, raw), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteQcow2(b, full); err != nil || !bytes.Equal(read(t, a), read(t, b)) {
		t.Errorf("the image depends on the holes of the raw one (%v)", err)
	}
}

// Full disks of awkward sizes: an end within a cluster, more than one L2 table
// and more than one block of reference counts.
func TestQcow2Sizes(t *testing.T) {
	qemuImg := tool(t, "qemu-img")
	for _, size := range []int64{512, 65536, 65536 + 512, 513 * mib} {
		dir := t.TempDir()
		raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out")
		f, err := os.Create(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{0, size - 1} {
			if _, err := f.WriteAt([]byte{1}, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := disk.WriteQcow2(out, raw); err != nil {
			t.Fatal(err)
		}
		qemuImg("check", "-f", "qcow2", out)
		qemuImg("compare", "-f", "raw", "-F", "qcow2", raw, out)
	}
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteQcow2(filepath.Join(dir, "out"), empty); err == nil {
		t.Error("100 bytes: no error")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

func TestSgdisk(t *testing.T) {
	sgdisk := tool(t, "sgdisk")
	if out := sgdisk("--verify", write(t, sample(t))); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
}
