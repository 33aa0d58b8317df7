package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDiffers is wrapped when a device gives back other bytes than were written.
var ErrDiffers = errors.New("the device gives back other bytes than were written")

// Unfinished is the error of a write that had begun.
type Unfinished struct {
	Device string
	Wiped  bool // it surely does not boot
	Err    error
}

func (e *Unfinished) Unwrap() error { return e.Err }

func (e *Unfinished) Error() string {
	what := "cannot write " + e.Device + ": " + e.Err.Error()
	if errors.Is(e.Err, context.Canceled) {
		what = e.Device + " was interrupted"
	}
	if !e.Wiped {
		return what + "\nhint: it could not be wiped, so whether it boots is not known; do not use it"
	}
	return what + "\nhint: it does not boot now, and what it held is lost; the same command again starts from the beginning"
}

// Options for Write; the zero value is silent.
type Options struct {
	Report func(step string) Report // a step begins: clear, write or read back
	Now    func() time.Time         // the clock; nil: no durations
	System System
}

// Result is what was done.
type Result struct {
	Written  int64  `json:"written"`          // bytes of the image that were written
	Skipped  int64  `json:"skipped"`          // bytes of zeros that were not
	Clearing string `json:"clearing"`         // what made the device read as zero there: discard, zeroout, write or nothing
	Mended   int64  `json:"mended,omitempty"` // bytes that did not read as zero after all, and were written
	Clear    Took   `json:"clearSeconds"`
	Write    Took   `json:"writeSeconds"`    // until the device had flushed
	ReadBack Took   `json:"readBackSeconds"` // of the whole image
}

// Took is a duration in seconds.
type Took float64

