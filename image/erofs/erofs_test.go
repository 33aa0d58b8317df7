package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	goerofs "github.com/erofs/go-erofs"

	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/image/rootfs"
)

var options = erofs.Options{UUID: [16]byte{0xde, 0xad, 15: 0xef}, Epoch: 1_700_000_000, Label: "holdfast-seed"}

// sample has one of everything, and enough files for directories of many blocks.
func sample(t *testing.T) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New(1_600_000_000)
	add := func(f rootfs.File) {
		t.Helper()
		if err := tree.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	add(rootfs.File{Path: ".", Mode: rootfs.TypeDir | 0o750, MTime: 1_600_000_001})
	add(rootfs.File{Path: "usr/bin/su", Mode: rootfs.TypeRegular | 0o4755, MTime: 12345, Data: rootfs.Bytes("suid")})
	add(rootfs.File{Path: "usr/bin/wall", Mode: rootfs.TypeRegular | 0o2755, GID: 5, MTime: 12346, Data: rootfs.Bytes("sgid")})
	add(rootfs.File{Path: "tmp", Mode: rootfs.TypeDir | 0o1777, MTime: 12347})
	add(rootfs.File{Path: "bin", Mode: rootfs.TypeSymlink | 0o777, Target: "usr/bin", MTime: 12348})
	add(rootfs.File{Path: "dev/null", Mode: rootfs.TypeChar | 0o666, Major: 1, Minor: 3, MTime: 12349})
	add(rootfs.File{Path: "dev/nvme", Mode: rootfs.TypeBlock | 0o660, Major: 259, Minor: 70000, MTime: 12350})
	add(rootfs.File{Path: "dev/fifo", Mode: rootfs.TypeFIFO | 0o600, MTime: 12351})
	add(rootfs.File{Path: "usr/bin/ping", Mode: rootfs.TypeRegular | 0o755, UID: 70000, GID: 80000, MTime: options.Epoch,
		Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20", "user.note": "hello"},
		Data:   rootfs.Bytes(bytes.Repeat([]byte("ping"), 5000))})
	add(rootfs.File{Path: "etc/empty", Mode: rootfs.TypeRegular | 0o644})
	for i := range 3000 {
		name := fmt.Sprintf("usr/share/many/a-rather-long-name-%04d", i)
		add(rootfs.File{Path: name, Mode: rootfs.TypeRegular | 0o644, MTime: int64(i), Data: rootfs.Bytes(bytes.Repeat([]byte{byte(i)}, i*3))})
	}
	return tree
}

