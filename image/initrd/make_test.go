package initrd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/image/initrd"
	"holdfast.dev/holdfast/image/rootfs"
)

// file reads a file of the host as content of a tree.
func file(t *testing.T, name string) rootfs.Data {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Skipf("no %s on this machine", name)
	}
	return rootfs.Bytes(b)
}

// root has a program of the host with its libraries, in the way of Debian.
func root(t *testing.T) *rootfs.Tree {
	t.Helper()
	const libs = "usr/lib/x86_64-linux-gnu/"
	host := func(name string) rootfs.Data {
		if p, err := filepath.EvalSymlinks("/" + name); err == nil {
			return file(t, p)
		}
		return file(t, "/"+name)
	}
	tr := rootfs.New(1)
	for _, f := range []rootfs.File{
		{Path: "bin", Mode: rootfs.TypeSymlink | 0o777, Target: "usr/bin"},
		{Path: "lib64", Mode: rootfs.TypeSymlink | 0o777, Target: "usr/lib64"},
		{Path: "usr/lib64/ld-linux-x86-64.so.2", Mode: rootfs.TypeSymlink | 0o777, Target: "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"},
		{Path: libs + "ld-linux-x86-64.so.2", Mode: rootfs.TypeRegular | 0o755, Data: host(libs + "ld-linux-x86-64.so.2")},
		{Path: libs + "libc.so.6", Mode: rootfs.TypeRegular | 0o755, Data: host(libs + "libc.so.6")},
		{Path: libs + "libselinux.so.1", Mode: rootfs.TypeSymlink | 0o777, Target: "libselinux.so.1.real"},
		{Path: libs + "libselinux.so.1.real", Mode: rootfs.TypeRegular | 0o755, Data: host(libs + "libselinux.so.1")},
		{Path: libs + "libpcre2-8.so.0", Mode: rootfs.TypeRegular | 0o755, Data: host(libs + "libpcre2-8.so.0")},
		{Path: "usr/bin/ls", Mode: rootfs.TypeRegular | 0o755, Data: host("bin/ls")},
		{Path: "etc/conf.d/a", Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes("a")},
		{Path: "etc/conf.d/b.conf", Mode: rootfs.TypeSymlink | 0o777, Target: "/usr/share/b"},
		{Path: "etc/masked", Mode: rootfs.TypeSymlink | 0o777, Target: "/dev/null"},
		{Path: "usr/share/b", Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes("b")},
		{Path: "usr/share/c", Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes("c")},
		{Path: "secret", Mode: rootfs.TypeDir | 0o700},
		{Path: "secret/x", Mode: rootfs.TypeRegular | 0o600, Data: rootfs.Bytes("x")},
	} {
		if err := tr.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func paths(t *rootfs.Tree) []string {
	var all []string
	for _, f := range t.Files() {
		if !f.IsDir() {
			all = append(all, f.Path)
		}
	}
	return all
}

func TestMake(t *testing.T) {
	extra := rootfs.New(9)
	if err := extra.WriteFile("etc/conf.d/a", []byte("ours"), 0o644, 9); err != nil {
		t.Fatal(err)
	}
	got, err := initrd.Make(root(t), initrd.Options{Files: []string{"/bin/ls", "etc/conf.d", "etc/mask*", "secret/x"}, Extra: extra, MTime: 9})
	if err != nil {
		t.Fatal(err)
	}
	const libs = "usr/lib/x86_64-linux-gnu/"
	want := []string{
		"bin", "etc/conf.d/a", "etc/conf.d/b.conf", "etc/masked", "lib64", "secret/x", "usr/bin/ls",
		libs + "ld-linux-x86-64.so.2", libs + "libc.so.6", libs + "libpcre2-8.so.0", libs + "libselinux.so.1", libs + "libselinux.so.1.real",
		"usr/lib64/ld-linux-x86-64.so.2", "usr/share/b",
	}
	if p := paths(got); !slices.Equal(p, want) {
		t.Errorf("got %q\nwant %q", p, want)
	}
	if f, _ := got.Get("etc/conf.d/a"); !reflect.DeepEqual(f.Data, rootfs.Bytes("ours")) {
		t.Errorf("Extra did not win: %v", f.Data)
	}
	if f, _ := got.Get("secret"); f.Mode != rootfs.TypeDir|0o700 {
		t.Errorf("a parent's mode became %o", f.Mode)
	}
	for _, f := range got.Files() {
		if f.MTime != 9 {
			t.Errorf("/%s has the time %d", f.Path, f.MTime)
		}
	}
}

// TestAllFaults wants everything that is missing in one error.
func TestAllFaults(t *testing.T) {
	tr := root(t)
	tr.Remove("usr/lib/x86_64-linux-gnu/libc.so.6")
	tr.Remove("usr/lib/x86_64-linux-gnu/libselinux.so.1.real")
	tr.Remove("usr/share/b")
	_, err := initrd.Make(tr, initrd.Options{
		KernelVersion: "6.1", Files: []string{"usr/bin/ls", "etc/conf.d/b.conf", "no/file", "no/*.pattern"},
		Modules: []string{"nope"}, Features: []string{"warp"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"cannot find library libc.so.6, which /usr/bin/ls needs", "libselinux.so.1", "/usr/share/b, to which /etc/conf.d/b.conf leads",
		"/no/file", "/no/*.pattern", "6.1", `"warp"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestCPIO(t *testing.T) {
	tr := root(t)
	if err := tr.Put(rootfs.File{Path: "dev/console", Mode: rootfs.TypeChar | 0o600, Major: 5, Minor: 1, MTime: 1}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := initrd.WriteCPIO(&b, tr); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	list := exec.Command("cpio", "-itv", "--quiet")
	list.Env = []string{"TZ=UTC", "LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	list.Stdin = bytes.NewReader(b.Bytes())
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != tr.Len() {
		t.Errorf("cpio lists %d files of %d", len(lines), tr.Len())
	}
	for _, want := range []string{
		"crw-------   1 root     root       5,   1 Jan  1  1970 dev/console",
		"lrwxrwxrwx   1 root     root            7 Jan  1  1970 bin -> usr/bin",
		"-rw-------   1 root     root            1 Jan  1  1970 secret/x",
		"drwx------   2 root     root            0 Jan  1  1970 secret",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("cpio does not list %q:\n%s", want, out)
		}
	}
}

func TestCompress(t *testing.T) {
	plain := []byte(strings.Repeat("the same bytes again ", 5000))
	var packed, again bytes.Buffer
	for _, w := range []*bytes.Buffer{&packed, &again} {
		if err := initrd.Compress(w, bytes.NewReader(plain)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed.Bytes(), again.Bytes()) {
		t.Error("compressed twice, two results")
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if got, err := z.DecodeAll(packed.Bytes(), nil); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("what was compressed is another: %v", err)
	}
}

func TestCPIOFaults(t *testing.T) {
	for name, f := range map[string]rootfs.File{
		"time -1":      {Path: "x", Mode: rootfs.TypeRegular, MTime: -1},
		"4 GiB":        {Path: "x", Mode: rootfs.TypeRegular, Data: rootfs.Section{Name: "/dev/null", Length: 1 << 32}},
		"1 were annou": {Path: "x", Mode: rootfs.TypeRegular, Data: rootfs.Section{Name: "/dev/null", Length: 1}},
	} {
		tr := rootfs.New(1)
		if err := tr.Put(f); err != nil {
			t.Fatal(err)
		}
		if err := initrd.WriteCPIO(&bytes.Buffer{}, tr); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