// Write writes an image onto a device that Find or List called usable, and
// reads it back. It first wipes both ends of the device, and writes the image's
// first MiB last, after all else was read back: until then there is no
// partition table from which anything could boot. From the wipe on, errors are
// *Unfinished.
//
// What lies behind the image stays, but for the device's last MiB.
func Write(ctx context.Context, d Device, im *Image, o Options) (Result, error) {
	fail := func(err error) (Result, error) {
		return Result{}, fmt.Errorf("cannot write %s: %w; nothing was changed", d.Path, err)
	}
	if !d.Usable() {
		return fail(fmt.Errorf("it %s", d.Refusals[0]))
	}
	if d.Size < im.Size+edge {
		return fail(fmt.Errorf("it has %d bytes, the image %d, and the last MiB stays empty", d.Size, im.Size))
	}
	src, err := os.Open(im.path)
	if err != nil {
		return fail(err)
	}
	defer src.Close()
	dev, err := open(d)
	if err != nil {
		return fail(err)
	}
	defer dev.Close()
	// Another disk may have got the name since it was described.
	now, err := o.System.Find(d.Path, Need{})
	if err != nil || now.number != d.number || now.Serial != d.Serial || now.Size != d.Size || now.Model != d.Model {
		return fail(errors.Join(errors.New("it became another device"), err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if o.Now == nil {
		o.Now = func() time.Time { return time.Time{} }
	}
	if o.Report == nil {
		o.Report = func(string) Report { return nil }
	}
	w := writer{src: src, dev: dev, size: d.Size, im: im, o: o}
	if err := w.all(ctx); err != nil {
		return Result{}, &Unfinished{d.Path, w.wiped, err}
	}
	// The kernel's own view of the partitions; it may be old for all we care.
	_ = unix.IoctlSetInt(int(dev.Fd()), unix.BLKRRPART, 0)
	return w.Result, nil
}

// open takes the device for this program alone: not even a mount gets it now.
func open(d Device) (*os.File, error) {
	dev, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_EXCL|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w\nhint: it is in use; unmount it, or stop what uses it", err)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != d.number {
		return nil, errors.Join(errors.New("it became another device"), err, dev.Close())
	}
	return dev, nil
}

type writer struct {
	src, dev *os.File
	size     int64 // of the device
	wiped    bool  // both ends are zeros on the device
	im       *Image
	o        Options
	zeros    []span // that were cleared
	Result
}

func (w *writer) all(ctx context.Context) error {
	start := w.o.Now()
	lap := func(t *Took) {
		now := w.o.Now()
		*t += Took(now.Sub(start).Seconds())
		start = now
	}
	if err := w.wipe(0, w.size-edge); err != nil {
		return err
	}
	data, zeros := w.im.spans()
	data, err := w.clear(ctx, data, zeros)
	if err != nil {
		return err
	}
	lap(&w.Clear)
	if err := w.copy(ctx, data); err != nil {
		return err
	}
	lap(&w.Write)
	if err := w.readBack(ctx); err != nil {
		return err
	}
	lap(&w.ReadBack)
	if err := w.finish(ctx); err != nil {
		return err
	}
	lap(&w.Write)
	w.Skipped = w.im.Size - w.Written
	return nil
}

// wipe makes a MiB at each offset zeros, where copies of the partition table
// are, and sees that they are gone: some sticks that have failed take writes
// and forget them.
func (w *writer) wipe(offsets ...int64) error {
	w.wiped = false
	zero, got := aligned(edge), aligned(edge)
	for _, at := range offsets {
		if err := w.writeAt(zero, at); err != nil {
			return err
		}
	}
	if err := w.dev.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	for _, at := range offsets {
		if err := readFull(w.dev, got, at); err != nil {
			return err
		}
		if !isZero(got) {
			return fmt.Errorf("%w: at offset %d; it may protect itself from writing", ErrDiffers, at)
		}
	}
	w.wiped = true
	return nil
}

func (w *writer) writeAt(b []byte, at int64) error {
	if n, err := w.dev.WriteAt(b, at); err != nil {
		return fmt.Errorf("at offset %d: %w", at+int64(n), err)
	}
	return nil
}

// copy writes the ranges of data while the next block is being read.
func (w *writer) copy(ctx context.Context, data []span) error {
	total := int64(0)
	for _, s := range data {
		total += s.n
	}
	report := w.o.Report("write")
	p := startReading(ctx, w.src, pieces(data))
	defer p.stop()
	done := int64(0)
	for b := range p.full {
		if err := w.writeAt(b.data, b.at); err != nil {
			return err
		}
		done += int64(len(b.data))
		p.free <- b.data
		if report != nil {
			report(done, total)
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	if err := w.dev.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	w.Written += done
	return nil
}

// pieces cuts spans into what is read at once, at multiples of blockSize: what
// crosses a disk's own larger units costs more.
func pieces(spans []span) func(yield func(span) bool) {
	return func(yield func(span) bool) {
		for _, s := range spans {
			for at, end := s.at, s.at+s.n; at < end; {
				n := min(blockSize-at%blockSize, end-at)
				if !yield(span{at, n}) {
					return
				}
				at += n
			}
		}
	}
}

// readBack reads the image from the device, without its first MiB. Where it
// was only asked to forget and did not, zeros are written.
func (w *writer) readBack(ctx context.Context) error {
	rest := []span{{edge, w.im.Size - edge}}
	stale, err := w.compare(ctx, rest, w.o.Report("read back"))
	if err != nil || len(stale) == 0 {
		return err
	}
	zero := aligned(chunkSize)
	for i, s := range stale {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.writeAt(zero[:s.n], s.at); err != nil {
			return err
		}
		w.Written += s.n
		w.Mended += s.n
		if report := w.o.Report("mend"); report != nil {
			report(int64(i+1)*chunkSize, int64(len(stale))*chunkSize)
		}
	}
	if err := w.dev.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	w.zeros = nil
	_, err = w.compare(ctx, stale, nil)
	return err
}

// compare reads ranges and compares them with what the image had there. It
// returns the chunks that were cleared and are not zero; any other difference
// is an error that names the first.
func (w *writer) compare(ctx context.Context, spans []span, report Report) (stale []span, err error) {
	p := startReading(ctx, w.dev, pieces(spans))
	defer p.stop()
	var mu sync.Mutex
	first, bad := int64(-1), int64(0)
	wrong := func(at int64, data bool) {
		mu.Lock()
		defer mu.Unlock()
		if !data && w.wasCleared(at) {
			stale = append(stale, span{at, min(chunkSize, w.im.Size-at)})
			return
		}
		bad++
		if first < 0 || at < first {
			first = at
		}
	}
	err = p.each(w.im.Size, report, func(b block) { w.im.mismatch(b.at, b.data, wrong) })
	if err != nil {
		return nil, err
	}
	if bad > 0 {
		return nil, fmt.Errorf("%w: first between offsets %d and %d; in %d pieces of %d KiB", ErrDiffers, first, min(first+chunkSize, w.im.Size), bad, chunkSize>>10)
	}
	slices.SortFunc(stale, func(a, b span) int { return int(min(max(a.at-b.at, -1), 1)) })
	return stale, nil
}

// finish writes what makes the device boot.
func (w *writer) finish(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	head := aligned(edge)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.wipe(0))
		}
	}()
	copy(head, w.im.head)
	if err := w.writeAt(head, 0); err != nil {
		return err
	}
	if err := w.dev.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	got := aligned(edge)
	if err := readFull(w.dev, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, w.im.head) {
		return fmt.Errorf("%w: in the first MiB", ErrDiffers)
	}
	w.Written += edge
	return nil
}
