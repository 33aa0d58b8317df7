package slot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/disk"
)

// Source gives bytes, decompressed, and says what they must be.
type Source struct {
	Open func() (io.ReadCloser, error)
	Raw  store.Content
}

const (
	chunk      = 4 << 20
	flushEvery = 64 << 20
	pageSize   = 4096
)

// Fill writes root and verity tree into the slot on dev, flushes, and reads
// back from the device, not from memory, what it wrote. Bytes that differ from
// what a source says are an error that wraps store.ErrMismatch; the slot then
// holds nothing of use. progress, which may be nil, counts what was written and
// what was read back. The slot's identifiers are not touched.
func Fill(ctx context.Context, dev *os.File, s Slot, root, tree Source, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	total, done := 2*(root.Raw.Size+tree.Raw.Size), int64(0)
	count := func(n int) {
		done += int64(n)
		progress(done, total)
	}
	parts := []struct {
		disk.Partition
		Source
	}{{s.Root, root}, {s.Verity, tree}}
	var errs []error
	for _, p := range parts {
		if p.Raw.Size < 0 || p.Raw.Size > p.Size {
			errs = append(errs, fmt.Errorf("%d bytes do not fit into partition %s of %d", p.Raw.Size, p.Name, p.Size))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot fill slot %s: %w", s.Name, err)
	}
	for _, p := range parts {
		if err := writePart(ctx, dev, p.Partition, p.Source, count); err != nil {
			return fmt.Errorf("cannot fill slot %s: partition %s: %w", s.Name, p.Name, err)
		}
	}
	for _, p := range parts {
		if err := readBack(ctx, dev, p.Partition, p.Raw, count); err != nil {
			return fmt.Errorf("cannot fill slot %s: partition %s: %w", s.Name, p.Name, err)
		}
	}
	return nil
}

// writePart writes what src gives, flushing now and then, so that progress is
// that of the disk, and memory does not fill with what waits to be written.
func writePart(ctx context.Context, dev *os.File, p disk.Partition, src Source, count func(int)) error {
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	buf := make([]byte, chunk)
	for at := int64(0); at < src.Raw.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(chunk, src.Raw.Size-at)]
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("content ends before its %d bytes: %w", src.Raw.Size, err)
		}
		h.Write(b)
		if _, err := dev.WriteAt(b, p.Start+at); err != nil {
			return err
		}
		at += int64(len(b))
		if at%flushEvery == 0 {
			if err := unix.Fdatasync(int(dev.Fd())); err != nil {
				return fmt.Errorf("cannot flush: %w", err)
			}
		}
		count(len(b))
	}
	if n, err := io.ReadFull(r, buf[:1]); n != 0 {
		return fmt.Errorf("content has more than its %d bytes: %w", src.Raw.Size, store.ErrMismatch)
	} else if err != io.EOF {
		return err
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("cannot flush: %w", err)
	}
	return compare(h, src.Raw, "the source's digest")
}

// readBack compares what the device holds.
func readBack(ctx context.Context, dev *os.File, p disk.Partition, want store.Content, count func(int)) error {
	r, err := uncached(dev, p.Start, alignUp(want.Size))
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	buf := aligned(chunk)
	for at := int64(0); at < want.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, want.Size-at)
		// Direct reads are of whole blocks, which partitions consist of.
		got, err := r.ReadAt(buf[:min(alignUp(n), p.Size-at)], p.Start+at)
		if int64(got) < n {
			return fmt.Errorf("cannot read back: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		h.Write(buf[:n])
		at += n
		count(int(n))
	}
	return compare(h, want, "read back, its digest")
}

func compare(h hash.Hash, want store.Content, what string) error {
	if got := store.SHA256(h.Sum(nil)); got != want.Digest {
		return fmt.Errorf("%s is %s, want %s: %w", what, got, want.Digest, store.ErrMismatch)
	}
	return nil
}

// uncached opens f again such that reads come from the device. Where a file
// system knows no direct reads, its pages of the range are given up instead.
func uncached(f *os.File, from, size int64) (*os.File, error) {
	_ = unix.Fadvise(int(f.Fd()), from, size, unix.FADV_DONTNEED)
	name := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	r, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		if _, err = r.ReadAt(aligned(pageSize), from); err == nil || err == io.EOF {
			return r, nil
		}
		r.Close()
	}
	if r, err = os.Open(name); err != nil {
		return nil, fmt.Errorf("cannot read back: %w", err)
	}
	return r, nil
}

// aligned makes a buffer for direct reads.
func aligned(n int) []byte {
	b := make([]byte, n+pageSize)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (pageSize - 1)
	return b[skip:][:n:n]
}

func alignUp(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }
