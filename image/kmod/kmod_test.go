package kmod_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"holdfast.dev/holdfast/image/kmod"
	"holdfast.dev/holdfast/image/rootfs"
)

const version = "6.1.0-test"

// module makes the ELF file of a kernel module with that .modinfo, which
// exports some symbols and leaves others undefined.
func module(info, exports, needs []string) []byte {
	join := func(ss []string) []byte {
		var b []byte
		for _, s := range ss {
			b = append(append(b, s...), 0)
		}
		return b
	}
	strtab := []byte{0}
	symtab := make([]byte, 24)
	for _, s := range needs {
		sym := make([]byte, 24)
		binary.LittleEndian.PutUint32(sym, uint32(len(strtab)))
		sym[4] = 1 << 4 // global, undefined
		symtab = append(symtab, sym...)
		strtab = append(append(strtab, s...), 0)
	}
	sections := []struct {
		name       string
		kind       uint32
		data       []byte
		link, size uint32 // linked section, size of an entry
	}{
		{"", 0, nil, 0, 0},
		{".modinfo", 1, join(info), 0, 0},
		{"__ksymtab_strings", 1, join(exports), 0, 0},
		{".gnu.linkonce.this_module", 1, make([]byte, 64), 0, 0},
		{".symtab", 2, symtab, 5, 24},
		{".strtab", 3, strtab, 0, 0},
		{".shstrtab", 3, nil, 0, 0},
	}
	var names []byte
	var at []uint32
	for _, s := range sections {
		at = append(at, uint32(len(names)))
		names = append(append(names, s.name...), 0)
	}
	sections[6].data = names
	le := binary.LittleEndian
	body := make([]byte, 64)
	var headers []byte
	for i, s := range sections {
		h := make([]byte, 64)
		le.PutUint32(h[0:], at[i])
		le.PutUint32(h[4:], s.kind)
		if i > 0 {
			le.PutUint64(h[24:], uint64(len(body)))
			le.PutUint64(h[32:], uint64(len(s.data)))
		}
		le.PutUint32(h[40:], s.link)
		le.PutUint32(h[44:], 1)
		le.PutUint64(h[48:], 1)
		le.PutUint64(h[56:], uint64(s.size))
		headers = append(headers, h...)
		body = append(body, s.data...)
	}
	copy(body, "\x7fELF\x02\x01\x01")
	le.PutUint16(body[16:], 1)  // relocatable
	le.PutUint16(body[18:], 62) // x86-64
	le.PutUint32(body[20:], 1)
	le.PutUint64(body[40:], uint64(len(body)))
	le.PutUint16(body[52:], 64)
	le.PutUint16(body[58:], 64)
	le.PutUint16(body[60:], uint16(len(sections)))
	le.PutUint16(body[62:], 6)
	return append(body, headers...)
}

