package deb_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ulikunitz "github.com/ulikunitz/xz"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/image/rootfs"
)

var long = strings.Repeat("long-name/", 25) // beyond what ustar can hold

var contents = []member{
	dir("./"), dir("./usr/"), dir("./usr/bin/"), file("./usr/bin/demo", "hello"),
	{tar.Header{Name: "./usr/bin/again", Typeflag: tar.TypeLink, Linkname: "./usr/bin/demo"}, ""},
	{tar.Header{Name: "./usr/bin/su", Mode: 0o4755}, "setuid"},
	link("./usr/bin/d", "demo"), file("./usr/"+long+"file", "deep"), file("./etc/empty", ""),
	{tar.Header{Name: "./usr/pax-ü", Format: tar.FormatPAX}, "pax"},
}

func TestUnpack(t *testing.T) {
	for _, suffix := range []string{"", ".xz", ".gz", ".zst"} {
		name := write(t, "demo.deb", makeDeb(t, suffix, contents...))
		dst := filepath.Join(t.TempDir(), "data.tar")
		c, err := deb.Decompress(context.Background(), name, dst)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := os.ReadFile(dst)
		if err != nil || store.FromBytes(plain) != c.Digest || int64(len(plain)) != c.Size {
			t.Errorf("%s: other bytes than said: %v", suffix, err)
		}
		if tool, err := exec.LookPath("dpkg-deb"); err == nil {
			want, err := exec.Command(tool, "--fsys-tarfile", name).Output()
			if err != nil || !bytes.Equal(want, plain) {
				t.Errorf("%s: dpkg-deb has another data.tar: %v", suffix, err)
			}
		}
		tree := rootfs.New(0)
		if err := deb.AddTar(tree, dst, deb.AddOptions{Package: "demo"}); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{"usr/bin/demo": "hello", "usr/bin/again": "hello", "usr/" + long + "file": "deep", "etc/empty": "", "usr/pax-ü": "pax"} {
			if got := read(t, tree, path); got != want {
				t.Errorf("%s: got %q, want %q", path, got, want)
			}
		}
		a, _ := tree.Get("usr/bin/demo")
		b, _ := tree.Get("usr/bin/again")
		if a.Data != b.Data {
			t.Error("a hard link does not share its content")
		}
		if su, _ := tree.Get("usr/bin/su"); su.Mode != rootfs.TypeRegular|0o4755 || su.MTime != 1700000000 {
			t.Errorf("got %+v", su)
		}
	}
}

func read(t *testing.T, tree *rootfs.Tree, path string) string {
	t.Helper()
	f, ok := tree.Get(path)
	if !ok {
		t.Fatalf("no %s", path)
	}
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDrop(t *testing.T) {
	tree := rootfs.New(0)
	drop := func(p string) bool { return p == "usr/bin/demo" }
	if err := deb.AddTar(tree, write(t, "data.tar", makeTar(t, contents...)), deb.AddOptions{Drop: drop}); err != nil {
		t.Fatal(err)
	}
	if _, ok := tree.Get("usr/bin/demo"); ok {
		t.Error("it was not dropped")
	}
	if got := read(t, tree, "usr/bin/again"); got != "hello" {
		t.Errorf("the other name of a dropped file: got %q", got)
	}
}

func TestAddTarRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		members []member
		want    error
	}{
		"a path that climbs":         {[]member{file("./../x", "")}, rootfs.ErrEscape},
		"a path that climbs inside":  {[]member{file("./a/../b", "")}, rootfs.ErrEscape},
		"an absolute path":           {[]member{file("/x", "")}, nil},
		"a link that leaves":         {[]member{link("./a/b", "../../x")}, rootfs.ErrEscape},
		"an absolute link that does": {[]member{link("./a/b", "/../x")}, rootfs.ErrEscape},
		"a file over a file":         {[]member{file("./x", "1"), file("./x", "2")}, rootfs.ErrConflict},
		"a device":                   {[]member{{tar.Header{Name: "./d", Typeflag: tar.TypeChar}, ""}}, nil},
		"a FIFO":                     {[]member{{tar.Header{Name: "./d", Typeflag: tar.TypeFifo}, ""}}, nil},
		"a hard link to nothing":     {[]member{{tar.Header{Name: "./d", Typeflag: tar.TypeLink, Linkname: "./e"}, ""}}, nil},
		"a file below a file":        {[]member{file("./x", ""), file("./x/y", "")}, nil},
		"an attribute":               {[]member{{tar.Header{Name: "./x", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, ""}}, nil},
	} {
		err := deb.AddTar(rootfs.New(0), write(t, "data.tar", makeTar(t, c.members...)), deb.AddOptions{Package: "evil"})
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		} else if !strings.Contains(err.Error(), "evil") {
			t.Errorf("%s: the package is not named: %v", name, err)
		}
	}
	short := makeTar(t, file("./x", strings.Repeat("x", 4096)))[:2048]
	if err := deb.AddTar(rootfs.New(0), write(t, "data.tar", short), deb.AddOptions{}); err == nil {
		t.Error("a tar that is cut short was taken")
	}
}

