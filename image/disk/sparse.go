package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// create makes the file at path from what write puts into a temporary file
// beside it; where write fails, there is no file.
func create(path string, write func(*os.File) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write %s: %w", path, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = errors.Join(f.Chmod(0o644), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// section is a part of a file; what is zero becomes a hole.
type section struct {
	f          *os.File
	start, len int64
}

func (s *section) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > s.len-off {
		return 0, fmt.Errorf("cannot write %d bytes at %d: only %d are there", len(p), off, s.len)
	}
	written := 0
	for written < len(p) {
		n, zero := run(p[written:], off+int64(written))
		var err error
		if at := s.start + off + int64(written); zero {
			err = punch(s.f, at, int64(n))
		} else {
			_, err = s.f.WriteAt(p[written:written+n], at)
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// run is the length of what begins p, which lies at off: whole blocks of zeros,
// or bytes up to the next of them.
func run(p []byte, off int64) (n int, zero bool) {
	for n < len(p) {
		size := int(min(blockSize-(off+int64(n))%blockSize, int64(len(p)-n)))
		z := int64(size) == blockSize && isZero(p[n:n+size])
		if n > 0 && z != zero {
			break
		}
		zero = z
		n += size
	}
	return n, zero
}

var zeros [blockSize]byte // never written

func isZero(p []byte) bool {
	for ; len(p) > len(zeros); p = p[len(zeros):] {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// punch makes a hole. Where the file system knows none, it writes zeros.
func punch(f *os.File, at, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("cannot make a hole: %w", err)
	}
	for n > 0 {
		size := min(n, blockSize)
		if _, err := f.WriteAt(zeros[:size], at); err != nil {
			return err
		}
		at, n = at+size, n-size
	}
	return nil
}

// FromFile gives a partition the content of the file at path, without reading
// its holes. A file larger than the partition is an error.
func FromFile(path string) func(io.WriterAt) error {
	return func(w io.WriterAt) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		buf := make([]byte, 1<<20)
		return eachExtent(f, fi.Size(), func(from, to int64) error {
			return eachPiece(f, from, to, buf, func(p []byte, at int64) error {
				_, err := w.WriteAt(p, at)
				return err
			})
		})
	}
}

// eachExtent calls do for each part of the file that is not a hole.
func eachExtent(f *os.File, size int64, do func(from, to int64) error) error {
	for at := int64(0); at < size; {
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return do(at, size)
		}
		if err != nil {
			return err
		}
		to, err := f.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		from, to = min(from, size), min(to, size)
		if from < to {
			if err := do(from, to); err != nil {
				return err
			}
		}
		at = to
	}
	return nil
}

// eachPiece reads what lies from from to to, and calls do for each piece.
func eachPiece(r io.ReaderAt, from, to int64, buf []byte, do func(p []byte, at int64) error) error {
	for from < to {
		p := buf[:min(int64(len(buf)), to-from)]
		if _, err := io.ReadFull(io.NewSectionReader(r, from, to-from), p); err != nil {
			return fmt.Errorf("cannot read %d bytes at %d: %w", len(p), from, err)
		}
		if err := do(p, from); err != nil {
			return err
		}
		from += int64(len(p))
	}
	return nil
}
