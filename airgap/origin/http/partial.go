package http

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast.dev/holdfast/airgap/store"
)

// partial is a file that a transfer appends to, and the hash of what it holds.
// It is this process's alone, where the file system has locks: another one that
// wants the same bytes waits.
type partial struct {
	*os.File
	store  *store.Store
	want   store.Content
	hash   hash.Hash
	at     int64 // its end
	shared bool  // nobody could be kept out
}

// openPartial opens or makes the file for c and reads what an earlier
// transfer left in it.
func openPartial(ctx context.Context, s *store.Store, c store.Content) (*partial, error) {
	name := filepath.Join(s.Dir(), "partial", c.Digest.Hex())
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		shared := errors.Is(err, syscall.ENOLCK) || errors.Is(err, errors.ErrUnsupported)
		if err == nil && isStill(f, name) || shared {
			p := &partial{File: f, store: s, want: c, hash: sha256.New(), shared: shared}
			if p.at, err = io.Copy(p.hash, f); err != nil {
				f.Close()
				return nil, err
			}
			return p, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// isStill reports whether name is the file that is open: the one who had the
// lock may have moved it into the store.
func isStill(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b)
}

// close leaves a beginning for the next transfer, and no empty file.
func (p *partial) close() {
	if p.at == 0 && isStill(p.File, p.Name()) {
		os.Remove(p.Name())
	}
	p.Close()
}

// reset empties the file.
func (p *partial) reset() error {
	p.at = 0
	p.hash.Reset()
	if err := p.Truncate(0); err != nil {
		return &Permanent{err}
	}
	return nil
}

// save writes r behind the end, up to one byte more than is wanted: enough to
// know that it is too long.
func (p *partial) save(r io.Reader, had func(int64)) error {
	buf := make([]byte, 256<<10)
	size := p.want.Size
	for p.at <= size {
		n, err := r.Read(buf[:min(int64(len(buf)), size-p.at+1)])
		if _, werr := p.WriteAt(buf[:n], p.at); werr != nil {
			return &Permanent{werr}
		}
		p.hash.Write(buf[:n])
		p.at += int64(n)
		had(min(p.at, size))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if p.at < size {
		return fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, p.at, size)
	}
	return nil
}

// adopt moves the whole file into the store if its bytes are right.
func (p *partial) adopt() error {
	if p.shared { // others may have written to it
		p.hash.Reset()
		n, err := io.Copy(p.hash, io.NewSectionReader(p.File, 0, p.want.Size+1))
		if err != nil {
			return err
		}
		p.at = n
	}
	if got := store.SHA256(p.hash.Sum(nil)); got != p.want.Digest || p.at != p.want.Size {
		return fmt.Errorf("%w: want %s of %d bytes, got %s of %d", store.ErrMismatch, p.want.Digest, p.want.Size, got, p.at)
	}
	fi, err := p.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != p.at {
		return fmt.Errorf("internal error: %s has %d bytes, not the %d that were written", p.Name(), fi.Size(), p.at)
	}
	if err := p.Sync(); err != nil {
		return err
	}
	return p.store.Adopt(p.Name(), p.want)
}
