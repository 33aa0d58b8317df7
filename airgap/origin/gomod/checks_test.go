package gomod

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
)

// A check is done again when a file is another one by its size, times or inode,
// when it failed, and when asked for.
func TestOnce(t *testing.T) {
	cache := t.TempDir()
	file := filepath.Join(cache, "dir", "file")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	var fault error
	check := func() error { n++; return fault }
	for _, step := range []struct {
		name   string
		before func()
		rehash bool
		want   int // checks until then
	}{
		{"first", func() { write("a") }, false, 1},
		{"again", func() {}, false, 1},
		{"rehash", func() {}, true, 2},
		{"after a rehash", func() {}, false, 2},
		{"as long as before", func() { write("b") }, false, 3},
		{"one more file", func() {
			if err := os.WriteFile(file+"2", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, false, 4},
		{"gone", func() {
			if err := os.RemoveAll(filepath.Dir(file)); err != nil {
				t.Fatal(err)
			}
		}, false, 5},
		{"fails", func() { fault = errors.New("bad"); write("c") }, false, 6},
		{"still fails", func() {}, false, 7},
		{"mended", func() { fault = nil }, false, 8},
		{"known", func() {}, false, 8},
	} {
		step.before()
		c := NewChecks(cache, step.rehash)
		for range 2 { // the second time it is known, or fails again
			err := c.once("dir", []string{filepath.Dir(file)}, check)
			if !errors.Is(err, fault) {
				t.Errorf("%s: %v", step.name, err)
			}
			if fault != nil {
				break
			}
		}
		if n != step.want {
			t.Errorf("%s: %d checks, want %d", step.name, n, step.want)
		}
	}
	var none *Checks
	if err := none.once("dir", nil, check); err != nil || n != 9 {
		t.Errorf("without records: %d checks, %v", n, err)
	}
}

// Other bytes under the size and mtime of the right ones are noticed.
func TestOfflineRemembers(t *testing.T) {
	goroot := hostGo(t)
	recipe, files := dependency(t)
	cache := t.TempDir()
	if Present(recipe, cache) {
		t.Error("modules are there before they are fetched")
	}
	if err := FetchModules(t.Context(), goroot, serve(t, files).proxy(), recipe, cache, NewChecks(cache, false), nil); err != nil {
		t.Fatal(err)
	}
	offline := func(rehash bool) error {
		return Offline(t.Context(), goroot, recipe, cache, NewChecks(cache, rehash))
	}
	if err := errors.Join(offline(false), offline(false)); err != nil || !Present(recipe, cache) {
		t.Fatal(err)
	}
	records, err := os.ReadDir(filepath.Join(cache, "checked.modules"))
	if err != nil || len(records) != 2 {
		t.Errorf("%d records, want one of the module and one of the packages: %v", len(records), err)
	}
	name := filepath.Join(ModCache(cache), "example.org", "dep@v1.0.0", "dep.go")
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	evil := bytes.Replace(b, []byte(`"word"`), []byte(`"evil"`), 1)
	if err := errors.Join(os.WriteFile(name, evil, 0o644), os.Chtimes(name, fi.ModTime(), fi.ModTime())); err != nil {
		t.Fatal(err)
	}
	for _, rehash := range []bool{false, true, false} {
		if err := offline(rehash); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("altered, rehash %v: error is %v, want ErrMismatch", rehash, err)
		}
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := offline(false); err != nil {
		t.Errorf("mended: %v", err)
	}
}
