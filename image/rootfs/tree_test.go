package rootfs_test

import (
	"errors"
	"testing"

	"holdfast.dev/holdfast/image/rootfs"
)

func TestMergedUsr(t *testing.T) {
	tr := rootfs.New(1)
	if err := tr.Symlink("usr/bin", "bin", 1); err != nil {
		t.Fatal(err)
	}
	if err := tr.Mkdir("usr/bin", 0o755, 1); err != nil {
		t.Fatal(err)
	}
	if err := tr.WriteFile("bin/sh", []byte("x"), 0o755, 1); err != nil {
		t.Fatal(err)
	}
	if _, ok := tr.Get("usr/bin/sh"); !ok {
		t.Error("bin/sh did not land in usr/bin")
	}
	if err := tr.Add(rootfs.File{Path: "bin", Mode: rootfs.TypeDir | 0o755}); err != nil {
		t.Errorf("a directory over a link to a directory: %v", err)
	}
}

func TestNothingLeavesTheTree(t *testing.T) {
	for _, name := range []string{"../x", "a/../../x", "/../x", "up/x", "updir/../../x"} {
		tr := rootfs.New(1)
		if err := tr.Symlink("../../etc", "up", 1); err != nil {
			t.Fatal(err)
		}
		if err := tr.WriteFile(name, nil, 0o644, 1); !errors.Is(err, rootfs.ErrEscape) {
			t.Errorf("%q: got %v, want ErrEscape", name, err)
		}
	}
}

func TestConflict(t *testing.T) {
	tr := rootfs.New(1)
	f := rootfs.File{Path: "a/b", Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes("1")}
	if err := tr.Add(f); err != nil {
		t.Fatal(err)
	}
	if err := tr.Add(f); !errors.Is(err, rootfs.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
}

func TestOrder(t *testing.T) {
	tr := rootfs.New(1)
	for _, n := range []string{"a-b", "a/z", "a", "b", "a/b/c"} {
		if n == "a" {
			continue
		}
		if err := tr.WriteFile(n, nil, 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, f := range tr.Files() {
		got = append(got, f.Path)
	}
	want := []string{".", "a", "a/b", "a/b/c", "a/z", "a-b", "b"}
	if len(got) != len(want) {
		t.Fatal(got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}
