package slot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/slot"
)

func TestEntryNames(t *testing.T) {
	for name, want := range map[string]slot.Entry{
		"holdfast-7.efi":      {Release: 7},
		"holdfast-7+3.efi":    {Release: 7, Counted: true, Left: 3},
		"holdfast-7+2-1.efi":  {Release: 7, Counted: true, Left: 2, Done: 1},
		"holdfast-12+0-3.efi": {Release: 12, Counted: true, Done: 3},
	} {
		got, ok := slot.ParseEntry(name)
		if !ok || got != want || got.Name() != name {
			t.Errorf("%s: %+v, %v, %s", name, got, ok, got.Name())
		}
	}
	for _, name := range []string{
		"", "holdfast-.efi", "holdfast-07.efi", "holdfast-7.new", "holdfast-7+.efi", "holdfast-7+3-.efi", "holdfast-7+3-1-1.efi",
		"holdfast--7.efi", "holdfast-7.EFI", "xholdfast-7.efi", "holdfast-7+1.efi.efi", "holdfast-99999999999999999999.efi", "holdfast-7+100000.efi",
	} {
		if e, ok := slot.ParseEntry(name); ok {
			t.Errorf("%q is %+v", name, e)
		}
	}
}

func TestOrder(t *testing.T) {
	want := []string{
		"holdfast-10.efi", "holdfast-9+3.efi", "holdfast-2+3.efi", "holdfast-2+2-1.efi", "holdfast-2.efi", "holdfast-1.efi",
		"holdfast-11+0-3.efi", "holdfast-9+0-3.efi",
	}
	var in []slot.Entry
	for _, name := range want {
		e, _ := slot.ParseEntry(name)
		in = append([]slot.Entry{e}, in...)
	}
	var got []string
	for _, e := range slot.Order(in) {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func espDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, slot.EntryDir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func list(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, slot.EntryDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return fmt.Sprint(names)
}

func TestWriteEntry(t *testing.T) {
	ctx, dir := context.Background(), espDir(t)
	image := bytes.Repeat([]byte("kernel"), 100_001)
	checked := false
	tmp, err := slot.WriteEntry(ctx, dir, 2, source(image), func(b []byte) error {
		checked = bytes.Equal(b, image)
		return nil
	})
	if err != nil || !checked || tmp != "holdfast-2.new" {
		t.Fatalf("%s, checked %v, %v", tmp, checked, err)
	}
	if entries, err := slot.Entries(dir); err != nil || len(entries) != 0 {
		t.Errorf("before it has its name: %v, %v", entries, err)
	}
	trial := slot.Entry{Release: 2, Counted: true, Left: slot.Tries}
	if err := slot.Rename(dir, tmp, trial.Name()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, slot.EntryDir, "holdfast-1.efi"), image, 0o600); err != nil {
		t.Fatal(err)
	}
	if entries, err := slot.Entries(dir); err != nil || !slices.Equal(entries, []slot.Entry{trial, {Release: 1}}) {
		t.Errorf("%v, %v", entries, err)
	}
	if err := slot.Rename(dir, "holdfast-1.efi", trial.Name()); err == nil {
		t.Error("an entry was renamed over another")
	}
	for range 2 {
		if err := slot.Remove(dir, trial.Name()); err != nil {
			t.Error(err)
		}
	}
	if got := list(t, dir); got != "[holdfast-1.efi]" {
		t.Errorf("left: %s", got)
	}
}

func TestWriteEntryLeavesNothingBehind(t *testing.T) {
	image := []byte("kernel")
	ok := func([]byte) error { return nil }
	refused := errors.New("refused")
	other, long, short := source(image), source(image), source(image)
	other.Raw.Digest = store.FromBytes(nil)
	long.Raw.Size--
	short.Raw.Size++
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		src   slot.Source
		check func([]byte) error
		want  error
	}{
		"other bytes": {context.Background(), other, ok, store.ErrMismatch},
		"too long":    {context.Background(), long, ok, store.ErrMismatch},
		"too short":   {context.Background(), short, ok, nil},
		"nothing":     {context.Background(), source(nil), ok, nil},
		"refused":     {context.Background(), source(image), func([]byte) error { return refused }, refused},
		"ended":       {ended, source(image), ok, context.Canceled},
	} {
		dir := espDir(t)
		_, err := slot.WriteEntry(c.ctx, dir, 2, c.src, c.check)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := list(t, dir); got != "[]" {
			t.Errorf("%s: left: %s", name, got)
		}
	}
}
