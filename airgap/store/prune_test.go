package store_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap/store"
)

// TestMain lets the test's own program be another process in the store: it
// enters it, leaves work there, and waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_ENTER"); dir != "" {
		s, err := store.Open(dir)
		if err == nil {
			err = s.Enter(time.Now())
		}
		if err == nil {
			_, err = s.TempFile()
		}
		if err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("entered\n")
		select {}
	}
	os.Exit(m.Run())
}

func other(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_ENTER="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "entered\n" {
		t.Fatal(line, err)
	}
	return cmd
}

func enter(t *testing.T, dir string, now time.Time) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Enter(now); err != nil {
		t.Fatal(err)
	}
	return s
}

func left(t *testing.T, dir string) int {
	t.Helper()
	es, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

func TestWorkOfTheKilledGoesAndOfTheLivingStays(t *testing.T) {
	dir := t.TempDir()
	cmd := other(t, dir)
	later := time.Now().Add(3 * time.Hour)
	s := enter(t, dir, later)
	if left(t, dir) != 1 {
		t.Error("a run removed what another one works on")
	}
	if _, err := s.Prune(store.PruneOptions{Now: later}); !errors.Is(err, store.ErrBusy) || left(t, dir) != 1 {
		t.Errorf("prune: got %v, want ErrBusy", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	got, err := s.Prune(store.PruneOptions{Now: later, DryRun: true})
	if err != nil || got.Leftovers.Entries != 1 || left(t, dir) != 1 {
		t.Errorf("dry run: got %+v, %v", got, err)
	}
	if got, err := s.Prune(store.PruneOptions{Now: later}); err != nil || got.Leftovers.Entries != 1 || left(t, dir) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAnOrdinaryRunClearsUp(t *testing.T) {
	dir := t.TempDir()
	if _, err := store.Open(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", "blob-1"), make([]byte, 9), 0o600); err != nil {
		t.Fatal(err)
	}
	sealed := filepath.Join(dir, "tmp", "unpack-1", "sealed", "x")
	if err := os.MkdirAll(sealed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(sealed), 0o555); err != nil {
		t.Fatal(err)
	}
	enter(t, dir, time.Now())
	if left(t, dir) != 2 {
		t.Error("what was written a moment ago is gone")
	}
	dir2 := t.TempDir()
	if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir2, "tmp")); err != nil {
		t.Fatal(err)
	}
	dir = dir2
	enter(t, dir, time.Now().Add(2*time.Hour))
	if left(t, dir) != 0 {
		t.Error("the work of a process that is gone is still there")
	}
}

func TestPruneByUse(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	s := enter(t, dir, now)
	old := now.Add(-100 * 24 * time.Hour)
	age := func(name string) {
		t.Helper()
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", 5000)), 0o644); err != nil {
			t.Fatal(err)
		}
		age(name)
	}
	var blobs []store.Content
	var keys []store.Digest
	for _, name := range []string{"used", "unused"} {
		c, err := s.WriteBytes([]byte(name))
		if err != nil {
			t.Fatal(err)
		}
		key := store.FromBytes([]byte(name))
		if err := s.Remember(key, c); err != nil {
			t.Fatal(err)
		}
		age("checked/" + c.Digest.Hex())
		age("derived/" + key.Hex() + ".json")
		blobs, keys = append(blobs, c), append(keys, key)
	}
	// The blobs' own times are what the record compares with: they are new.
	var c store.Content
	if !s.Recall(keys[0], &c) || s.Check(c) != nil {
		t.Fatal("not there")
	}
	for _, n := range []string{"partial/a", "gobuild/00/a-d", "gobuild/README", "gomod/a", "toolchain/a", "blobs/sha256/notes"} {
		write(n)
	}
	o := store.PruneOptions{Now: now, DryRun: true}
	if got, err := s.Prune(o); err != nil || got.Unused.Entries != 0 || got.Partial.Entries != 1 || got.Partial.Bytes < 5000 {
		t.Errorf("leftovers only: got %+v, %v", got, err)
	}
	o.OlderThan, o.Now = 30*24*time.Hour, now
	got, err := s.Prune(o)
	if err != nil || got.Unused.Entries != 2 { // a result and a compiled package; the blobs were written now
		t.Errorf("got %+v, %v", got, err)
	}
	o.DryRun = false
	if _, err := s.Prune(o); err != nil {
		t.Fatal(err)
	}
	if s.Recall(keys[1], &c) || !s.Recall(keys[0], &c) || s.Check(blobs[0]) != nil || s.Check(blobs[1]) != nil {
		t.Error("the wrong results or blobs went")
	}
	for name, want := range map[string]bool{"partial/a": false, "gobuild/00/a-d": false, "gobuild/README": true, "gomod/a": true, "toolchain/a": true, "blobs/sha256/notes": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A blob goes by its last use, not by when it was written.
	age("checked/" + blobs[1].Digest.Hex())
	age("blobs/sha256/" + blobs[1].Digest.Hex())
	age("blobs/sha256/" + blobs[0].Digest.Hex())
	if got, err := s.Prune(o); err != nil || got.Unused.Entries != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	if !errors.Is(s.Check(blobs[1]), store.ErrMissing) || s.Check(blobs[0]) != nil {
		t.Error("the wrong blob went")
	}
}