// kernel is a small tree of modules: leaf and mid are compressed.
func kernel(t *testing.T) *rootfs.Tree {
	t.Helper()
	var x bytes.Buffer
	xw, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := xw.Write(module([]string{"alias=pci:v00001AF4d*", "alias=my-alias[a-c]-x", "softdep=pre: my-hash post: other"}, nil,
		[]string{"printk", "mid_two", "base_one"})); err != nil {
		t.Fatal(err)
	}
	if err := xw.Close(); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	mid := z.EncodeAll(module([]string{"alias=devname:net/mid", "alias=char-major-10-200"}, []string{"mid_one", "mid_two"}, []string{"base_one"}), nil)
	tr := rootfs.New(1)
	for name, b := range map[string][]byte{
		"kernel/drivers/leaf-dev.ko.xz": x.Bytes(),
		"kernel/drivers/mid.ko.zst":     mid,
		"kernel/lib/base.ko":            module([]string{"license=GPL"}, []string{"base_one"}, []string{"printk"}),
		"kernel/crypto/hash-x86.ko":     module([]string{"alias=my-hash"}, nil, nil),
		"modules.order":                 []byte("kernel/lib/base.ko\nkernel/drivers/leaf-dev.ko\n"),
		"modules.builtin":               []byte("kernel/fs/ext-4.ko\nkernel/fs/other.ko\n"),
		"modules.builtin.modinfo":       []byte("ext_4.alias=fs-ext3\x00ext_4.license=GPL\x00ext_4.alias=fs-ext4\x00"),
	} {
		if err := tr.WriteFile(kmod.Dir(version)+"/"+name, b, 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func text(t *testing.T, tr *rootfs.Tree, name string) string {
	t.Helper()
	f, ok := tr.Get(kmod.Dir(version) + "/" + name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	return string(f.Data.(rootfs.Bytes))
}

func TestDepmod(t *testing.T) {
	tr := kernel(t)
	if err := kmod.Depmod(tr, version, 1); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"modules.dep": "kernel/lib/base.ko:\n" +
			"kernel/drivers/leaf-dev.ko.xz: kernel/drivers/mid.ko.zst kernel/lib/base.ko\n" +
			"kernel/crypto/hash-x86.ko:\n" +
			"kernel/drivers/mid.ko.zst: kernel/lib/base.ko\n",
		"modules.softdep": "# Soft dependencies extracted from modules themselves.\n" +
			"softdep leaf_dev pre: my-hash post: other\n",
		"modules.devname": "# Device nodes to trigger on-demand module loading.\nmid net/mid c10:200\n",
	} {
		if got := text(t, tr, name); got != want {
			t.Errorf("%s:\n%swant:\n%s", name, got, want)
		}
	}
	deps, err := kmod.ReadDeps(tr, version)
	if err != nil {
		t.Fatal(err)
	}
	got, err := deps.Closure([]string{"leaf-dev", "ext_4"})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, p := range []string{"crypto/hash-x86.ko", "drivers/leaf-dev.ko.xz", "drivers/mid.ko.zst", "lib/base.ko"} {
		want = append(want, kmod.Dir(version)+"/kernel/"+p)
	}
	if !slices.Equal(got, want) {
		t.Errorf("closure: %q, want %q", got, want)
	}
}

// TestAgainstKmod compares with depmod, and reads the index by modprobe.
func TestAgainstKmod(t *testing.T) {
	if _, err := exec.LookPath("depmod"); err != nil {
		t.Skip("depmod is not installed")
	}
	tr := kernel(t)
	if err := kmod.Depmod(tr, version, 1); err != nil {
		t.Fatal(err)
	}
	ours, theirs := t.TempDir(), t.TempDir()
	for _, f := range tr.Files() {
		b, ok := f.Data.(rootfs.Bytes)
		if !ok {
			continue
		}
		// kmod may still look below /lib.
		name := strings.TrimPrefix(f.Path, "usr/")
		for _, dir := range []string{ours, theirs} {
			p := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"modules.dep", "modules.alias", "modules.softdep", "modules.devname"} {
		os.Remove(filepath.Join(theirs, "lib/modules", version, name))
	}
	if out, err := exec.Command("depmod", "-b", theirs, version).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v\n%s", err, out)
	}
	for _, name := range []string{"modules.dep", "modules.alias", "modules.softdep", "modules.devname"} {
		want, err := os.ReadFile(filepath.Join(theirs, "lib/modules", version, name))
		if err != nil {
			t.Fatal(err)
		}
		got := text(t, tr, name)
		// Modules that modules.order does not name come in no certain order.
		if a, b := sortLines(got), sortLines(string(want)); !slices.Equal(a, b) {
			t.Errorf("%s:\n%sdepmod's:\n%s", name, got, want)
		}
	}
	for alias, want := range map[string]string{
		"pci:v00001AF4d0001": "leaf_dev", "my-aliasb-x": "leaf_dev", "symbol:mid_one": "mid",
		"leaf-dev": "leaf_dev", "fs-ext3": "ext_4", "devname:net/mid": "mid",
	} {
		out, err := exec.Command("modprobe", "-d", ours, "-S", version, "-R", alias).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("modprobe -R %s: %q (%v), want %q", alias, got, err, want)
		}
	}
	out, err := exec.Command("modprobe", "-d", ours, "-S", version, "--show-depends", "leaf_dev").CombinedOutput()
	if err != nil {
		t.Fatalf("modprobe: %v\n%s", err, out)
	}
	var files []string
	for _, l := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if f := strings.Fields(l); len(f) > 1 {
			files = append(files, filepath.Base(f[1]))
		}
	}
	if want := []string{"base.ko", "mid.ko.zst", "hash-x86.ko", "leaf-dev.ko.xz"}; !slices.Equal(files[:len(want)], want) {
		t.Errorf("modprobe --show-depends leaf_dev: %q, want %q first", files, want)
	}
}

func sortLines(s string) []string {
	l := strings.Split(s, "\n")
	slices.Sort(l)
	return l
}

// TestIndexCanBeKept writes from an index that went through JSON.
func TestIndexCanBeKept(t *testing.T) {
	a, b := kernel(t), kernel(t)
	x, err := kmod.Scan(a, version)
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	var y kmod.Index
	if err := json.Unmarshal(j, &y); err != nil {
		t.Fatal(err)
	}
	if err := y.Write(a, version, 7); err != nil {
		t.Fatal(err)
	}
	if err := kmod.Depmod(b, version, 7); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a.Files(), b.Files()) {
		t.Error("an index from JSON writes other files")
	}
}

