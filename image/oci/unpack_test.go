package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/oci"
)

type member struct {
	name, text, target string
	kind               byte
	mode               int64
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.kind == 0 {
			m.kind = tar.TypeReg
		}
		if m.mode == 0 {
			m.mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.target, Mode: m.mode, Size: int64(len(m.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpacked(t testing.TB, layers ...[]byte) (dir string, err error) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var descs []oci.LayerDesc
	for i, l := range layers {
		d := oci.LayerDesc{MediaType: v1.MediaTypeImageLayer}
		if i%2 == 1 {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write(l)
			z.Close()
			l, d.MediaType = b.Bytes(), v1.MediaTypeImageLayerGzip
		}
		if d.Content, err = s.WriteBytes(l); err != nil {
			t.Fatal(err)
		}
		descs = append(descs, d)
	}
	dir = t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return dir, oci.Unpack(t.Context(), s, descs, root)
}

// list tells what is in a directory: of each file its mode and its text, or
// where it leads.
func list(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(name, dir+"/")
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		say := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			say += " " + string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			if say, err = os.Readlink(name); err != nil {
				return err
			}
		}
		out = append(out, rel+" "+say)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestUnpack(t *testing.T) {
	below := tarOf(t,
		member{name: "usr/lib/", kind: tar.TypeDir, mode: 0o755},
		member{name: "lib", kind: tar.TypeSymlink, target: "usr/lib"},
		member{name: "./usr/lib/a", text: "a", mode: 0o4755},
		member{name: "gone", text: "x"}, member{name: "gone-dir/f", text: "x"},
		member{name: "opaque/old", text: "x"}, member{name: "becomes-dir", text: "x"},
		member{name: "becomes-file/f", text: "x"}, member{name: "same", text: "old"},
		member{name: "etc/link", kind: tar.TypeSymlink, target: "/etc/same"},
		member{name: "dev/sda", kind: tar.TypeBlock}, member{name: "secret", text: "s", mode: 0o1})
	above := tarOf(t,
		member{name: "lib/", kind: tar.TypeDir, mode: 0o711}, // of merged directories
		member{name: "lib/b", text: "b"},
		member{name: "hard", kind: tar.TypeLink, target: "./usr/lib/a"},
		member{name: ".wh.gone"}, member{name: ".wh.gone-dir"}, member{name: ".wh..wh.plnk"}, member{name: ".wh..."},
		member{name: "opaque/new", text: "n"}, member{name: "opaque/.wh..wh..opq"},
		member{name: "becomes-dir/", kind: tar.TypeDir, mode: 0o755}, member{name: "becomes-dir/f", text: "f"}, member{name: "becomes-file", text: "f"},
		member{name: "same", text: "new"}, member{name: ".wh.same"}, // put here: stays
		member{name: "missing/.wh..wh..opq"}) // nothing to hide
	dir, err := unpacked(t, below, above)
	if want := `becomes-dir drwxr-xr-x
becomes-dir/f -rw-r--r-- f
becomes-file -rw-r--r-- f
dev drwxr-xr-x
etc drwxr-xr-x
etc/link /etc/same
hard -rwxr-xr-x a
lib usr/lib
opaque drwxr-xr-x
opaque/new -rw-r--r-- n
same -rw-r--r-- new
secret -rw------x s
usr drwxr-xr-x
usr/lib drwx--x--x
usr/lib/a -rwxr-xr-x a
usr/lib/b -rw-r--r-- b`; err != nil || list(t, dir) != want {
		t.Errorf("%v:\n%s\nwant\n%s", err, list(t, dir), want)
	}
}

// One layer is what tar makes of it.
func TestUnpackAsTar(t *testing.T) {
	layer := tarOf(t,
		member{name: "d/", kind: tar.TypeDir, mode: 0o750}, member{name: "d/f", text: "f", mode: 0o755},
		member{name: "d/l", kind: tar.TypeSymlink, target: "f"}, member{name: "h", kind: tar.TypeLink, target: "d/f"},
		member{name: "d/f", text: "again"}, member{name: strings.Repeat("long/", 40) + "ü", text: "x"})
	dir, err := unpacked(t, layer)
	if err != nil {
		t.Fatal(err)
	}
	want := t.TempDir()
	cmd := exec.Command("tar", "-x", "-C", want)
	cmd.Stdin = bytes.NewReader(layer)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := list(t, dir), list(t, want); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestUnpackRefuses(t *testing.T) {
	for _, c := range []struct {
		members []member
		want    string
	}{
		{[]member{{name: "a", kind: tar.TypeSymlink, target: "../.."}, {name: "a/b", text: "x"}}, "/a/b"},
		{[]member{{name: "a", kind: tar.TypeSymlink, target: "/tmp"}, {name: "a/b", text: "x"}}, "/a/b"},
		{[]member{{name: "a", kind: tar.TypeLink, target: "missing"}}, "/a"},
		{[]member{{name: "a", text: "x"}, {name: "a/b", text: "x"}}, "/a/b"},
	} {
		if _, err := unpacked(t, tarOf(t, c.members...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error is %v, want %q", c.members, err, c.want)
		}
	}
	if _, err := unpacked(t, []byte("no tar")); err == nil {
		t.Error("what is no tar is a layer")
	}
}

// Whatever a layer holds, nothing beside the directory changes.
func FuzzUnpackTar(f *testing.F) {
	f.Add(tarOf(f, member{name: "../a", text: "x"}, member{name: "l", kind: tar.TypeSymlink, target: "../outside"}, member{name: "l", text: "y"}))
	f.Add(tarOf(f, member{name: "l", kind: tar.TypeSymlink, target: "../outside"}, member{name: "h", kind: tar.TypeLink, target: "l"}, member{name: "h/.wh..wh..opq"}))
	f.Add(tarOf(f, member{name: "d/.wh..wh..opq"}, member{name: ".wh...."}, member{name: ".wh.x/y", text: "z"}))
	f.Fuzz(func(t *testing.T, layer []byte) {
		around := t.TempDir()
		for _, d := range []string{"root", "outside"} {
			if err := os.Mkdir(filepath.Join(around, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(around+"/outside/file", []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(around + "/root")
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = oci.UnpackTar(t.Context(), bytes.NewReader(layer), root)
		entries, err := os.ReadDir(around)
		if b, rerr := os.ReadFile(around + "/outside/file"); err != nil || rerr != nil || string(b) != "text" || len(entries) != 2 {
			t.Errorf("%v, %v, %q, %s", err, rerr, b, fmt.Sprint(entries))
		}
	})
}
