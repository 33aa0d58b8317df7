package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The bounds of these tests: a file is full with its second line.
const (
	fullAt  = 200
	keepAll = 1000
)

// longLog is a log of n lines in many files.
func longLog(t *testing.T, n, kept int) (name string, whats []string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "audit.log")
	for i := range n {
		whats = append(whats, fmt.Sprintf("line-%d", i))
		if err := appendAudit(name, noon, Event{What: whats[i], From: 1, To: 2}, fullAt, kept); err != nil {
			t.Fatal(err)
		}
	}
	return name, whats
}

// told are the lines of a log that are good.
func told(name string, kept int) (whats []string, err error) {
	err = readAudit(name, kept, func(l Line) error { whats = append(whats, l.What); return nil })
	return whats, err
}

func TestAuditGoesOnInAnotherFile(t *testing.T) {
	name, want := longLog(t, 40, keepAll)
	got, err := told(name, keepAll)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v, %v", got, err)
	}
	files, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if fi, err := f.Info(); err != nil || fi.Size() > 2*fullAt {
			t.Errorf("%s: %d bytes, %v", f.Name(), fi.Size(), err)
		}
	}
	if _, err := told(filepath.Join(t.TempDir(), "audit.log"), keepAll); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
}

func TestAuditKeepsSoManyFiles(t *testing.T) {
	const kept = 3
	name, all := longLog(t, 40, kept)
	numbers, err := numbered(name)
	if err != nil || len(numbers) != kept {
		t.Fatalf("files %v, %v", numbers, err)
	}
	got, err := told(name, kept)
	if err != nil || len(got) < kept || !slices.Equal(got, all[len(all)-len(got):]) {
		t.Fatalf("%v, %v", got, err)
	}

	// What a hand does to any file is seen.
	first, second := numberedName(name, numbers[0]), numberedName(name, numbers[1])
	a, b := mustRead(t, first), mustRead(t, second)
	for what, change := range map[string]func(){
		"the oldest taken out": func() { os.Remove(first) },
		"one taken out":        func() { os.Remove(second) },
		"swapped":              func() { mustWrite(t, first, b); mustWrite(t, second, a) },
		"changed":              func() { mustWrite(t, first, bytes.Replace(a, []byte("line-"), []byte("LINE-"), 1)) },
		"cut short":            func() { mustWrite(t, second, b[:len(b)-20]) },
		"headless":             func() { mustWrite(t, second, b[bytes.IndexByte(b, '\n')+1:]) },
	} {
		change()
		if _, err := told(name, kept); err == nil || errors.Is(err, ErrTorn) {
			t.Errorf("%s: got %v", what, err)
		}
		mustWrite(t, first, a)
		mustWrite(t, second, b)
	}
	if err := os.Remove(name); err != nil { // it had the head of the chain
		t.Fatal(err)
	}
	if _, err := told(name, kept); err != nil {
		t.Errorf("without the last file, which only a copy can show: %v", err)
	}
}

// Power goes after each step of going on in another file, and at every byte of
// the first line in it: no line is lost, and the next one follows.
func TestAuditPowerCutBetweenFiles(t *testing.T) {
	full, want := longLog(t, 2, keepAll)
	old := mustRead(t, full)
	if len(old) < fullAt {
		t.Fatalf("%d bytes are not a full file", len(old))
	}
	if err := appendAudit(full, noon, Event{What: "next"}, fullAt, keepAll); err != nil {
		t.Fatal(err)
	}
	next := mustRead(t, full)
	if bytes.Count(next, []byte("\n")) != 1 {
		t.Fatalf("not the first line of a file: %s", next)
	}
	check := func(what string, old, current []byte, want []string) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "audit.log")
		mustWrite(t, numberedName(name, 1), old)
		if current != nil {
			mustWrite(t, name, current)
		}
		if got, err := told(name, keepAll); !slices.Equal(got, want) || err != nil && !errors.Is(err, ErrTorn) {
			t.Fatalf("%s: got %v, %v", what, got, err)
		}
		for _, w := range []string{"after", "and on"} {
			if err := appendAudit(name, noon, Event{What: w}, fullAt, keepAll); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if got, err := told(name, keepAll); err != nil || !slices.Equal(got, slices.Concat(want, []string{"after", "and on"})) {
			t.Fatalf("%s: then %v, %v", what, got, err)
		}
		// What the old file held is still held by the chain.
		mustWrite(t, numberedName(name, 1), bytes.Replace(old, []byte("line-0"), []byte("LINE-0"), 1))
		if _, err := told(name, keepAll); err == nil {
			t.Fatalf("%s: a change was not seen", what)
		}
	}
	check("moved", old, nil, want)
	for cut := range len(next) + 1 {
		is := want
		if cut >= len(next)-1 { // it lacks its newline at most
			is = slices.Concat(want, []string{"next"})
		}
		check(fmt.Sprintf("cut at %d of %d", cut, len(next)), old, next[:cut], is)
	}
	// The old file itself is torn at its end, or lacks a newline.
	begin := bytes.IndexByte(old, '\n') + 1
	for cut := begin; cut <= len(old); cut++ {
		is := want[:1]
		if cut >= len(old)-1 {
			is = want
		}
		check(fmt.Sprintf("old file cut at %d of %d", cut, len(old)), old[:cut], nil, is)
		check(fmt.Sprintf("old file cut at %d of %d, and torn on", cut, len(old)), old[:cut], []byte(`{"time":`), is)
	}
	if !strings.Contains(string(old), "line-1") {
		t.Error("the test cuts another line than it thinks")
	}
}

// Two processes write one log while it goes on in other files.
func TestAuditTwoWriters(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	done := make(chan error)
	for w := range 2 {
		go func() {
			var errs []error
			for i := range 50 {
				errs = append(errs, appendAudit(name, noon, Event{What: fmt.Sprintf("%d-%d", w, i)}, fullAt, keepAll))
			}
			done <- errors.Join(errs...)
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got, err := told(name, keepAll); err != nil || len(got) != 100 {
		t.Errorf("%d lines, %v", len(got), err)
	}
}
