package nbd

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
)

// Replay steps through a log. It is for one goroutine; the states that it gives
// can be read by others.
type Replay struct {
	log     *Log
	base    io.ReaderAt
	n       int
	durable extents
	shared  bool  // a State has durable
	pending []int // operations that no flush has made durable
}

// Replay begins before the first operation. base is the disk as it was then;
// behind its end are zeros.
func (l *Log) Replay(base io.ReaderAt) *Replay {
	return &Replay{log: l, base: base, durable: extents{}}
}

// To goes to where n operations were done. A step costs as much as operations
// lie between; a step back costs as much as beginning anew.
func (r *Replay) To(n int) error {
	if n < 0 || n > r.log.Len() {
		return fmt.Errorf("cannot replay %d operations of %d", n, r.log.Len())
	}
	if n < r.n {
		*r = *r.log.Replay(r.base)
	}
	for ; r.n < n; r.n++ {
		if r.log.ops[r.n].Kind != Flush {
			r.pending = append(r.pending, r.n)
			continue
		}
		if r.shared && len(r.pending) > 0 {
			r.durable, r.shared = maps.Clone(r.durable), false
		}
		for _, i := range r.pending {
			op := r.log.ops[i]
			r.durable.put(op.Off, op.Off+op.Len, i)
		}
		r.pending = r.pending[:0]
	}
	return nil
}

// State is the disk as a power cut at this place leaves it; KeepAll makes it
// as if all had been written in order. States cost as much as there are
// operations that are not durable, and no reading.
func (r *Replay) State(seed uint64) *State {
	ops := make([]Op, len(r.pending))
	for i, n := range r.pending {
		ops[i] = r.log.ops[n]
	}
	r.shared = true
	s := &State{r.log, r.base, extents{}, r.durable}
	for i, p := range remains(ops, seed) {
		s.latest.putOver(s.below, ops[i].Off+p.from, ops[i].Off+p.to, r.pending[i])
	}
	return s
}

// StateAt is the disk as a power cut after n operations leaves it.
func StateAt(l *Log, base io.ReaderAt, n int, seed uint64) (*State, error) {
	r := l.Replay(base)
	if err := r.To(n); err != nil {
		return nil, err
	}
	return r.State(seed), nil
}

// State is a disk, to be read. It may be read by several goroutines, as far as
// the base may.
type State struct {
	log    *Log
	base   io.ReaderAt
	latest extents // chunks that the cut changed
	below  extents
}

// Size is the disk's, in bytes.
func (s *State) Size() int64 { return s.log.size }

// ReadAt reads any range, as [io.ReaderAt] says.
func (s *State) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("cannot read disk at %d", off)
	}
	end := min(off+int64(len(p)), s.log.size)
	for at := off; at < end; {
		i, stop, ok := s.latest.atOver(s.below, at, end)
		to := p[at-off : stop-off]
		var err error
		switch {
		case !ok:
			err = readPadded(s.base, to, at)
		case s.log.ops[i].Kind == Write:
			_, err = s.log.f.ReadAt(to, s.log.data[i]+at-s.log.ops[i].Off)
		default:
			clear(to)
		}
		if err != nil {
			return int(at - off), fmt.Errorf("cannot read disk at %d: %w", at, err)
		}
		at = stop
	}
	if n := max(end-off, 0); n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}

// Key names the content of a range without reading it: where the keys of two
// states of one log over one base are equal, so is what they hold. Unequal
// keys say nothing. A verdict on a partition can so be kept by its key.
func (s *State) Key(off, n int64) [32]byte {
	h := sha256.New()
	add := func(e extent) {
		var b [24]byte
		binary.LittleEndian.PutUint64(b[0:], uint64(e.off))
		binary.LittleEndian.PutUint64(b[8:], uint64(e.end))
		binary.LittleEndian.PutUint64(b[16:], uint64(e.op))
		h.Write(b[:])
	}
	const zeros, untouched = -1, -2 // zeros are alike, whoever wrote them
	run := extent{off, off, untouched}
	for end := min(off+n, s.log.size); off < end; {
		op, stop, ok := s.latest.atOver(s.below, off, end)
		if !ok {
			op = untouched
		} else if s.log.ops[op].Kind != Write {
			op = zeros
		}
		if op != run.op {
			add(run)
			run = extent{off, off, op}
		}
		off, run.end = stop, stop
	}
	add(run)
	return [32]byte(h.Sum(nil))
}
