package inventory_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"holdfast.dev/holdfast/image/inventory"
)

// rpmdb is a database that rpm 4.18 made, of three packages that were built for
// it, in SQLite's mode of a log beside the file, as rpm leaves it.
func rpmdb(t testing.TB) string {
	t.Helper()
	f, err := os.Open("testdata/rpmdb.sqlite.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func rpm(text string) entry { return entry{name: "var/lib/rpm/rpmdb.sqlite", text: text} }

func TestRPM(t *testing.T) {
	c := contents(t, layer(t, entry{name: "etc/os-release", text: "ID=\"rhel\"\nVERSION_ID=\"9.7\"\n"}, rpm(rpmdb(t))))
	want := inventory.Contents{
		OS: inventory.OS{ID: "rhel", Version: "9.7"},
		Packages: []inventory.Package{
			{Kind: "rpm", Name: "plain", Version: "0~rc1^git2-1.ph5", Arch: "noarch"},
			{Kind: "rpm", Name: "tree-like", Version: "2:1.8.0-10.el9", Arch: "x86_64"},
			{Kind: "rpm", Name: "tree-like-libs", Version: "2:1.8.0-10.el9", Arch: "x86_64", Source: "tree-like"},
		},
		Notes: []string{"var/lib/rpm/rpmdb.sqlite: 3 packages"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v", c)
	}
	c = contents(t, layer(t, entry{name: "usr/lib/sysimage/rpm/Packages.db", text: "x"}))
	if !slices.Equal(c.Notes, []string{"usr/lib/sysimage/rpm/Packages.db: a database of rpm in another form than that of SQLite, which is not read"}) {
		t.Errorf("another form: %q", c.Notes)
	}
}

// A database that is damaged, or says something else than rpm's, is said to be
// so; a damaged header is counted.
func TestBadRPM(t *testing.T) {
	good := rpmdb(t)
	header := strings.Index(good, "tree-like-libs\x00")
	const damaged = "var/lib/rpm/rpmdb.sqlite: damaged, or no database of rpm, and not read"
	for what, c := range map[string]struct{ text, note string }{
		"not a database":    {"SQLite format 3", damaged},
		"cut off":           {good[:len(good)/2], damaged},
		"another table":     {strings.ReplaceAll(good, "Packages", "Baggages"), damaged},
		"an endless view":   {made(t, "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob+1 FROM n) SELECT blob FROM n"), damaged},
		"a computed column": {made(t, "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB GENERATED ALWAYS AS (zeroblob(1000)))", "INSERT INTO Packages VALUES (1)"), damaged},
		"another one":       {made(t, "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB AS(zeroblob(1000)))", "INSERT INTO Packages VALUES (1)"), damaged},
		"a page many times": {bomb(t), damaged},
		"bad name":          {good[:header] + "tree like-libs" + good[header+len("tree-like-libs"):], "var/lib/rpm/rpmdb.sqlite: 2 packages, and 1 entries that could not be understood"},
		"empty":             {"", damaged},
		"only its end":      {strings.Repeat("\x00", 4096) + good[4096:], damaged},
	} {
		got := contents(t, layer(t, rpm(c.text)))
		if !slices.Equal(got.Notes, []string{c.note}) || c.note == damaged && len(got.Packages) > 0 {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// A reading that is interrupted once the layers are through gives an error, and
// not what it has by then.
func TestInterruptedRPM(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	l := inventory.Layer{Name: "x", Open: func() (io.ReadCloser, error) {
		return stopping{bytes.NewReader(layer(t, rpm(rpmdb(t)))), stop}, nil
	}}
	dir := t.TempDir()
	if _, err := inventory.Read(ctx, []inventory.Layer{l}, func() (*os.File, error) { return os.CreateTemp(dir, "") }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// stopping ends a context when it is closed.
type stopping struct {
	io.Reader
	stop func()
}

func (s stopping) Close() error { s.stop(); return nil }

// made is a database of SQLite after these statements.
func made(t *testing.T, statements ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	db, err := sqlite3.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bomb is a database whose table's root leads many times to one page, and so to
// more rows than fit into it.
func bomb(t *testing.T) string {
	t.Helper()
	const page, interior = 4096, 5
	b := []byte(made(t, "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 4000) INSERT INTO Packages SELECT i, zeroblob(1000) FROM n"))
	root := b[page : 2*page]
	for at := 2 * page; at < len(b); at += page {
		if b[at] != interior {
			continue
		}
		copy(root, b[at:at+page])
		to := uint32(at/page + 1)
		for i := range int(binary.BigEndian.Uint16(root[3:])) {
			cell := binary.BigEndian.Uint16(root[12+2*i:])
			binary.BigEndian.PutUint32(root[cell:], to)
		}
		binary.BigEndian.PutUint32(root[8:], to) // the last child
		return string(b)
	}
	t.Fatal("the table has but one page that leads to others")
	return ""
}

// TestReferenceRPM compares what is read with what rpm says.
func TestReferenceRPM(t *testing.T) {
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip("no rpm")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rpmdb.sqlite"), []byte(rpmdb(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("rpm", "--dbpath", dir, "-qa", "--qf", "rpm %{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(want)
	if got := names(contents(t, layer(t, rpm(rpmdb(t))))); !slices.Equal(got, want) {
		t.Errorf("read %q, rpm has %q", got, want)
	}
}

// Whatever a database holds, it is read or counted as not understood.
func FuzzRPM(f *testing.F) {
	good := rpmdb(f)
	f.Add(0, []byte{})
	f.Add(strings.Index(good, "CREATE TABLE"), []byte("CREATE VIEW "))
	f.Add(strings.Index(good, "tree-like"), bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, at int, patch []byte) {
		if at < 0 || at+len(patch) > len(good) {
			return
		}
		c := contents(t, layer(t, rpm(good[:at]+string(patch)+good[at+len(patch):])))
		for _, p := range c.Packages {
			if p.Name == "" || p.Version == "" || strings.ContainsAny(p.Name+p.Version+p.Arch+p.Source, " \n\x1b\"") {
				t.Errorf("listed %+v", p)
			}
		}
	})
}
