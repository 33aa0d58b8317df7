package nbd

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// overlay is what is durable: a sparse file over the base, and a bitmap of the
// sectors that are in it. The bitmap is a file as well, mapped into memory: so
// both survive the end of this process at any time.
type overlay struct {
	base         source
	data, bitmap *os.File // bitmap: mapped; kept open for its lock
	size         int64
	mapped, bits []byte // bits: one a sector, in mapped behind the header
}

// source is what an overlay is made over.
type source struct {
	io.ReaderAt
	name  string
	size  int64
	close func() error
}

// rawImage is a file as a source.
func rawImage(name string) (source, error) {
	f, err := os.Open(name)
	if err != nil {
		return source{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		return source{}, errors.Join(err, f.Close())
	}
	return source{f, name, fi.Size(), f.Close}, nil
}

// The bitmap's file begins with a header of one page: magic, size of the
// disk, size of the base, SHA-256 of the base's beginning.
const (
	mapMagic  = "holdfast disk 1\n"
	mapHeader = 4096
)

// MaxSize is that of the largest disk, in bytes.
const MaxSize = 8 << 40

// openOverlay opens the overlay at name over the base, or makes it where there
// is none. size is the disk's; 0 takes the base's, or what the overlay has. The
// base is the overlay's from then on.
func openOverlay(base source, name string, size int64) (*overlay, error) {
	v := &overlay{base: base}
	if err := v.open(name, size); err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

func (v *overlay) open(name string, size int64) (err error) {
	start := make([]byte, min(1<<20, v.base.size))
	n, err := v.base.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if bytes.HasPrefix(start, []byte("QFI\xfb")) {
		return fmt.Errorf("%s is a qcow2 image\nhint: give the raw one", v.base.name)
	}
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		if size == 0 {
			size = (v.base.size + Sector - 1) / Sector * Sector
		}
		if size < v.base.size || size%Sector != 0 || size == 0 || size > MaxSize {
			return fmt.Errorf("a disk of %d bytes over a base of %d", size, v.base.size)
		}
		if err := makeOverlay(name, size, v.header(size, start[:n])); err != nil {
			return err
		}
	}
	if v.bitmap, err = os.OpenFile(name+".map", os.O_RDWR, 0); err != nil {
		return err
	}
	if err := syscall.Flock(int(v.bitmap.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s is in use: %w", name, err)
	}
	if v.data, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return err
	}
	return v.load(size, start[:n])
}

func (v *overlay) header(size int64, start []byte) []byte {
	h := binary.LittleEndian.AppendUint64([]byte(mapMagic), uint64(size))
	h = binary.LittleEndian.AppendUint64(h, uint64(v.base.size))
	sum := sha256.Sum256(start)
	return append(h, sum[:]...)
}

// makeOverlay makes both files; the one that is looked for comes last.
func makeOverlay(name string, size int64, header []byte) error {
	for _, f := range []struct {
		name  string
		size  int64
		start []byte
	}{
		{name + ".map", mapHeader + (size/Sector+7)/8, header},
		{name, size, nil},
	} {
		out, err := os.CreateTemp(filepath.Dir(name), ".new-*")
		if err != nil {
			return err
		}
		_, err = out.Write(f.start)
		if err = errors.Join(err, out.Truncate(f.size), out.Sync(), out.Close()); err == nil {
			err = os.Rename(out.Name(), f.name)
		}
		if err != nil {
			return errors.Join(err, os.Remove(out.Name()))
		}
	}
	return nil
}

// load maps the bitmap, whose header must be of this base and size.
func (v *overlay) load(size int64, start []byte) error {
	data, err := v.data.Stat()
	if err != nil {
		return err
	}
	bitmap, err := v.bitmap.Stat()
	if err != nil {
		return err
	}
	v.size = data.Size()
	if size != 0 && size != v.size {
		return fmt.Errorf("%s has %d bytes, not %d\nhint: a disk keeps its size; begin with a new overlay", v.data.Name(), v.size, size)
	}
	head := make([]byte, len(v.header(0, nil)))
	if _, err := v.bitmap.ReadAt(head, 0); err != nil {
		return err
	}
	if bitmap.Size() != mapHeader+(v.size/Sector+7)/8 || !bytes.Equal(head, v.header(v.size, start)) {
		return fmt.Errorf("%s was not made over %s\nhint: begin with a new overlay", v.data.Name(), v.base.name)
	}
	if v.mapped, err = syscall.Mmap(int(v.bitmap.Fd()), 0, int(bitmap.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return fmt.Errorf("cannot map %s: %w", v.bitmap.Name(), err)
	}
	v.bits = v.mapped[mapHeader:]
	return nil
}

func (v *overlay) close() error {
	var errs []error
	if v.mapped != nil {
		errs = append(errs, syscall.Munmap(v.mapped))
		v.mapped, v.bits = nil, nil
	}
	for _, f := range []*os.File{v.data, v.bitmap} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	errs = append(errs, v.base.close())
	return errors.Join(errs...)
}

func (v *overlay) has(sector int64) bool { return v.bits[sector/8]>>(sector%8)&1 != 0 }

// mark notes that the overlay has the sectors [from, to).
func (v *overlay) mark(from, to int64) {
	for s := from; s < to; {
		if s%8 == 0 && to-s >= 8 {
			v.bits[s/8] = 0xff
			s += 8
			continue
		}
		v.bits[s/8] |= 1 << (s % 8)
		s++
	}
}

// read fills p; off and len(p) are multiples of a sector and in the disk.
func (v *overlay) read(p []byte, off int64) error {
	for len(p) > 0 {
		s, last := off/Sector, (off+int64(len(p)))/Sector
		here := v.has(s)
		for s < last && v.has(s) == here {
			s++
		}
		n := s*Sector - off
		var from io.ReaderAt = v.base
		if here {
			from = v.data
		}
		if err := readPadded(from, p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readPadded reads zeros behind the end of r.
func readPadded(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}

func (v *overlay) write(p []byte, off int64) error {
	if _, err := v.data.WriteAt(p, off); err != nil {
		return err
	}
	v.mark(off/Sector, (off+int64(len(p)))/Sector)
	return nil
}

// zero makes the range a hole of the overlay.
func (v *overlay) zero(off, n int64) error {
	if n == 0 {
		return nil
	}
	const keepSize, punchHole = 1, 2 // FALLOC_FL_*, fallocate(2)
	if err := syscall.Fallocate(int(v.data.Fd()), keepSize|punchHole, off, n); err != nil {
		return fmt.Errorf("cannot punch a hole: %w", err)
	}
	v.mark(off/Sector, (off+n)/Sector)
	return nil
}
