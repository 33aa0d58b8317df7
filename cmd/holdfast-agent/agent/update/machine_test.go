package update

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles/install"
)

func node(t *testing.T, files map[string]string) Machine {
	t.Helper()
	m := Machine{Root: t.TempDir(), Datastore: "/var/lib/etcd"}
	for name, text := range files {
		p := m.path(name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
}

const linux = ESP + "/EFI/Linux/"

func TestTries(t *testing.T) {
	m := node(t, map[string]string{linux + "holdfast-1.efi": "1", linux + "holdfast-2+1-2.efi": "2", linux + "holdfast-3.new": "3", linux + "other.efi": "x"})
	got, err := m.entries()
	if err != nil || !maps.Equal(got, map[uint64]install.Tries{1: install.Uncounted, 2: 1}) {
		t.Errorf("entries %v, %v", got, err)
	}
	for _, c := range []struct {
		tries install.Tries
		want  string
	}{{install.FullTries, "holdfast-2+3.efi"}, {0, "holdfast-2+0.efi"}, {0, "holdfast-2+0.efi"}, {install.Uncounted, "holdfast-2.efi"}} {
		if err := m.setTries(2, c.tries); err != nil {
			t.Fatal(err)
		}
		if got := names(t, m.path(linux)); !slices.Equal(got, []string{"holdfast-1.efi", c.want, "holdfast-3.new", "other.efi"}) {
			t.Errorf("after %d tries: %q", c.tries, got)
		}
	}
	if err := m.setTries(9, 3); err == nil {
		t.Error("a release without an entry got tries")
	}
	if err := m.removeEntry(3); err != nil {
		t.Error(err)
	}
	if err := m.removeEntry(2); err != nil {
		t.Error(err)
	}
	if got := names(t, m.path(linux)); !slices.Equal(got, []string{"holdfast-1.efi", "other.efi"}) {
		t.Errorf("left are %q", got)
	}
}

// The copy is what the datastore was, whatever comes after it, and can be
// restored over again, also after a cut half way.
func TestDatastore(t *testing.T) {
	m := node(t, map[string]string{"/var/lib/etcd/member/wal/0.wal": "old", "/var/lib/etcd/member/snap/db": "old db"})
	if err := m.copyDatastore(t.Context(), 4, stopped); err != nil {
		t.Fatal(err)
	}
	wal := m.path("/var/lib/etcd/member/wal")
	if err := os.WriteFile(filepath.Join(wal, "0.wal"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(wal, "1.wal"), []byte("more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.path("/var/lib/etcd.new/half"), 0o700); err != nil { // of a cut
		t.Fatal(err)
	}
	for range 2 {
		if err := m.restoreDatastore(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(wal, "0.wal"))
		if err != nil || string(b) != "old" || !slices.Equal(names(t, wal), []string{"0.wal"}) {
			t.Errorf("restored %q (%v), %q", b, err, names(t, wal))
		}
	}
	if err := m.restoreDatastore(t.Context(), 5); err == nil {
		t.Error("restored what was never copied")
	}
	if got := names(t, m.path("/var/lib")); !slices.Equal(got, []string{"etcd", "holdfast"}) {
		t.Errorf("left behind: %q", got)
	}
}

// What a copy of the datastore cannot be used without goes with it, and one that
// was not there is not missed.
func TestBesideTheDatastore(t *testing.T) {
	const token, keys, late = "/var/lib/rancher/k3s/server/token", "/var/lib/rancher/k3s/server/cred/encryption-config.json", "/var/lib/rancher/k3s/server/cred/late.json"
	m := node(t, map[string]string{"/var/lib/rancher/k3s/server/db/state.db": "old", token: "old token", keys: "old keys"})
	m.Datastore, m.Beside = "/var/lib/rancher/k3s/server/db", []string{token, keys, late}
	if err := m.copyDatastore(t.Context(), 4, stopped); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{m.Datastore + "/state.db": "new", m.Datastore + "/state.db-wal": "new", token: "new", late: "new"} {
		if err := os.WriteFile(m.path(name), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(m.path(keys)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.restoreDatastore(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{m.Datastore + "/state.db": "old", token: "old token", keys: "old keys", late: "new"} {
			if b, err := os.ReadFile(m.path(name)); err != nil || string(b) != want {
				t.Errorf("%s is %q (%v), want %q", name, b, err, want)
			}
		}
		if got := names(t, m.path(m.Datastore)); !slices.Equal(got, []string{"state.db"}) {
			t.Errorf("the datastore has %q", got)
		}
	}
	// A copy that is made again has nothing of the one before.
	if err := os.Remove(m.path(token)); err != nil {
		t.Fatal(err)
	}
	if err := m.copyDatastore(t.Context(), 4, stopped); err != nil {
		t.Fatal(err)
	}
	if got := names(t, m.path(DatastoreDir+"/4.beside")); len(got) != 2 {
		t.Errorf("copied are %q", got)
	}
}

// A node without an engine has nothing to copy, and nothing to miss.
func TestNoDatastore(t *testing.T) {
	m := node(t, nil)
	m.Datastore = ""
	if err := m.copyDatastore(t.Context(), 4, stopped); err != nil {
		t.Fatal(err)
	}
	if err := m.restoreDatastore(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
}

// What was dumped before an update is to be put back when its datastore was, and
// by that release alone.
func TestDumps(t *testing.T) {
	m := node(t, map[string]string{"/var/lib/etcd/a": "old"})
	left := func(release uint64) string {
		t.Helper()
		names, err := m.PutBacks(release)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(names, " ")
	}
	for _, d := range []Dumps{{4, []string{"web", "mail"}}, {4, []string{"web"}}} {
		if err := errors.Join(m.KeepDumps(d), m.copyDatastore(t.Context(), 4, stopped)); err != nil {
			t.Fatal(err)
		}
	}
	if got := left(4); got != "" {
		t.Errorf("before the way back: %q", got)
	}
	for range 2 {
		if err := m.restoreDatastore(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
	}
	if left(4) != "web" || left(5) != "" {
		t.Errorf("after it: %q, of another release %q", left(4), left(5))
	}
	for range 2 {
		if err := m.SetPutBacks(Dumps{Release: 4}); err != nil {
			t.Fatal(err)
		}
	}
	if got := left(4); got != "" {
		t.Errorf("at the end: %q", got)
	}
}
