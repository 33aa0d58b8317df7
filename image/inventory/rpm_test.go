package inventory_test

import (
	"bytes"
	"compress/gzip"
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

// A database that is damaged, or says something else than rpm's, is counted as
// one entry that could not be understood; a damaged header as well.
func TestBadRPM(t *testing.T) {
	good := rpmdb(t)
	header := strings.Index(good, "tree-like-libs\x00")
	for what, c := range map[string]struct {
		text     string
		packages int
	}{
		"not a database":    {"SQLite format 3", 0},
		"cut off":           {good[:len(good)/2], 0},
		"another table":     {strings.ReplaceAll(good, "Packages", "Baggages"), 0},
		"an endless view":   {made(t, "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob+1 FROM n) SELECT blob FROM n"), 0},
		"a computed column": {made(t, "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB GENERATED ALWAYS AS (zeroblob(1000)))", "INSERT INTO Packages VALUES (1)"), 0},
		"bad name":          {good[:header] + "tree like-libs" + good[header+len("tree-like-libs"):], 2},
		"empty":             {"", 0},
		"only its end":      {strings.Repeat("\x00", 4096) + good[4096:], 0},
	} {
		got := contents(t, layer(t, rpm(c.text)))
		if len(got.Packages) != c.packages || !strings.Contains(got.Notes[0], ", and 1 entries that could not be understood") {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

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
