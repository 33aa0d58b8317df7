package slot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/rootfs"
)

// overlay is a device in memory over bytes that stay as they are.
type overlay struct {
	base    []byte
	sectors map[int64][]byte
	log     []int64 // sectors, in the order of writes
}

func newOverlay(base []byte) *overlay { return &overlay{base: base, sectors: map[int64][]byte{}} }

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(o.base).ReadAt(p, off)
	for at := off / fatSector * fatSector; at < off+int64(n); at += fatSector {
		if s, ok := o.sectors[at]; ok {
			copy(p[max(at-off, 0):n], s[max(off-at, 0):])
		}
	}
	return n, err
}

func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += fatSector {
		o.sectors[off+int64(i)] = bytes.Clone(p[i : i+fatSector])
		o.log = append(o.log, off+int64(i))
	}
	return len(p), nil
}

func (o *overlay) Sync() error { return nil }

func (o *overlay) bytes() []byte {
	b := bytes.Clone(o.base)
	for at, s := range o.sectors {
		copy(b[at:], s)
	}
	return b
}

// equal reports whether two devices over the same bytes have the same content.
func (o *overlay) equal(p *overlay) bool {
	a, b := make([]byte, fatSector), make([]byte, fatSector)
	for _, at := range slices.Concat(slices.Collect(maps.Keys(o.sectors)), slices.Collect(maps.Keys(p.sectors))) {
		_, _ = o.ReadAt(a, at)
		_, _ = p.ReadAt(b, at)
		if !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

// patch changes bytes.
func (o *overlay) patch(at int64, b []byte) {
	for i := range b {
		s := make([]byte, fatSector)
		sector := (at + int64(i)) / fatSector * fatSector
		_, _ = o.ReadAt(s, sector)
		s[at+int64(i)-sector] = b[i]
		o.sectors[sector] = s
	}
}

func writeESP(t testing.TB, size int64, files map[string][]byte) []byte {
	t.Helper()
	tree := rootfs.New(1)
	for name, b := range files {
		if err := tree.WriteFile(name, b, 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "esp")
	if err := disk.WriteESP(name, size, tree, 1); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

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

func fsck(t *testing.T, b []byte) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "fsck.fat")("-n", "-v", name)
}

// all reads every file of the tree.
func (f *fat) all(dir uint32, at string, depth int, out map[string][]byte) error {
	files, err := f.directory(dir)
	if err != nil {
		return err
	}
	for _, x := range files {
		name := path.Join(at, x.name)
		switch {
		case x.name == "." || x.name == ".." || len(out) > 1000 || depth > 4:
		case x.dir:
			err = f.all(x.first, name, depth+1, out)
		case x.size <= 1<<20:
			var e []extent
			if e, err = f.chain(x.first, x.size); err == nil {
				out[name], err = f.read(e)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func sampleFiles() map[string][]byte {
	files := map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI":            bytes.Repeat([]byte("boot"), 30000),
		"EFI/Linux/holdfast-1.efi":        bytes.Repeat([]byte("kernel and more "), 50_000),
		"loader/a-long-name-of-a-file.md": []byte("x"),
		"loader/a-long-name-of-two.md":    []byte("y"),
		"loader/empty":                    nil,
		"loader/.hidden file, odd [1].a":  []byte("3"),
	}
	for i := range 300 {
		files[fmt.Sprintf("many/a-file-with-a-long-name-%d.txt", i)] = []byte{byte(i)}
	}
	return files
}

func same(t *testing.T, b []byte, want map[string][]byte) {
	t.Helper()
	f, err := openFAT(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	if err := f.all(f.root, "", 0, got); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for name, data := range want {
		if !bytes.Equal(got[name], data) {
			t.Errorf("%s: %d bytes, want %d, or others", name, len(got[name]), len(data))
		}
	}
}

func TestReadsWhatWeWrite(t *testing.T) {
	for _, size := range []int64{disk.MinESPSize, 300 << 20} {
		same(t, writeESP(t, size, sampleFiles()), sampleFiles())
	}
}

func TestReadsWhatMtoolsWrite(t *testing.T) {
	mkfs, mcopy, mdel, mren := tool(t, "mkfs.fat"), tool(t, "mcopy"), tool(t, "mdel"), tool(t, "mren")
	dir := t.TempDir()
	name := filepath.Join(t.TempDir(), "esp")
	mkfs("-F", "32", "-s", "2", "-C", name, fmt.Sprint(80<<10))
	want := sampleFiles()
	for file, b := range want {
		if err := os.MkdirAll(filepath.Join(dir, path.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, top := range []string{"EFI", "loader", "many"} {
		mcopy("-s", "-i", name, filepath.Join(dir, top), "::")
	}
	for i := range 100 { // so that what comes next is in pieces
		file := fmt.Sprintf("many/a-file-with-a-long-name-%d.txt", i*3)
		mdel("-i", name, "::"+file)
		delete(want, file)
	}
	mcopy("-i", name, filepath.Join(dir, "EFI/Linux/holdfast-1.efi"), "::EFI/Linux/holdfast-2.new")
	mren("-i", name, "::EFI/Linux/holdfast-2.new", "::EFI/Linux/holdfast-2+3.efi")
	want["EFI/Linux/holdfast-2+3.efi"] = want["EFI/Linux/holdfast-1.efi"]
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	same(t, b, want)
	f, _ := openFAT(bytes.NewReader(b), int64(len(b)))
	if x, err := f.find("efi/linux/HOLDFAST-2+3.efi"); err != nil || x.dir {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := f.find("EFI/BOOT/BOOTX64.EFI/x"); !errors.Is(err, errNoFile) {
		t.Error(err)
	}
}

func TestOpenFATRefuses(t *testing.T) {
	good := writeESP(t, disk.MinESPSize, nil)[:fatSector]
	size := disk.MinESPSize
	for name, at := range map[string]int{"signature": 510, "sector size": 11, "root entries": 17, "sectors": 35, "table": 39, "cluster": 13, "tables": 16} {
		b := bytes.Clone(good)
		b[at] ^= 0x7f
		if _, err := openFAT(bytes.NewReader(b), size); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := openFAT(bytes.NewReader(good), size-fatSector); err == nil {
		t.Error("a shorter partition: no error")
	}
	if _, err := openFAT(bytes.NewReader(good[:100]), size); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("no first sector: no error")
	}
}

// linux finds the directory of the entries, and where its files are.
func linux(t testing.TB, r io.ReaderAt, size int64) (*fat, map[string]file) {
	t.Helper()
	f, err := openFAT(r, size)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := f.find(EntryDir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := f.directory(dir.first)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]file{}
	for _, x := range files {
		out[x.name] = x
	}
	return f, out
}

// linkTo makes the entry from point to what to points to, as a rename does that
// was cut between its two halves.
func linkTo(t *testing.T, o *overlay, from, to string) {
	t.Helper()
	_, files := linux(t, o, int64(len(o.base)))
	x, y := files[from].slots, files[to].slots
	b := make([]byte, fatSlot)
	if _, err := o.ReadAt(b, y[len(y)-1]); err != nil {
		t.Fatal(err)
	}
	o.patch(x[len(x)-1]+20, b[20:22])
	o.patch(x[len(x)-1]+26, b[26:32])
}

func names(files map[string]file) string {
	var out []string
	for name := range files {
		if name != "." && name != ".." {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestNormalize(t *testing.T) {
	kernel := bytes.Repeat([]byte("kernel"), 50_000)
	entry := func(name string) string { return EntryDir + "/" + name }
	for name, c := range map[string]struct {
		files []string
		tear  func(t *testing.T, o *overlay)
		want  string
	}{
		"nothing to do":  {[]string{"holdfast-1.efi", "holdfast-2+3.efi"}, nil, "holdfast-1.efi holdfast-2+3.efi"},
		"temporary file": {[]string{"holdfast-1.efi", "holdfast-2.new"}, nil, "holdfast-1.efi"},
		"torn rename by the loader": {[]string{"holdfast-1.efi", "holdfast-2+3.efi", "holdfast-2+2-1.efi"},
			func(t *testing.T, o *overlay) { linkTo(t, o, "holdfast-2+2-1.efi", "holdfast-2+3.efi") }, "holdfast-1.efi holdfast-2+2-1.efi"},
		"torn rename by the agent": {[]string{"holdfast-1.efi", "holdfast-2.new", "holdfast-2+3.efi"},
			func(t *testing.T, o *overlay) { linkTo(t, o, "holdfast-2+3.efi", "holdfast-2.new") }, "holdfast-1.efi holdfast-2+3.efi"},
		"rename cut at its first step": {[]string{"holdfast-1.efi", "holdfast-2.new", "holdfast-2+3.efi"}, func(t *testing.T, o *overlay) {
			_, files := linux(t, o, int64(len(o.base)))
			at := files["holdfast-2+3.efi"].slots[2]
			o.patch(at+20, make([]byte, 2))
			o.patch(at+26, make([]byte, 6))
		}, "holdfast-1.efi"},
		"to zero": {[]string{"holdfast-2+0-1.efi", "holdfast-2+2-1.efi"},
			func(t *testing.T, o *overlay) { linkTo(t, o, "holdfast-2+2-1.efi", "holdfast-2+0-1.efi") }, "holdfast-2+0-1.efi"},
		"torn removal": {[]string{"holdfast-1.efi", "holdfast-2.efi"}, func(t *testing.T, o *overlay) {
			f, files := linux(t, o, int64(len(o.base)))
			o.patch(f.tableAt+int64(files["holdfast-2.efi"].first+9)*4, make([]byte, 4*50))
		}, "holdfast-1.efi"},
		"lost long name": {[]string{"holdfast-1.efi", "holdfast-2+3.efi"}, func(t *testing.T, o *overlay) {
			_, files := linux(t, o, int64(len(o.base)))
			o.patch(files["holdfast-2+3.efi"].slots[0], []byte{fatDeleted})
		}, "holdfast-1.efi"},
		"lost file": {[]string{"holdfast-1.efi", "holdfast-2+3.efi"}, func(t *testing.T, o *overlay) {
			_, files := linux(t, o, int64(len(o.base)))
			for _, at := range files["holdfast-2+3.efi"].slots {
				o.patch(at, []byte{fatDeleted})
			}
		}, "holdfast-1.efi"},
		"tables differ": {[]string{"holdfast-1.efi"}, func(t *testing.T, o *overlay) {
			f, _ := linux(t, o, int64(len(o.base)))
			o.patch(f.tableAt+f.tableSize+400, []byte{1, 2, 3})
		}, "holdfast-1.efi"},
	} {
		files := map[string][]byte{"EFI/BOOT/BOOTX64.EFI": kernel, "loader/loader.conf": []byte("x")}
		for i, f := range c.files {
			files[entry(f)] = append(kernel, byte(i))
		}
		o := newOverlay(writeESP(t, disk.MinESPSize, files))
		if c.tear != nil {
			c.tear(t, o)
		}
		checkNormalize(t, name, o, c.want)
	}
}

// checkNormalize also cuts the power at every write.
func checkNormalize(t *testing.T, name string, o *overlay, want string) {
	t.Helper()
	esp := disk.Partition{Size: int64(len(o.base))}
	torn := o.bytes()
	o = newOverlay(torn)
	if _, err := Normalize(o, esp); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	_, files := linux(t, o, esp.Size)
	if got := names(files); got != want {
		t.Errorf("%s: left %s, want %s", name, got, want)
	}
	whole := o.bytes()
	fsck(t, whole)
	again := newOverlay(whole)
	if removed, err := Normalize(again, esp); err != nil || len(removed)+len(again.log) != 0 {
		t.Errorf("%s: a second time: %v, %d writes, %v", name, removed, len(again.log), err)
	}
	for n := range o.log {
		cut := newOverlay(torn)
		for _, at := range o.log[:n] {
			cut.sectors[at] = o.sectors[at]
		}
		if _, err := Normalize(cut, esp); err != nil {
			t.Errorf("%s: after a cut at write %d: %v", name, n, err)
		} else if !cut.equal(o) {
			_, files := linux(t, cut, esp.Size)
			t.Errorf("%s: after a cut at write %d: left %s, or other bytes", name, n, names(files))
		}
	}
}

func FuzzFAT(f *testing.F) {
	base := writeESP(f, disk.MinESPSize, map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI": []byte("boot"), EntryDir + "/holdfast-1.efi": bytes.Repeat([]byte("k"), 5000),
		EntryDir + "/holdfast-2+3.efi": bytes.Repeat([]byte("l"), 3000), EntryDir + "/holdfast-2.new": nil,
	})
	v, files := linux(f, bytes.NewReader(base), int64(len(base)))
	// Each change is where, an offset from one of the interesting places, and a byte.
	places := []int64{0, v.info, v.tableAt, v.tableAt + v.tableSize, v.dataAt, files["holdfast-1.efi"].slots[0] / fatSector * fatSector}
	f.Add([]byte{0, 0, 13, 1})
	f.Add([]byte{2, 0, 12, 3, 2, 0, 13, 0})
	f.Add([]byte{5, 0, 64, 0xe5})
	f.Add([]byte{5, 0, 116, 9, 5, 0, 0, 0x41})
	f.Fuzz(func(t *testing.T, changes []byte) {
		o := newOverlay(base)
		for ; len(changes) >= 4; changes = changes[4:] {
			at := places[int(changes[0])%len(places)] + int64(binary.BigEndian.Uint16(changes[1:]))
			o.patch(at, changes[3:4])
		}
		size := int64(len(base))
		v, err := openFAT(o, size)
		if err != nil {
			return
		}
		_ = v.all(v.root, "", 0, map[string][]byte{})
		o.log = nil
		if _, err := Normalize(o, disk.Partition{Size: size}); err != nil {
			return
		}
		o.log = nil
		if removed, err := Normalize(o, disk.Partition{Size: size}); err != nil || len(o.log) != 0 {
			t.Errorf("a second time: %v, %d writes, %v", removed, len(o.log), err)
		}
	})
}
