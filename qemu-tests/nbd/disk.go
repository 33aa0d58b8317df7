package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// ErrOff is wrapped by the error of every operation on a disk that has no
// power any more.
var ErrOff = errors.New("the disk is off")

// Options of a Disk; the zero value works.
type Options struct {
	Size  int64  // of a new disk, in bytes; default: the base's
	Cache int64  // bytes that may wait for a flush; default 256 MiB
	Log   string // file to record all operations in; must not be there
}

// Disk is a disk with a write-back cache. Its methods may be called at the same
// time. Offsets and lengths are multiples of Sector.
type Disk struct {
	mu      sync.Mutex
	durable *overlay   // nil: off
	pending []cached   // in order
	first   int        // number of pending[0], as latest counts
	latest  extents    // which pending operation wrote a sector last
	held    int64      // bytes in pending
	limit   int64      // of held
	log     *logWriter // nil: none
	ops     int        // done since Open
	serving *net.UnixListener
	conns   map[net.Conn]bool
	done    sync.WaitGroup // of the goroutines that serve
}

type cached struct {
	Op
	data []byte // of a Write
}

// Open powers up the disk with the base image, which is raw, under the overlay.
// The overlay is two files, named so and with ".map" behind; they are made where
// there are none, and else must have been made over that base.
func Open(base, name string, o Options) (*Disk, error) {
	b, err := rawImage(base)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	return openOver(b, name, o)
}

// Disk powers up a disk that begins as s: what a machine finds that starts
// after that power cut. The overlay is as for [Open]; whoever opens it again
// must give an equal state. The log of s, and what is below it, must stay open
// while the disk is on.
func (s *State) Disk(name string, o Options) (*Disk, error) {
	return openOver(source{s, "the state of a log", s.Size(), func() error { return nil }}, name, o)
}

func openOver(base source, name string, o Options) (*Disk, error) {
	v, err := openOverlay(base, name, o.Size)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	d := &Disk{durable: v, latest: extents{}, limit: o.Cache, conns: map[net.Conn]bool{}}
	if d.limit == 0 {
		d.limit = 256 << 20
	}
	if o.Log != "" {
		if d.log, err = createLog(o.Log, v.size); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot open disk: %w", err), v.close())
		}
	}
	return d, nil
}

// Size is the disk's, in bytes; 0 once it is off.
func (d *Disk) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.durable == nil {
		return 0
	}
	return d.durable.size
}

// Ops is how many operations were done since Open; the log has as many.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// check returns an error unless the disk is on and has the range.
func (d *Disk) check(off, n int64) error {
	if d.durable == nil {
		return ErrOff
	}
	if off < 0 || n < 0 || off%Sector != 0 || n%Sector != 0 || n > d.durable.size || off > d.durable.size-n {
		return fmt.Errorf("no such sectors: %d bytes from %d, of %d", n, off, d.durable.size)
	}
	return nil
}

// ReadAt reads what was written last, durable or not. The range must be of
// whole sectors and within the disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("cannot read disk: %w", err)
	}
	for at, end := off, off+int64(len(p)); at < end; {
		op, stop, ok := d.latest.at(at, end)
		to := p[at-off : stop-off]
		if ok && op >= d.first { // else it is durable by now
			c := d.pending[op-d.first]
			if c.Kind == Write {
				copy(to, c.data[at-c.Off:])
			} else {
				clear(to)
			}
		} else if err := d.durable.read(to, at); err != nil {
			return 0, fmt.Errorf("cannot read disk: %w", err)
		}
		at = stop
	}
	return len(p), nil
}

// Do does one operation; data is that of a Write, and is the disk's from then
// on. It is visible at once, and durable if op says so or after a Flush.
func (d *Disk) Do(op Op, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.do(op, data); err != nil {
		return fmt.Errorf("cannot write disk: %w", err)
	}
	return nil
}

func (d *Disk) do(op Op, data []byte) error {
	if op.Kind == Flush {
		op.Off, op.Len = 0, 0
	}
	if op.Kind < Write || op.Kind > Flush || op.Kind == Write && int64(len(data)) != op.Len {
		return errors.New("internal error: no such operation")
	}
	if err := d.check(op.Off, op.Len); err != nil {
		return err
	}
	if d.log != nil {
		if err := d.log.add(op, data); err != nil {
			return err
		}
	}
	d.ops++
	if op.Kind == Flush {
		return d.settle(len(d.pending))
	}
	d.latest.put(op.Off, op.Off+op.Len, d.first+len(d.pending))
	d.pending = append(d.pending, cached{op, data})
	d.held += int64(len(data))
	if d.held <= d.limit && len(d.pending) < 1<<16 {
		return nil
	}
	// A full cache writes its oldest half, as a real disk may at any time.
	n := 0
	for gone := int64(0); n < (len(d.pending)+1)/2 || gone < d.held/2; n++ {
		gone += int64(len(d.pending[n].data))
	}
	return d.settle(n)
}

// settle makes the n oldest pending operations durable.
func (d *Disk) settle(n int) error {
	for _, c := range d.pending[:n] {
		if err := d.apply(c, part{0, c.Len}); err != nil {
			return err
		}
		d.held -= int64(len(c.data))
	}
	clear(d.pending[:n]) // lets go of the data
	d.pending, d.first = d.pending[n:], d.first+n
	if len(d.pending) == 0 {
		d.pending = nil
		clear(d.latest)
	}
	return nil
}

func (d *Disk) apply(c cached, p part) error {
	if c.Kind == Write {
		return d.durable.write(c.data[p.from:p.to], c.Off+p.from)
	}
	return d.durable.zero(c.Off+p.from, p.to-p.from)
}

// Cut takes the power away at once. What was not durable is kept, dropped or
// torn as the seed says; then Open powers the disk up again. The machine should
// be killed right after: until then it sees a disk that does not answer.
func (d *Disk) Cut(seed uint64) error { return d.off(seed, "cut the power of disk") }

// Close takes the power away after all was written.
func (d *Disk) Close() error { return d.off(KeepAll, "close disk") }

func (d *Disk) off(seed uint64, verb string) error {
	d.mu.Lock()
	if d.durable == nil {
		d.mu.Unlock()
		return nil
	}
	ops := make([]Op, len(d.pending))
	for i, c := range d.pending {
		ops[i] = c.Op
	}
	var errs []error
	for i, p := range remains(ops, seed) {
		errs = append(errs, d.apply(d.pending[i], p))
	}
	errs = append(errs, d.durable.close())
	if d.log != nil {
		errs = append(errs, d.log.close())
	}
	d.durable, d.pending, d.latest = nil, nil, nil
	d.hangUp()
	d.mu.Unlock()
	d.done.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot %s: %w", verb, err)
	}
	return nil
}

var _ io.ReaderAt = (*Disk)(nil)
