package bundles_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

// putSparse puts a blob of size zero bytes into the store.
func putSparse(t testing.TB, s *store.Store, size int64) store.Content {
	t.Helper()
	f, err := s.TempFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	c := store.Content{Digest: store.SHA256(h.Sum(nil)), Size: size}
	if err := s.Adopt(f.Name(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// flipper changes one bit of the byte at that place of what is written.
type flipper struct {
	w  io.Writer
	at int64
}

func (f *flipper) Write(b []byte) (int, error) {
	if f.at >= 0 && f.at < int64(len(b)) {
		b = bytes.Clone(b)
		b[f.at] ^= 4
	}
	f.at -= int64(len(b))
	return f.w.Write(b)
}

// TestABlobOverEightGiB is about sizes that do not fit a ustar header: no byte
// of such a blob goes unverified.
func TestABlobOverEightGiB(t *testing.T) {
	if os.Getenv("HOLDFAST_SLOW") == "" {
		t.Skip("reads 24 GiB: set HOLDFAST_SLOW to run it")
	}
	s := openStore(t)
	in := input(t, s)
	in.OS[0].Content = putSparse(t, s, 8<<30+1000)
	rel := compose(t, s, in)
	sigs := signWith(t, rel, mine)
	for _, at := range []int64{-1, 8<<30 + 900} {
		r, w := io.Pipe()
		go func() { w.CloseWithError(bundles.Pack(t.Context(), &flipper{w, at}, s, rel, sigs, nil)) }()
		_, err := bundles.Open(t.Context(), r, trustFor(t, "official", mine), nil)
		if (at < 0) != (err == nil) || at >= 0 && !errors.Is(err, store.ErrMismatch) {
			t.Errorf("changed at %d: got %v", at, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkOpen is to be compared with sha256sum of the same file.
func BenchmarkOpen(b *testing.B) {
	s := openStore(b)
	in := input(b, s)
	in.OS[0].Content = putSparse(b, s, 512<<20)
	rel := compose(b, s, in)
	name := b.TempDir() + "/demo.bundle"
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := bundles.Pack(b.Context(), f, s, rel, signWith(b, rel, mine), nil); err != nil {
		b.Fatal(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		b.Fatal(err)
	}
	trust := trustFor(b, "official", mine)
	for name, open := range map[string]func() error{
		"Open": func() error { _, err := bundles.OpenAt(b.Context(), f, size, trust, nil); return err },
		"SHA256": func() error {
			_, err := io.CopyBuffer(sha256.New(), io.NewSectionReader(f, 0, size), make([]byte, 1<<20))
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(size)
			for b.Loop() {
				if err := open(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
