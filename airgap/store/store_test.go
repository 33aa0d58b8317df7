package store_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
)

func content(s string) store.Content {
	return store.Content{Digest: store.FromBytes([]byte(s)), Size: int64(len(s))}
}

func TestOnlyTheRightBytesEnter(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := content("hello")
	for _, wrong := range []string{"hellO", "hell", "hello!", ""} {
		if err := s.Put(c, strings.NewReader(wrong)); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("put %q: got %v, want ErrMismatch", wrong, err)
		}
		if err := s.Check(c); !errors.Is(err, store.ErrMissing) {
			t.Errorf("after %q: got %v, want ErrMissing", wrong, err)
		}
	}
	if err := s.Put(c, strings.NewReader("hello")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.ReadFile(c, 10); err != nil || string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
	if left, _ := os.ReadDir(s.Dir() + "/tmp"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestADamagedBlobIsFoundAndRemoved(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.WriteBytes([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	p := s.Path(c.Digest)
	if err := os.Chmod(p, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("hellO"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(c); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
	if err := s.Check(c); !errors.Is(err, store.ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
}
