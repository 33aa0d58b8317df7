package flash

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aligned makes a buffer that direct I/O accepts.
func aligned(n int) []byte {
	const align = 4096
	b := make([]byte, n+align)
	skip := (align - int(uintptr(unsafe.Pointer(&b[0]))%align)) % align
	return b[skip : skip+n : skip+n]
}

// huge makes a buffer of n bytes, of huge pages where there are any: a disk
// takes few long pieces faster than many short ones, and small pages lie
// scattered in memory.
func huge(n int) (b []byte, release func()) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return aligned(n), func() {}
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, func() { _ = unix.Munmap(b) }
}

// How a range is made to read as zero, best first. Discarding tells the device
// that the bytes are not needed; many then read as zero, none must. Zeroing out
// does what the device can do best, and else has the kernel write zeros.
var clearings = [...]struct {
	name    string
	request uint
	step    int64 // bytes a call, which cannot be interrupted
}{
	{"discard", unix.BLKDISCARD, 1 << 30},
	{"zeroout", unix.BLKZEROOUT, 64 << 20},
}

// clear makes the ranges of zeros read as such, or adds them to those of data.
func (w *writer) clear(ctx context.Context, data, zeros []span) ([]span, error) {
	w.Clearing = "nothing"
	if len(zeros) == 0 {
		return data, nil
	}
	report := w.o.Report("clear")
	for _, c := range clearings {
		done := int64(0)
		ok, err := w.eachZero(ctx, zeros, c.step, func(s span) error {
			arg := [2]uint64{uint64(s.at), uint64(s.n)}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, w.dev.Fd(), uintptr(c.request), uintptr(unsafe.Pointer(&arg)))
			if errno != 0 {
				return errno
			}
			if done += s.n; report != nil {
				report(done, w.im.Size)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if ok, err = w.readsZero(ctx, zeros); err != nil {
			return nil, err
		}
		if ok {
			w.Clearing, w.zeros = c.name, zeros
			return data, nil
		}
	}
	w.Clearing = "write"
	all := append(slices.Clone(data), zeros...)
	slices.SortFunc(all, func(a, b span) int { return int(min(max(a.at-b.at, -1), 1)) })
	return all, nil
}

// eachZero calls f for the ranges in steps; not ok: the device cannot.
func (w *writer) eachZero(ctx context.Context, zeros []span, step int64, f func(span) error) (ok bool, err error) {
	for _, s := range zeros {
		for at := s.at; at < s.at+s.n; at += step {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			err := f(span{at, min(step, s.at+s.n-at)})
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EREMOTEIO) {
				return false, nil
			}
			if err != nil {
				return false, fmt.Errorf("clear at offset %d: %w", at, err)
			}
		}
	}
	return true, nil
}

// readsZero looks at a few places of cleared ranges: whether it is worth to go
// on. All of them are read when the image is read back.
func (w *writer) readsZero(ctx context.Context, zeros []span) (bool, error) {
	const samples = 64
	b := aligned(chunkSize)
	for i := 0; i < len(zeros); i += max(1, len(zeros)/samples) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		s := zeros[i]
		n := min(chunkSize, s.n)
		for _, at := range []int64{s.at, s.at + s.n/2/chunkSize*chunkSize, s.at + s.n - n} {
			if err := readFull(w.dev, b[:n], at); err != nil {
				return false, err
			}
			if !isZero(b[:n]) {
				return false, nil
			}
		}
	}
	return true, nil
}

// wasCleared reports whether an offset is in a range that was cleared.
func (w *writer) wasCleared(at int64) bool {
	i, found := slices.BinarySearchFunc(w.zeros, at, func(s span, at int64) int {
		switch {
		case s.at+s.n <= at:
			return -1
		case s.at > at:
			return 1
		}
		return 0
	})
	return found && i < len(w.zeros)
}