func write(t *testing.T, tree *rootfs.Tree) (string, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := erofs.Write(f, tree, options)
	if err != nil {
		return "", err
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != size || size%erofs.BlockSize != 0 {
		t.Errorf("size %d, file of %d bytes, %v", size, fi.Size(), err)
	}
	return name, nil
}

func TestDeterministic(t *testing.T) {
	var images [2][]byte
	for i := range images {
		name, err := write(t, sample(t))
		if err != nil {
			t.Fatal(err)
		}
		if images[i], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two images of the same tree differ")
	}
}

func TestReadBack(t *testing.T) {
	tree := sample(t)
	name, err := write(t, tree)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(img, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		want, ok := tree.Get(p)
		if !ok {
			t.Errorf("%s was not in the tree", p)
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*goerofs.Stat)
		if int(st.UID) != want.UID || int(st.GID) != want.GID || int64(st.Mtime) != want.MTime ||
			(st.Mode&fs.ModeSetuid != 0) != (want.Mode&0o4000 != 0) || (st.Mode&fs.ModeSetgid != 0) != (want.Mode&0o2000 != 0) || len(st.Xattrs) != len(want.Xattrs) {
			t.Errorf("%s: got %+v", p, st)
		}
		for k, v := range want.Xattrs {
			if st.Xattrs[k] != v {
				t.Errorf("%s: attribute %s is %q", p, k, st.Xattrs[k])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != tree.Len() {
		t.Errorf("%d files, want %d", n, tree.Len())
	}
	if b, err := erofs.ReadFile(f, "/bin/su", 10); err != nil || string(b) != "suid" {
		t.Errorf("got %q, %v", b, err)
	}
	for name, limit := range map[string]int64{"usr/bin/ping": 100, "nothing": 100, "usr": 1 << 20, "dev/null": 10} {
		if _, err := erofs.ReadFile(f, name, limit); err == nil {
			t.Errorf("ReadFile of %s with limit %d gave no error", name, limit)
		}
	}
}

func TestFsckAndExtract(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("no fsck.erofs on this host")
	}
	if os.Getuid() != 0 {
		t.Skip("owners and devices can be extracted by root only")
	}
	tree := sample(t)
	name, err := write(t, tree)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	if out, err := exec.Command(fsck, "--extract="+dir, name).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	for _, f := range tree.Files() {
		p := filepath.Join(dir, f.Path)
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			t.Errorf("%v", err)
			continue
		}
		// fsck.erofs sets the owner after the mode, which clears these two bits;
		// TestReadBack looks at them.
		lost := uint32(0)
		if f.IsRegular() {
			lost = 0o6000
		}
		if st.Mode != f.Mode&^lost || int(st.Uid) != f.UID || int(st.Gid) != f.GID {
			t.Errorf("%s: mode %o, owner %d:%d; want %o, %d:%d", f.Path, st.Mode, st.Uid, st.Gid, f.Mode, f.UID, f.GID)
		}
		switch f.Type() {
		case rootfs.TypeRegular:
			got, err := os.ReadFile(p)
			r, _ := f.Open()
			want, _ := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: other content (%v)", f.Path, err)
			}
		case rootfs.TypeSymlink:
			if got, err := os.Readlink(p); err != nil || got != f.Target {
				t.Errorf("%s: link to %q, %v", f.Path, got, err)
			}
		case rootfs.TypeChar, rootfs.TypeBlock:
			if maj, min := uint32(st.Rdev>>8&0xfff), uint32(st.Rdev&0xff|st.Rdev>>12&0xfff00); maj != f.Major || min != f.Minor {
				t.Errorf("%s: device %d:%d", f.Path, maj, min)
			}
		}
	}
}

func TestSuperblock(t *testing.T) {
	dump, err := exec.LookPath("dump.erofs")
	if err != nil {
		t.Skip("no dump.erofs on this host")
	}
	name, err := write(t, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(dump, "-s", name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "dead0000-0000-0000-0000-0000000000ef") {
		t.Errorf("no UUID in\n%s", out)
	}
}

// lying is content of another length than it says.
type lying struct {
	rootfs.Bytes
	size int64
}

func (l lying) Size() int64 { return l.size }

func TestRefuses(t *testing.T) {
	reg := rootfs.TypeRegular | uint32(0o644)
	for name, f := range map[string]rootfs.File{
		"short small":    {Mode: reg, Data: lying{rootfs.Bytes("abc"), 4}},
		"long small":     {Mode: reg, Data: lying{rootfs.Bytes("abc"), 2}},
		"long empty":     {Mode: reg, Data: lying{rootfs.Bytes("abc"), 0}},
		"short large":    {Mode: reg, Data: lying{make([]byte, 9000), 9001}},
		"long large":     {Mode: reg, Data: lying{make([]byte, 9000), 8192}},
		"negative":       {Mode: reg, Data: lying{nil, -1}},
		"missing source": {Mode: reg, Data: rootfs.Section{Name: "does-not-exist", Length: 5000}},
		"time":           {Mode: reg, MTime: -1},
		"owner":          {Mode: reg, UID: -1},
		"acl":            {Mode: reg, Xattrs: map[string]string{"system.posix_acl_access": "x"}},
		"type":           {Mode: 0o644},
		"device":         {Mode: rootfs.TypeChar, Major: 5000},
	} {
		tree := rootfs.New(1)
		f.Path = "f"
		if err := tree.Add(f); err != nil {
			t.Fatal(err)
		}
		if _, err := write(t, tree); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	tree := rootfs.New(1)
	_ = tree.Add(rootfs.File{Path: "x", Mode: reg, MTime: -1})
	_ = tree.Add(rootfs.File{Path: "y", Mode: reg, UID: -1})
	if _, err := write(t, tree); err == nil || !strings.Contains(err.Error(), "/x") || !strings.Contains(err.Error(), "/y") {
		t.Errorf("not all faults at once: %v", err)
	}
	o := options
	o.Label = "more than 15 bytes"
	if _, err := erofs.Write(nil, rootfs.New(1), o); err == nil {
		t.Error("long label: no error")
	}
}

func TestShortIsUnexpectedEOF(t *testing.T) {
	tree := rootfs.New(1)
	_ = tree.Add(rootfs.File{Path: "f", Mode: rootfs.TypeRegular | 0o644, Data: lying{nil, 5}})
	if _, err := write(t, tree); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func FuzzReadFile(f *testing.F) {
	tree := rootfs.New(1)
	_ = tree.WriteFile("a/b", []byte("hello"), 0o644, 1)
	img, err := os.Create(filepath.Join(f.TempDir(), "i"))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := erofs.Write(img, tree, options); err != nil {
		f.Fatal(err)
	}
	b, _ := os.ReadFile(img.Name())
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := erofs.ReadFile(bytes.NewReader(b), "a/b", 1<<16)
		if err == nil && len(got) > 1<<16 {
			t.Error("more than the limit")
		}
	})
}
