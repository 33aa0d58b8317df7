package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/image/rootfs"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *store.Store, b string) store.Content {
	t.Helper()
	c, err := s.WriteBytes([]byte(b))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var rootHash = strings.Repeat("0123456789abcdef", 2) + strings.Repeat("fedcba9876543210", 2)

func fakeDisk(t *testing.T, s *store.Store) Disk {
	t.Helper()
	return Disk{
		OS: OS{
			Root:     Part{Raw: put(t, s, strings.Repeat("root", 1024))},
			Verity:   Part{Raw: put(t, s, strings.Repeat("tree", 1024))},
			RootHash: rootHash,
		},
		UKI: put(t, s, "signed kernel"), Loader: put(t, s, "signed loader"), Guard: put(t, s, "signed guard"),
		Enrolment: map[string][]byte{"PK.auth": []byte("owner")},
		Seed:      tree(t, map[string]string{"index.json": "{}"}),
		Index:     store.FromBytes([]byte("release")), Release: 3, Epoch: epoch,
	}
}

// sumData hashes where a sparse file has data, and what; a disk is gigabytes
// of holes.
func sumData(t *testing.T, name string) store.Digest {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	block := make([]byte, 1<<20)
	zero := make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(block)) {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return store.SHA256(h.Sum(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		at = data / int64(len(block)) * int64(len(block))
		n, err := f.ReadAt(block, at)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(block[:n], zero[:n]) {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(at)))
			h.Write(block[:n])
		}
	}
}

func TestWriteDisk(t *testing.T) {
	s, dir := openStore(t), t.TempDir()
	name := filepath.Join(dir, "demo.raw")
	if err := WriteDisk(name, s, fakeDisk(t, s)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := disk.ReadGPT(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	// The Discoverable Partitions Specification: the root's GUID is the first
	// half of the root hash, the verity partition's is the second.
	want := []struct {
		name, kind, guid string
		size             int64
		head             string
	}{
		{"holdfast-esp", disk.TypeESP, "", ESPSize, ""},
		{"holdfast-root-a", disk.TypeRootX86, "01234567-89ab-cdef-0123-456789abcdef", RootSize, "rootroot"},
		{"holdfast-verity-a", disk.TypeRootX86Verity, "fedcba98-7654-3210-fedc-ba9876543210", VeritySize, "treetree"},
		{"holdfast-root-b", disk.TypeRootX86, "", RootSize, "\x00\x00\x00\x00"},
		{"holdfast-verity-b", disk.TypeRootX86Verity, "", VeritySize, "\x00\x00\x00\x00"},
		{SeedLabel, disk.TypeLinux, "", 16 << 20, ""},
	}
	if len(parts) != len(want) {
		t.Fatalf("%d partitions: %+v", len(parts), parts)
	}
	for i, w := range want {
		p := parts[i]
		if p.Name != w.name || p.TypeGUID != w.kind || p.Size != w.size || w.guid != "" && p.PartGUID != w.guid {
			t.Errorf("partition %d is %+v, want %+v", i+1, p, w)
		}
		head := make([]byte, len(w.head))
		if _, err := f.ReadAt(head, p.Start); err != nil || string(head) != w.head {
			t.Errorf("%s begins with %q, %v", p.Name, head, err)
		}
		if ro := p.Attributes&disk.AttributeReadOnly != 0; ro != (i > 0) {
			t.Errorf("%s: read-only is %v", p.Name, ro)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".disk-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	second := filepath.Join(t.TempDir(), "other.raw")
	s2 := openStore(t)
	if err := WriteDisk(second, s2, fakeDisk(t, s2)); err != nil {
		t.Fatal(err)
	}
	if sumData(t, name) != sumData(t, second) {
		t.Error("the same release gives two disks")
	}
	d := fakeDisk(t, s)
	d.Index = store.FromBytes([]byte("another release"))
	if err := WriteDisk(second, s, d); err != nil {
		t.Fatal(err)
	}
	if sumData(t, name) == sumData(t, second) {
		t.Error("two releases have the same identifiers")
	}
}

// What was altered in the store, or is not there, gets on no disk.
func TestWriteDiskRefuses(t *testing.T) {
	s := openStore(t)
	for name, spoil := range map[string]func(*Disk){
		"altered root": func(d *Disk) {
			d.OS.Root.Raw = put(t, s, "good root")
			if err := errors.Join(os.Chmod(s.Path(d.OS.Root.Raw.Digest), 0o644), os.WriteFile(s.Path(d.OS.Root.Raw.Digest), []byte("evil root"), 0o644)); err != nil {
				t.Fatal(err)
			}
		},
		"no verity":     func(d *Disk) { d.OS.Verity.Raw.Digest = store.FromBytes([]byte("elsewhere")) },
		"no loader":     func(d *Disk) { d.Loader.Digest = store.FromBytes([]byte("elsewhere")) },
		"no guard":      func(d *Disk) { d.Guard = store.Content{} },
		"bad root hash": func(d *Disk) { d.OS.RootHash = "12" },
	} {
		d := fakeDisk(t, s)
		spoil(&d)
		dir := t.TempDir()
		if err := WriteDisk(filepath.Join(dir, "demo.raw"), s, d); err == nil {
			t.Errorf("%s: a disk was written", name)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

func TestComposeContainer(t *testing.T) {
	program := func(s *store.Store, text string) store.Content {
		t.Helper()
		c, err := s.WriteBytes([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s, other := openStore(t), openStore(t)
	program(other, "program")
	identity := store.FromBytes([]byte("this holdfast"))
	spec := Container{
		Name:     "registry.example/demo:1",
		Programs: []ContainerFile{{Path: "usr/bin/demo", Program: program(s, "program")}},
		Files:    []rootfs.File{{Path: "etc/demo.conf", Mode: rootfs.TypeRegular | 0o640, UID: 7, GID: 8, Data: rootfs.Bytes("a=b\n")}},
		Config:   oci.Config{Entrypoint: []string{"/usr/bin/demo"}, User: "7:8"},
	}
	compose := func(s *store.Store, c Container) store.Content {
		t.Helper()
		m, err := ComposeContainer(context.Background(), s, c, identity, nil)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := compose(s, spec)
	if again := compose(s, spec); again != first {
		t.Errorf("a second time: %v, first %v", again, first)
	}
	if elsewhere := compose(other, spec); elsewhere != first {
		t.Errorf("in another store: %v, first %v", elsewhere, first)
	}
	changed := spec
	changed.Files = []rootfs.File{spec.Files[0]}
	changed.Files[0].UID = 9
	if compose(s, changed) == first {
		t.Error("another owner gives the same image")
	}
	changed = spec
	changed.Programs = []ContainerFile{{Path: "usr/bin/demo", Program: program(s, "another")}}
	if compose(s, changed) == first {
		t.Error("another program gives the same image")
	}

	spec.Packages = []airgap.Package{{Name: "bash", Version: "1", Content: store.Content{Digest: store.FromBytes([]byte("bash")), Size: 4}}}
	_, err := ComposeContainer(context.Background(), s, spec, identity, nil)
	if !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), `hint: run "holdfast collect"`) {
		t.Errorf("a package that was not collected: %v", err)
	}
}
