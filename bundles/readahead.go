package bundles

import (
	"context"
	"errors"
	"io"
)

const (
	chunkSize  = 1 << 20
	chunkCount = 4
)

type chunk struct {
	b   []byte
	err error
}

// readAhead reads on in a goroutine while the caller hashes.
type readAhead struct {
	size int             // of a chunk
	ctx  context.Context // of one call of Open
	full chan chunk
	free chan []byte
	stop chan struct{}
	done chan struct{}
	buf  []byte // of the current chunk
	cur  chunk
}

// newReadAhead takes the size of what r gives; 0 is not known.
func newReadAhead(ctx context.Context, r io.Reader, size int64) *readAhead {
	a := &readAhead{size: chunkSize, ctx: ctx, full: make(chan chunk, chunkCount), free: make(chan []byte, chunkCount),
		stop: make(chan struct{}), done: make(chan struct{})}
	if size > 0 && size < chunkSize {
		a.size = int(size) + 1
	}
	for range chunkCount {
		a.free <- nil
	}
	go a.run(r)
	return a
}

func (a *readAhead) run(r io.Reader) {
	defer close(a.done)
	for {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.stop:
			return
		}
		if b == nil {
			b = make([]byte, a.size)
		}
		n, err := io.ReadFull(r, b)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		a.full <- chunk{b[:n], err} // there are no more chunks than places
		if err != nil {
			return
		}
	}
}

// next returns the next bytes, at most max; they are good until the next call.
func (a *readAhead) next(limit int64) ([]byte, error) {
	for len(a.cur.b) == 0 {
		if a.cur.err != nil {
			return nil, a.cur.err
		}
		if a.buf != nil {
			a.free <- a.buf[:a.size]
			a.buf = nil
		}
		select {
		case a.cur = <-a.full:
			a.buf = a.cur.b[:0]
		case <-a.ctx.Done():
			return nil, a.ctx.Err()
		}
	}
	if err := a.ctx.Err(); err != nil {
		return nil, err
	}
	b := a.cur.b[:min(limit, int64(len(a.cur.b)))]
	a.cur.b = a.cur.b[len(b):]
	return b, nil
}

// close ends the goroutine. It waits for a read that is under way, so that the
// caller has its reader back, unless the context has ended: that read may
// never return.
func (a *readAhead) close() {
	close(a.stop)
	select {
	case <-a.done:
	case <-a.ctx.Done():
	}
}
