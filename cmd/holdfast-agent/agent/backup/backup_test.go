package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	format "holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/backup"
)

var paths = []string{"/var/lib/holdfast/volumes", "/var/lib/etcd", "/var/lib/holdfast/audit.log*", "/not/there"}

func header(s *backup.Snapshot) format.Header {
	h := format.Header{
		Site: "harbour", Zone: "official", Release: 1, Index: "sha256:00", Engine: "kubeadm",
		Node: "node1", Address: "10.0.2.15", Time: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC),
	}
	if s != nil {
		h.Files, h.Bytes = s.Size()
	}
	return h
}

func nothing(int64) {}

func key(t testing.TB) *age.X25519Identity {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// write makes files below root: a name that ends in a slash is a directory.
func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		p := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// listing is a tree with all that a restore has to bring back.
func listing(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			value := make([]byte, 100)
			n, _ := unix.Lgetxattr(p, "user.note", value)
			fmt.Fprintf(&b, " %d links, %q, note %q", st.Nlink, data, value[:max(n, 0)])
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " to %s", to)
		}
		if m := st.Mode & unix.S_IFMT; m == unix.S_IFREG || m == unix.S_IFDIR { // those of others are not kept
			fmt.Fprintf(&b, " %d", st.Mtim.Sec)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestThereAndBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from, map[string]string{
		"var/lib/holdfast/volumes/pvc-1/data": "rows", "var/lib/holdfast/volumes/pvc-1/empty/": "",
		"var/lib/etcd/member/wal/0.wal": strings.Repeat("x", 1<<20), "var/lib/holdfast/audit.log": "a\n",
		"var/lib/holdfast/audit.log.1": "b\n", "var/lib/holdfast/store/blob": "not part of it",
	})
	v := filepath.Join(from, "var/lib/holdfast/volumes/pvc-1")
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, err := range []error{
		os.Symlink("/etc/passwd", filepath.Join(v, "absolute")),
		os.Link(filepath.Join(v, "data"), filepath.Join(v, "same")),
		unix.Mkfifo(filepath.Join(v, "pipe"), 0o622),
		unix.Mknod(filepath.Join(v, "socket"), unix.S_IFSOCK|0o600, 0),
		os.Chmod(filepath.Join(v, "empty"), 0o500),
		os.Chmod(filepath.Join(v, "data"), 0o4751),
		os.Chtimes(filepath.Join(v, "data"), old, old),
		os.Chtimes(filepath.Join(v, "empty"), old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(filepath.Join(v, "data"), 70, 71); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(v, "data"), 0o4751); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Lsetxattr(filepath.Join(v, "data"), "user.note", []byte("n"), 0); err != nil {
		t.Logf("no attributes here: %v", err)
	}
	s, err := backup.Begin(from, paths, filepath.Join(t.TempDir(), "copies"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	k := key(t)
	var b bytes.Buffer
	w, err := format.NewWriter(&b, []age.Recipient{k.Recipient()}, header(s))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WriteTo(t.Context(), w, nothing); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// What an interrupted restore left goes; what is elsewhere stays.
	write(t, to, map[string]string{"var/lib/etcd/left": "over", "var/lib/holdfast/store/blob": "not part of it"})
	r, err := format.NewReader(&b, []age.Identity{k})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := backup.Restore(t.Context(), r, to, paths, nothing); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(v, "socket")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"var/lib/holdfast/volumes/pvc-1", "var/lib/etcd/member"} {
		// The socket's removal is newer than the copy.
		want, got := listing(t, filepath.Join(from, p)), listing(t, filepath.Join(to, p))
		_, want, _ = strings.Cut(want, "\n")
		_, got, _ = strings.Cut(got, "\n")
		if got != want {
			t.Errorf("%s: got\n%swant\n%s", p, got, want)
		}
	}
	for name, want := range map[string]bool{"var/lib/etcd/left": false, "var/lib/holdfast/store/blob": true, "var/lib/holdfast/audit.log": true, "var/lib/holdfast/audit.log.1": true} {
		if _, err := os.Stat(filepath.Join(to, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
}

// TestOneMoment: a program counts up in two files, one after the other, while
// they are copied. Once it is held, one more pass has both as they then are.
func TestOneMoment(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "var/lib/etcd")
	write(t, root, map[string]string{"var/lib/etcd/first": strings.Repeat("\x00", 8), "var/lib/etcd/second": strings.Repeat("\x00", 8), "var/lib/etcd/mapped": strings.Repeat("\x00", 8)})
	ctx, hold := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- count(ctx, dir) }()
	s, err := backup.Begin(root, []string{"/var/lib/etcd"}, filepath.Join(t.TempDir(), "copies"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
	}
	hold()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	k, to := key(t), t.TempDir()
	var b bytes.Buffer
	w, err := format.NewWriter(&b, []age.Recipient{k.Recipient()}, header(s))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WriteTo(t.Context(), w, nothing); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := format.NewReader(&b, []age.Identity{k})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := backup.Restore(t.Context(), r, to, []string{"/var/lib/etcd"}, nothing); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second", "mapped"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(to, "var/lib/etcd", name))
		if err != nil || !bytes.Equal(got, want) || binary.LittleEndian.Uint64(got) == 0 {
			t.Errorf("%s is %v, want %v, %v", name, got, want, err)
		}
	}
}

// count writes growing numbers until ctx ends: by calls into two files, and
// into the memory of a third, which no call tells of.
func count(ctx context.Context, dir string) error {
	var files []*os.File
	for _, name := range []string{"first", "second", "mapped"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	mem, err := unix.Mmap(int(files[2].Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	for n := uint64(1); ctx.Err() == nil; n++ {
		b := binary.LittleEndian.AppendUint64(nil, n)
		for _, f := range files[:2] {
			if _, err := f.WriteAt(b, 0); err != nil {
				return err
			}
		}
		copy(mem, b)
	}
	return nil
}

// TestUnchangedIsNotCopiedAgain: the last pass is short.
func TestUnchangedIsNotCopiedAgain(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"var/lib/etcd/large": strings.Repeat("x", 1<<20), "var/lib/etcd/small": "x"})
	time.Sleep(1100 * time.Millisecond) // what was written a moment ago is copied again
	s, err := backup.Begin(root, []string{"/var/lib/etcd"}, filepath.Join(t.TempDir(), "copies"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Pass(t.Context()); err != nil || n != 1<<20+1 {
		t.Errorf("the first pass copied %d bytes, %v", n, err)
	}
	write(t, root, map[string]string{"var/lib/etcd/small": "yy"})
	if n, err := s.Pass(t.Context()); err != nil || n != 2 {
		t.Errorf("the second pass copied %d bytes, %v", n, err)
	}
	if err := os.Remove(filepath.Join(root, "var/lib/etcd/large")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if files, bytes := s.Size(); files != 2 || bytes != 2 {
		t.Errorf("%d files of %d bytes are left, want a directory and a file of 2", files, bytes)
	}
}

// TestHostile: a backup that somebody made who only knows the public key cannot
// reach anything but the site's state.
func TestHostile(t *testing.T) {
	for name, files := range map[string][]tar.Header{
		"elsewhere":       {{Typeflag: tar.TypeReg, Name: "etc/passwd"}},
		"almost there":    {{Typeflag: tar.TypeReg, Name: "var/lib/etcd2/x"}},
		"a beginning":     {{Typeflag: tar.TypeReg, Name: "var/lib/holdfast/audit.log.d/x"}},
		"through a link":  {{Typeflag: tar.TypeSymlink, Name: "var/lib/etcd/a", Linkname: "../holdfast"}, {Typeflag: tar.TypeReg, Name: "var/lib/etcd/a/x"}},
		"a pipe":          {{Typeflag: tar.TypeSymlink, Name: "var/lib/etcd/a", Linkname: "../holdfast"}, {Typeflag: tar.TypeFifo, Name: "var/lib/etcd/a/x"}},
		"a link's link":   {{Typeflag: tar.TypeSymlink, Name: "var/lib/etcd/a", Linkname: "../holdfast"}, {Typeflag: tar.TypeLink, Name: "var/lib/etcd/b", Linkname: "var/lib/etcd/a"}, {Typeflag: tar.TypeReg, Name: "var/lib/etcd/b/x"}},
		"in place of one": {{Typeflag: tar.TypeSymlink, Name: "var/lib/etcd/a", Linkname: "../holdfast/x"}, {Typeflag: tar.TypeReg, Name: "var/lib/etcd/a"}},
		"a link's target": {{Typeflag: tar.TypeLink, Name: "var/lib/etcd/a", Linkname: "var/lib/holdfast/secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, k := t.TempDir(), key(t)
			write(t, root, map[string]string{"var/lib/holdfast/secret": "s", "var/lib/etcd/": ""})
			before := listing(t, filepath.Join(root, "var/lib/holdfast"))
			h := header(nil)
			h.Files = int64(len(files))
			var b bytes.Buffer
			w, err := format.NewWriter(&b, []age.Recipient{k.Recipient()}, h)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if err := w.Add(&f, strings.NewReader("")); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			r, err := format.NewReader(&b, []age.Identity{k})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := backup.Restore(t.Context(), r, root, []string{"/var/lib/etcd", "/var/lib/holdfast/audit.log*"}, nothing); err == nil {
				t.Error("restored")
			}
			if got := listing(t, filepath.Join(root, "var/lib/holdfast")); got != before {
				t.Errorf("changed: %s", got)
			}
		})
	}
}

func TestFreeze(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"sys/fs/cgroup/kubepods.slice/cgroup.events": "populated 1\nfrozen 1\n",
		"sys/fs/cgroup/kubepods.slice/cgroup.freeze": "0",
	})
	state := func() string {
		b, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup/kubepods.slice/cgroup.freeze"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	groups := []string{"kubepods.slice", "not.there"}
	if err := backup.Freeze(t.Context(), root, groups); err != nil || state() != "1" {
		t.Errorf("held: %s, %v", state(), err)
	}
	if err := backup.Thaw(root, groups); err != nil || state() != "0" {
		t.Errorf("let go: %s, %v", state(), err)
	}
	write(t, root, map[string]string{"sys/fs/cgroup/kubepods.slice/cgroup.events": "populated 1\nfrozen 0\n"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := backup.Freeze(ctx, root, groups); err == nil || !strings.Contains(err.Error(), "kubepods.slice") {
		t.Errorf("one that does not stop: %v", err)
	}
}
