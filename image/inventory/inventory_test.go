package inventory_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/image/inventory"
)

// entry is a file of a layer: a directory if its name ends with a slash, a
// link if it has a target.
type entry struct{ name, text, link string }

const hard = "hard:" // before the target of a hard link

func layer(t testing.TB, es ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range es {
		h := &tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.text)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(e.link, hard):
			h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(e.link, hard)
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t testing.TB, layers ...[]byte) (inventory.Contents, error) {
	t.Helper()
	var ls []inventory.Layer
	for i, b := range layers {
		ls = append(ls, inventory.Layer{Name: fmt.Sprint(i), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
	}
	dir := t.TempDir()
	c, err := inventory.Read(context.Background(), ls, func() (*os.File, error) { return os.CreateTemp(dir, "") })
	if left, e := os.ReadDir(dir); e != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, e)
	}
	return c, err
}

func contents(t testing.TB, layers ...[]byte) inventory.Contents {
	t.Helper()
	c, err := read(t, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func names(c inventory.Contents) []string {
	out := []string{}
	for _, p := range c.Packages {
		out = append(out, p.Kind+" "+p.Name+" "+p.Version)
	}
	return out
}

const (
	zlib = "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nSource: zlib (1.2)\nVersion: 1:1.2.13-1\nDescription: a\n library\n"
	bash = "Package: bash\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 5.2-1\n"
	gone = "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
	musl = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\nF:lib\nR:ld-musl.so\n\nP:busybox-binsh\nV:1.36.1-r29\nA:x86_64\no:busybox\n\n"
)

func status(text string) entry { return entry{name: "var/lib/dpkg/status", text: text} }

func TestDatabases(t *testing.T) {
	c := contents(t, layer(t,
		entry{name: "etc/"}, entry{name: "etc/os-release", link: "../usr/lib/os-release"},
		entry{name: "usr/lib/os-release", text: "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n"},
		status(zlib+"\n"+bash+"\n"+gone)))
	want := inventory.Contents{
		OS: inventory.OS{ID: "debian", Version: "12"},
		Packages: []inventory.Package{
			{Kind: "deb", Name: "bash", Version: "5.2-1", Arch: "amd64"},
			{Kind: "deb", Name: "zlib1g", Version: "1:1.2.13-1", Arch: "amd64", Source: "zlib"},
		},
		Notes: []string{"var/lib/dpkg/status: 2 packages"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v", c)
	}
	c = contents(t, layer(t,
		entry{name: "./var/lib/dpkg/status.d/tzdata", text: "Package: tzdata\nVersion: 2024a\nArchitecture: all\n"},
		entry{name: "./var/lib/dpkg/status.d/tzdata.md5sums", text: "x"},
		entry{name: "./var/lib/dpkg/status.d/base", text: "Package: base-files\nVersion: 12\nArchitecture: amd64\n"}))
	if got := names(c); !slices.Equal(got, []string{"deb base-files 12", "deb tzdata 2024a"}) || !slices.Equal(c.Notes, []string{"var/lib/dpkg/status.d: 2 packages"}) {
		t.Errorf("status.d: %q %q", got, c.Notes)
	}
	c = contents(t, layer(t, entry{name: "/etc/os-release", text: "ID=alpine\nVERSION_ID=3.20.1\n"}, entry{name: "/lib/apk/db/installed", text: musl}))
	if got := names(c); !slices.Equal(got, []string{"apk busybox-binsh 1.36.1-r29", "apk musl 1.2.5-r0"}) || c.OS != (inventory.OS{ID: "alpine", Version: "3.20.1"}) || c.Packages[0].Source != "busybox" {
		t.Errorf("apk: %q %+v", got, c.OS)
	}
	c = contents(t, layer(t, entry{name: "app", text: "#!/bin/sh\n" + strings.Repeat("x", 100)}))
	if !slices.Equal(c.Notes, []string{"no database of packages, no package of a language and no Go program"}) || len(c.Packages)+len(c.Modules) > 0 {
		t.Errorf("nothing: %+v", c)
	}
}

// What is malformed is counted, and the rest is listed.
func TestMalformed(t *testing.T) {
	c := contents(t, layer(t, status(zlib+"\nPackage: ../../etc\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n"+
		"Package: x\x1b[31m\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n")))
	if got := names(c); !slices.Equal(got, []string{"deb zlib1g 1:1.2.13-1"}) || !slices.Equal(c.Notes, []string{"var/lib/dpkg/status: 1 packages, and 2 entries that could not be understood"}) {
		t.Errorf("got %q %q", got, c.Notes)
	}
	c = contents(t, layer(t, entry{name: "lib/apk/db/installed", text: "P:a b\nV:1\nA:x86_64\n\n" + musl + "P:x\nV:\nA:x86_64"}))
	if len(c.Packages) != 2 || !slices.Equal(c.Notes, []string{"lib/apk/db/installed: 2 packages, and 2 entries that could not be understood"}) {
		t.Errorf("got %+v", c)
	}
}

// The image is what the layers make together.
func TestLayers(t *testing.T) {
	lower := layer(t, entry{name: "var/lib/dpkg/"}, status(zlib), entry{name: "lib/apk/db/installed", text: musl})
	both := []string{"apk busybox-binsh 1.36.1-r29", "apk musl 1.2.5-r0", "deb zlib1g 1:1.2.13-1"}
	apk := both[:2]
	for name, x := range map[string]struct {
		layers [][]byte
		want   []string
	}{
		"one":                      {[][]byte{lower}, both},
		"replaced":                 {[][]byte{lower, layer(t, status(bash))}, []string{both[0], both[1], "deb bash 5.2-1"}},
		"whiteout":                 {[][]byte{lower, layer(t, entry{name: "var/lib/dpkg/.wh.status"})}, apk},
		"whiteout of a directory":  {[][]byte{lower, layer(t, entry{name: "var/.wh.lib"})}, apk},
		"whiteout and a new one":   {[][]byte{lower, layer(t, status(bash), entry{name: "var/lib/dpkg/.wh.status"})}, []string{both[0], both[1], "deb bash 5.2-1"}},
		"whiteout in its layer":    {[][]byte{layer(t, status(zlib), entry{name: "var/lib/dpkg/.wh.status"})}, []string{"deb zlib1g 1:1.2.13-1"}},
		"opaque":                   {[][]byte{lower, layer(t, entry{name: "var/lib/dpkg/"}, entry{name: "var/lib/dpkg/.wh..wh..opq"})}, apk},
		"opaque and a new one":     {[][]byte{lower, layer(t, entry{name: "var/lib/.wh..wh..opq"}, status(bash))}, []string{both[0], both[1], "deb bash 5.2-1"}},
		"opaque root":              {[][]byte{lower, layer(t, entry{name: ".wh..wh..opq"})}, []string{}},
		"opaque elsewhere":         {[][]byte{lower, layer(t, entry{name: "var/lib/dpkgs/.wh..wh..opq"})}, both},
		"directory is a directory": {[][]byte{lower, layer(t, entry{name: "var/lib/dpkg/"})}, both},
		"directory for the file":   {[][]byte{lower, layer(t, entry{name: "var/lib/dpkg/status/"})}, apk},
		"file for a directory":     {[][]byte{lower, layer(t, entry{name: "var/lib", text: "x"})}, apk},
		"link for a directory":     {[][]byte{lower, layer(t, entry{name: "var", link: "tmp"})}, apk},
		"and a directory again":    {[][]byte{lower, layer(t, entry{name: "var", link: "tmp"}), layer(t, entry{name: "var/"})}, apk},
		"AUFS's own":               {[][]byte{lower, layer(t, entry{name: ".wh..wh.aufs"}, entry{name: "var/.wh..wh.plnk"})}, both},
		"whiteout of nothing":      {[][]byte{lower, layer(t, entry{name: "var/.wh."})}, both},
		"twice in a layer":         {[][]byte{layer(t, status(zlib), status(bash))}, []string{"deb bash 5.2-1"}},
		"link over it in a layer":  {[][]byte{layer(t, status(zlib), entry{name: "var/lib/dpkg/status", link: "x"})}, []string{}},
		"out of the root":          {[][]byte{lower, layer(t, entry{name: "../../var/lib/dpkg/.wh.status"})}, apk},
	} {
		if got := names(contents(t, x.layers...)); !slices.Equal(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
	for _, link := range []string{"/etc/passwd", hard + "etc/passwd"} {
		c := contents(t, layer(t, entry{name: "var/lib/dpkg/status", link: link}))
		if !slices.Equal(c.Notes, []string{"var/lib/dpkg/status: not a regular file, and not read"}) {
			t.Errorf("%s: %q", link, c.Notes)
		}
	}
}

func TestCompression(t *testing.T) {
	plain := layer(t, status(zlib))
	var gz, zst bytes.Buffer
	g := gzip.NewWriter(&gz)
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range [][]byte{plain, gz.Bytes(), zst.Bytes()} {
		if got := names(contents(t, b)); len(got) != 1 {
			t.Errorf("got %q", got)
		}
	}
	for name, b := range map[string][]byte{
		"cut gzip": gz.Bytes()[:gz.Len()/2], "cut zstd": zst.Bytes()[:zst.Len()/2], "cut tar": plain[:600], "no tar": []byte(strings.Repeat("no tar ", 200)),
	} {
		if _, err := read(t, b); err == nil || !strings.Contains(err.Error(), "cannot read layer 0") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A Go program is known by what the compiler wrote into it.
func TestGoProgram(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to compile with")
	}
	name := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-o", name, "./testdata/program").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	c := contents(t, layer(t, entry{name: "usr/bin/app", text: string(b)}, entry{name: "usr/bin/again", text: string(b)},
		entry{name: "usr/bin/broken", text: string(b[:4096])}))
	if len(c.Modules) != 3 || c.Modules[0].Path != "golang.org/x/mod" || c.Modules[0].Version != "v0.42.0" || !strings.HasPrefix(c.Modules[0].H1, "h1:") ||
		c.Modules[1].Path != "holdfast.dev/holdfast" || c.Modules[2].Path != "std" || !strings.HasPrefix(c.Modules[2].Version, "go1.") {
		t.Errorf("modules: %+v", c.Modules)
	}
	if !slices.Equal(c.Notes, []string{"Go build information of 2 programs: 3 modules"}) {
		t.Errorf("notes: %q", c.Notes)
	}
	if c := contents(t, layer(t, entry{name: "usr/bin/app", text: string(b)}), layer(t, entry{name: "usr/.wh.bin"})); len(c.Modules) > 0 {
		t.Errorf("a program that is gone: %+v", c.Modules)
	}
}

func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := layer(t, status(zlib))
	l := inventory.Layer{Name: "x", Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
	if _, err := inventory.Read(ctx, []inventory.Layer{l}, func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "") }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	l.Open = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	if _, err := inventory.Read(t.Context(), []inventory.Layer{l}, func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "") }); err == nil || err.Error() != "cannot read layer x: gone" {
		t.Errorf("got %v", err)
	}
}

// Whatever a layer holds, it is read or refused, and what is listed has
// proper names.
func FuzzLayer(f *testing.F) {
	f.Add(layer(f, status(zlib), entry{name: "etc/os-release", text: "ID=debian"}))
	f.Add(layer(f, entry{name: "lib/apk/db/installed", text: musl}, entry{name: "a/.wh..wh..opq"}))
	f.Add(layer(f, entry{name: "bin/app", text: "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 100)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := read(t, b)
		if err != nil {
			return
		}
		for _, p := range c.Packages {
			if p.Name == "" || p.Version == "" || strings.ContainsAny(p.Name+p.Version+p.Arch+p.Source, " \n\x1b\"") {
				t.Errorf("listed %+v", p)
			}
		}
		if len(c.Notes) == 0 || len(c.Notes) > 41 {
			t.Errorf("%d notes", len(c.Notes))
		}
	})
}

// TestReference compares what is read of this machine's own database with what
// dpkg says.
func TestReference(t *testing.T) {
	b, err := os.ReadFile("/var/lib/dpkg/status")
	out, toolErr := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Status} deb ${Package} ${Version}\n").Output()
	if err != nil || toolErr != nil {
		t.Skip("no dpkg, or no packages of it")
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			want = append(want, p)
		}
	}
	got := names(contents(t, layer(t, status(string(b)))))
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("read %d packages, dpkg has %d: %q", len(got), len(want), got)
	}
}
