package disk_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/rootfs"
)

func espTree(t *testing.T) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New(1)
	for name, b := range map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI":             bytes.Repeat([]byte("boot"), 30000),
		"EFI/Linux/holdfast-1+3.efi":       bytes.Repeat([]byte("kernel and more "), 700_000),
		"loader/loader.conf":               []byte("timeout 3\n"),
		"loader/keys/auto/PK.auth":         make([]byte, 4096),
		"loader/a-long-name-of-a-file.md":  []byte("x"),
		"loader/a-long-name-of-two.md":     []byte("y"),
		"loader/a-long~1.md":               []byte("z"),
		"loader/x.conf":                    []byte("1"),
		"loader/x.config":                  []byte("2"),
		"loader/empty":                     nil,
		"loader/.hidden file, odd [1].a.b": []byte("3"),
	} {
		if err := tree.WriteFile(name, b, 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 { // a directory of several clusters
		if err := tree.WriteFile(fmt.Sprintf("many/a-file-with-a-long-name-%d.txt", i), []byte{byte(i)}, 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func writeESP(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "esp")
	if err := disk.WriteESP(name, size, espTree(t), 1_700_000_000); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestESP(t *testing.T) {
	a := writeESP(t, 64*mib)
	t.Setenv("SOURCE_DATE_EPOCH", "12345")
	if !bytes.Equal(read(t, a), read(t, writeESP(t, 64*mib))) {
		t.Error("two partitions of the same files differ")
	}
	if n := len(read(t, a)); int64(n) != 64*mib {
		t.Errorf("%d bytes", n)
	}
}

func TestESPWithMtools(t *testing.T) {
	mcopy, mdir := tool(t, "mcopy"), tool(t, "mdir")
	for _, size := range []int64{disk.MinESPSize, 64 * mib, 512 * mib} {
		name := writeESP(t, size)
		dir := t.TempDir()
		mcopy("-s", "-n", "-i", name, "::*", dir)
		for _, f := range espTree(t).Files() {
			if !f.IsRegular() {
				continue
			}
			got := read(t, filepath.Join(dir, f.Path))
			if want := f.Data.(rootfs.Bytes); !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes instead of %d, or others", f.Path, len(got), len(want))
			}
		}
		t.Setenv("TZ", "UTC")
		if out := mdir("-i", name, "::loader"); strings.Count(out, "2023-11-14  22:13") != 11 {
			t.Errorf("times differ from the epoch:\n%s", out)
		}
	}
}

func TestESPWithFsck(t *testing.T) {
	fsck := tool(t, "fsck.fat")
	for _, size := range []int64{disk.MinESPSize, 64 * mib, 512 * mib} {
		fsck("-n", "-v", writeESP(t, size))
	}
}

func TestESPIsSparse(t *testing.T) {
	du, err := exec.LookPath("du")
	if err != nil {
		t.Skip("no du on this host")
	}
	out, err := exec.Command(du, "-k", writeESP(t, 512*mib)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	if _, err := fmt.Sscan(string(out), &kib); err != nil || kib > 16<<10 {
		t.Errorf("%d KiB are allocated, %v", kib, err)
	}
}

// lying is content of another length than it says.
type lying struct {
	rootfs.Bytes
	size int64
}

func (l lying) Size() int64 { return l.size }

func TestESPRefuses(t *testing.T) {
	reg := rootfs.TypeRegular | uint32(0o644)
	x := rootfs.Bytes("x")
	for want, files := range map[string][]rootfs.File{
		"but for case":        {{Path: "EFI/a", Mode: reg, Data: x}, {Path: "EFI/A", Mode: reg, Data: x}},
		"/a:b: no name":       {{Path: "a:b", Mode: reg, Data: x}},
		"/a.: no name":        {{Path: "a.", Mode: reg, Data: x}},
		"neither a directory": {{Path: "l", Mode: rootfs.TypeSymlink | 0o777, Target: "x"}},
		"shorter":             {{Path: "f", Mode: reg, Data: lying{x, 2}}},
		"longer":              {{Path: "f", Mode: reg, Data: lying{rootfs.Bytes("xy"), 1}}},
		"longer than its":     {{Path: "f", Mode: reg, Data: lying{x, 0}}},
		"do not fit":          {{Path: "f", Mode: reg, Data: lying{x, disk.MinESPSize}}},
		"size 4294967296":     {{Path: "f", Mode: reg, Data: lying{x, 1 << 32}}},
	} {
		tree := rootfs.New(1)
		for _, f := range files {
			if err := tree.Add(f); err != nil {
				t.Fatal(err)
			}
		}
		dir := t.TempDir()
		err := disk.WriteESP(filepath.Join(dir, "esp"), disk.MinESPSize, tree, 1)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: %v is left", want, left)
		}
	}
	for _, size := range []int64{0, mib, 64*mib + 1, 1 << 50} {
		if err := disk.WriteESP(filepath.Join(t.TempDir(), "esp"), size, rootfs.New(1), 1); err == nil {
			t.Errorf("size %d: no error", size)
		}
	}
}