func TestFaults(t *testing.T) {
	put := func(files map[string][]byte) *rootfs.Tree {
		tr := kernel(t)
		for name, b := range files {
			if err := tr.WriteFile(kmod.Dir(version)+"/"+name, b, 0o644, 1); err != nil {
				t.Fatal(err)
			}
		}
		return tr
	}
	for name, c := range map[string]struct {
		tree *rootfs.Tree
		want []string
	}{
		"not there":         {rootfs.New(1), []string{"no /usr/lib/modules/" + version, "hint: "}},
		"all at once":       {put(map[string][]byte{"a.ko": []byte("x"), "b.ko.xz": []byte("y"), "c.ko.zst": []byte("z")}), []string{"/a.ko", "/b.ko.xz", "/c.ko.zst"}},
		"twice":             {put(map[string][]byte{"extra/base.ko": module(nil, nil, nil)}), []string{"base", "it is there twice"}},
		"circle":            {put(map[string][]byte{"a.ko": module(nil, []string{"a"}, []string{"b"}), "b.ko": module(nil, []string{"b"}, []string{"a"})}), []string{"need each other: a, b"}},
		"not ASCII":         {put(map[string][]byte{"a.ko": module([]string{"alias=ü"}, nil, nil)}), []string{"7-bit ASCII"}},
		"an executable":     {put(map[string][]byte{"a.ko": append(append([]byte{}, module(nil, nil, nil)[:16]...), append([]byte{2}, module(nil, nil, nil)[17:]...)...)}), []string{"not a relocatable file"}},
		"truncated symbols": {put(map[string][]byte{"a.ko": module(nil, nil, []string{"x"})[:200]}), []string{"/a.ko"}},
	} {
		err := kmod.Depmod(c.tree, version, 1)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", name, err, w)
			}
		}
	}
	tr := put(map[string][]byte{"updates/base.ko": module(nil, []string{"base_one"}, nil)})
	if err := kmod.Depmod(tr, version, 1); err != nil {
		t.Fatal(err)
	}
	if got := text(t, tr, "modules.dep"); strings.Contains(got, "kernel/lib/base.ko") || !strings.Contains(got, "updates/base.ko:") {
		t.Errorf("a module below updates/ does not win:\n%s", got)
	}
	deps, err := kmod.ReadDeps(tr, version)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deps.Closure([]string{"nope", "nada", "mid"}); err == nil || !strings.Contains(err.Error(), "nope") || !strings.Contains(err.Error(), "nada") {
		t.Errorf("missing modules: %v", err)
	}
}
