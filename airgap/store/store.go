// Package store is a content-addressed store of blobs on disk, laid out as an
// OCI image layout (blobs/sha256/HEX). A blob enters only with the digest and
// size that were asked for, and is used only while the file is the one that
// was checked: size, mtime, ctime and inode are compared with a record written
// at that check, and a difference makes the store read the blob again.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrMismatch is wrapped by errors about bytes that are not those asked for.
var ErrMismatch = errors.New("digest mismatch")

// ErrMissing is wrapped by errors about a blob that the store does not have.
var ErrMissing = errors.New("not in the store")

// Digest is "sha256:" and 64 lower-case hexadecimal digits.
type Digest string

// ParseDigest checks the form of s.
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, "sha256:")
	if b, err := hex.DecodeString(h); !ok || err != nil || len(b) != sha256.Size || strings.ToLower(h) != h {
		return "", fmt.Errorf("cannot read digest %q: want sha256: and 64 lower-case hexadecimal digits", s)
	}
	return Digest(s), nil
}

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// SHA256 is the digest of a hash sum.
func SHA256(sum []byte) Digest { return Digest("sha256:" + hex.EncodeToString(sum)) }

// FromBytes is the digest of b.
func FromBytes(b []byte) Digest {
	s := sha256.Sum256(b)
	return SHA256(s[:])
}

// Content names bytes: any reader of them can check that it has the right ones.
type Content struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Store is a directory of blobs.
type Store struct {
	dir    string
	lock   *os.File // while it is worked in; see Enter
	Rehash bool     // read every blob before its use, whatever the record says
}

// Open makes dir if it is not there.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"blobs/sha256", "checked", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("cannot open store: %w", err)
		}
	}
	layout := filepath.Join(dir, "oci-layout")
	if _, err := os.Stat(layout); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(layout, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
			return nil, fmt.Errorf("cannot open store: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Path is where the blob lies once it is in the store.
func (s *Store) Path(d Digest) string {
	return filepath.Join(s.dir, "blobs", "sha256", d.Hex())
}

// record says which file was checked.
type record struct {
	Size         int64
	MTime, CTime int64 // nanoseconds
	Inode        uint64
}

func stat(name string) (record, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return record{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return record{}, fmt.Errorf("internal error: no stat of %s", name)
	}
	return record{st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Ino}, nil
}

func (s *Store) recordPath(d Digest) string { return filepath.Join(s.dir, "checked", d.Hex()) }

func (s *Store) remember(d Digest) error {
	r, err := stat(s.Path(d))
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(s.dir, "tmp"), s.recordPath(d), b)
}

// Check reports whether the store holds c, whole. It reads the blob only if
// its file is not the one that was last checked, or if s.Rehash is set. A blob
// with other bytes is removed, so that it is fetched again; the error then
// wraps ErrMismatch, and ErrMissing where there is no blob.
func (s *Store) Check(c Content) error {
	p := s.Path(c.Digest)
	now, err := stat(p)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot find %s: %w", c.Digest, ErrMissing)
	}
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", c.Digest, err)
	}
	if !s.Rehash && now.Size == c.Size {
		var r record
		if b, err := os.ReadFile(s.recordPath(c.Digest)); err == nil && json.Unmarshal(b, &r) == nil && r == now {
			used(s.recordPath(c.Digest))
			return nil
		}
	}
	f, err := os.Open(p)
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", c.Digest, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", c.Digest, err)
	}
	if got := SHA256(h.Sum(nil)); got != c.Digest || n != c.Size {
		if err := errors.Join(os.Remove(p), removeIfThere(s.recordPath(c.Digest))); err != nil {
			return fmt.Errorf("cannot remove the damaged %s: %w", p, err)
		}
		return fmt.Errorf("cannot use %s: %w: its %d bytes are %s; removed", c.Digest, ErrMismatch, n, got)
	}
	return s.remember(c.Digest)
}

// Open checks c and opens it.
func (s *Store) Open(c Content) (*os.File, error) {
	if err := s.Check(c); err != nil {
		return nil, err
	}
	return os.Open(s.Path(c.Digest))
}

// ReadFile checks c and reads it whole; c must be at most limit bytes.
func (s *Store) ReadFile(c Content, limit int64) ([]byte, error) {
	if c.Size > limit {
		return nil, fmt.Errorf("cannot read %s: %d bytes, more than the %d allowed", c.Digest, c.Size, limit)
	}
	if err := s.Check(c); err != nil {
		return nil, err
	}
	return os.ReadFile(s.Path(c.Digest))
}

// Put reads r into the store; nothing enters unless its bytes are c.
func (s *Store) Put(c Content, r io.Reader) error {
	got, commit, err := s.receive(io.LimitReader(r, c.Size+1))
	if err != nil {
		return fmt.Errorf("cannot store %s: %w", c.Digest, err)
	}
	if got != c {
		commit(false)
		return fmt.Errorf("cannot store %s of %d bytes: %w: got %s of %d bytes", c.Digest, c.Size, ErrMismatch, got.Digest, got.Size)
	}
	if err := commit(true); err != nil {
		return fmt.Errorf("cannot store %s: %w", c.Digest, err)
	}
	return nil
}

// Write reads all of r into the store and says what it was. It is for bytes
// made here; what comes from elsewhere enters by Put.
func (s *Store) Write(r io.Reader) (Content, error) {
	c, commit, err := s.receive(r)
	if err != nil {
		return Content{}, fmt.Errorf("cannot store: %w", err)
	}
	if err := commit(true); err != nil {
		return Content{}, fmt.Errorf("cannot store %s: %w", c.Digest, err)
	}
	return c, nil
}

// WriteBytes is Write of b.
func (s *Store) WriteBytes(b []byte) (Content, error) {
	c := Content{FromBytes(b), int64(len(b))}
	if s.Check(c) == nil {
		return c, nil
	}
	return s.Write(strings.NewReader(string(b)))
}

// TempFile makes a file beside the blobs, for a writer that needs to seek;
// Adopt moves it into place.
func (s *Store) TempFile() (*os.File, error) {
	return os.CreateTemp(filepath.Join(s.dir, "tmp"), "blob-*")
}

// Adopt takes the file at name, on the store's own file system, as the blob c,
// which the caller computed while writing it.
func (s *Store) Adopt(name string, c Content) error {
	if err := os.Chmod(name, 0o444); err != nil {
		return fmt.Errorf("cannot store %s: %w", c.Digest, err)
	}
	if err := os.Rename(name, s.Path(c.Digest)); err != nil {
		return fmt.Errorf("cannot store %s: %w", c.Digest, err)
	}
	return s.remember(c.Digest)
}

func (s *Store) receive(r io.Reader) (c Content, commit func(bool) error, err error) {
	f, err := s.TempFile()
	if err != nil {
		return Content{}, nil, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), r)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return Content{}, nil, err
	}
	c = Content{SHA256(h.Sum(nil)), n}
	return c, func(keep bool) error {
		if !keep {
			return os.Remove(f.Name())
		}
		return s.Adopt(f.Name(), c)
	}, nil
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeFile writes name by way of a temporary file in dir.
func writeFile(dir, name string, b []byte) error {
	f, err := os.CreateTemp(dir, "file-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