func TestBadDeb(t *testing.T) {
	good := makeDeb(t, ".xz", contents...)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-100] ^= 1
	for name, b := range map[string][]byte{
		"empty": nil, "no ar": []byte("hello, world, hello"), "format 3": makeAr("debian-binary", "3.0\n"),
		"no data": makeAr("debian-binary", "2.0\n"), "unknown compression": makeAr("debian-binary", "2.0\n", "data.tar.lzma", ""),
		"cut short": good[:len(good)-200], "flipped": flipped,
	} {
		dst := filepath.Join(t.TempDir(), "data.tar")
		if _, err := deb.Decompress(context.Background(), write(t, "bad.deb", b), dst); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, _ := os.ReadDir(filepath.Dir(dst)); len(left) != 0 {
			t.Errorf("%s: %s was left", name, left[0].Name())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := deb.Decompress(ctx, write(t, "a.deb", good), filepath.Join(t.TempDir(), "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDecompressAll(t *testing.T) {
	out := t.TempDir()
	jobs := []deb.Job{
		{Deb: write(t, "a.deb", makeDeb(t, ".xz", file("./a", "a"))), Tar: filepath.Join(out, "a")},
		{Deb: write(t, "b.deb", makeDeb(t, ".xz", file("./b", "b"))), Tar: filepath.Join(out, "b")},
	}
	n := 0
	cs, err := deb.DecompressAll(context.Background(), jobs, 2, func(done, total int) { n = done })
	if err != nil || n != 2 || cs[0] == cs[1] {
		t.Errorf("got %v, %d, %v", cs, n, err)
	}
	jobs = append(jobs, deb.Job{Deb: "gone1", Tar: out + "/x"}, deb.Job{Deb: "gone2", Tar: out + "/y"})
	_, err = deb.DecompressAll(context.Background(), jobs, 2, nil)
	if err == nil || !strings.Contains(err.Error(), "gone1") || !strings.Contains(err.Error(), "gone2") {
		t.Errorf("not all faults: %v", err)
	}
}

func TestInspect(t *testing.T) {
	m, err := deb.Inspect(bytes.NewReader(makeDeb(t, ".xz")))
	if err != nil {
		t.Fatal(err)
	}
	if m.Control.Get("Version") != "1:2.0-1" || m.Scripts["postinst"] != store.FromBytes([]byte("#!/bin/sh\n")) || len(m.Scripts) != 1 ||
		strings.Join(m.Conffiles, " ") != "/etc/demo.conf /etc/old" {
		t.Errorf("got %+v", m)
	}
	if _, err := deb.Inspect(bytes.NewReader(makeAr("debian-binary", "2.0\n", "control.tar", string(makeTar(t, file("./x", "")))))); err == nil {
		t.Error("a package without a control file was taken")
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(makeDeb(f, "", contents...))
	f.Add(makeDeb(f, ".gz"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = deb.Inspect(bytes.NewReader(b))
	})
}

func FuzzAddTar(f *testing.F) {
	f.Add(makeTar(f, contents...))
	f.Add(makeTar(f, link("./bin", "usr/bin"), file("./bin/sh", "x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree := rootfs.New(0)
		_ = deb.AddTarFrom(tree, bytes.NewReader(b), "data.tar", deb.AddOptions{})
		for _, file := range tree.Files() {
			if !file.IsRegular() || file.Data == nil {
				continue
			}
			s, ok := file.Data.(rootfs.Section)
			if !ok || s.Offset < 0 || s.Length < 0 || s.Offset+s.Length > int64(len(b)) {
				t.Errorf("%s lies outside its tar: %+v", file.Path, file.Data)
			}
		}
	})
}

func BenchmarkXZ(b *testing.B) {
	var text bytes.Buffer
	for i := range 200000 {
		text.WriteString(strings.Repeat(string(rune('a'+i%26)), i%7) + "word" + string(rune('a'+i%13)))
	}
	packed := compress(b, ".xz", text.Bytes())
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"used":      func(r io.Reader) (io.Reader, error) { return deb.Decompressor(r, ".xz") },
		"ulikunitz": func(r io.Reader) (io.Reader, error) { return ulikunitz.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(text.Len()))
			for b.Loop() {
				r, err := open(bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
