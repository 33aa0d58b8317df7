package signing_test

import (
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/signing"
)

func newSite(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := signing.GenerateSite(dir, "demo", rand.Reader, time.Unix(1_700_000_000, 0), false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEnrolmentOfNewSite(t *testing.T) {
	dir := newSite(t)
	files, err := signing.ReadEnrolment(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"KEK.auth", "KEK.cer", "PK.auth", "PK.cer", "db.auth", "db.cer"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	// A build has none of these keys.
	if err := os.RemoveAll(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	again, err := signing.ReadEnrolment(dir)
	if err != nil || string(again["db.auth"]) != string(files["db.auth"]) {
		t.Errorf("without private keys: %v", err)
	}
}

// Equal keys and time give equal files.
func TestWriteEnrolmentIsDeterministic(t *testing.T) {
	dir := newSite(t)
	before, err := signing.ReadEnrolment(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.WriteEnrolment(dir, time.Unix(1_700_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	after, err := signing.ReadEnrolment(dir)
	if err != nil || !maps.EqualFunc(before, after, slices.Equal[[]byte]) {
		t.Errorf("the files differ (%v)", err)
	}
}

// Whose programs may run is what the site's directory says, and files made
// before it changed are not used.
func TestEnrolmentOfOthersCertificates(t *testing.T) {
	dir, others := newSite(t), newSite(t)
	pem, err := os.ReadFile(filepath.Join(others, "trust/db.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "trust/db.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "trust/db.d/vendor.crt"), pem, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = signing.ReadEnrolment(dir)
	if err == nil || !strings.Contains(err.Error(), "trust/db.auth: it does not hold") || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("files made before: got %v", err)
	}
	if err := signing.WriteEnrolment(dir, time.Unix(1_700_000_001, 0)); err != nil {
		t.Fatal(err)
	}
	files, err := signing.ReadEnrolment(dir)
	if err != nil {
		t.Fatal(err)
	}
	vendor, err := signing.LoadCertificate(filepath.Join(dir, "trust/db.d/vendor.crt"))
	if err != nil || !strings.Contains(string(files["db.auth"]), string(vendor.Raw)) {
		t.Errorf("db.auth lacks the other certificate (%v)", err)
	}
}

func TestEnrolmentFaults(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"missing": {func(d string) error { return os.Remove(filepath.Join(d, "trust/PK.auth")) }, "PK.auth"},
		"of another variable": {func(d string) error {
			return os.Rename(filepath.Join(d, "trust/KEK.auth"), filepath.Join(d, "trust/PK.auth"))
		}, "trust/PK.auth: cannot verify PK"},
		"signed by another KEK": {func(d string) error {
			return os.Rename(filepath.Join(newSite(t), "trust/KEK.crt"), filepath.Join(d, "trust/KEK.crt"))
		}, "trust/db.auth: cannot verify db"},
		"too large": {func(d string) error {
			return os.WriteFile(filepath.Join(d, "trust/db.auth"), make([]byte, 1<<20), 0o644)
		}, "more than"},
		"no certificate": {func(d string) error {
			return errors.Join(os.Mkdir(filepath.Join(d, "trust/db.d"), 0o755), os.WriteFile(filepath.Join(d, "trust/db.d/a.crt"), []byte("?"), 0o644))
		}, "a.crt"},
	} {
		dir := newSite(t)
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := signing.ReadEnrolment(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestWriteEnrolmentWithoutKeys(t *testing.T) {
	dir := newSite(t)
	before, err := os.ReadFile(filepath.Join(dir, "trust/db.auth"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"PK", "KEK"} {
		if err := os.Remove(filepath.Join(dir, "keys", n+".key")); err != nil {
			t.Fatal(err)
		}
	}
	err = signing.WriteEnrolment(dir, time.Unix(1_800_000_000, 0))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "PK.key") || !strings.Contains(err.Error(), "KEK.key") {
		t.Errorf("got %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "trust/db.auth")); string(after) != string(before) {
		t.Error("a file was replaced")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "trust/.new-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
