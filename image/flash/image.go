package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/airgap/store"
)

// PieceSize is the size in bytes of the pieces of which Image.Pieces is made.
const PieceSize = 256 << 10

const (
	chunkSize = PieceSize // what is told apart as data or zeros, and compared
	blockSize = 4 << 20   // what is read or written at once
	edge      = 1 << 20   // what is wiped at both ends of a device
	maxImage  = 1 << 40
	minHole   = 4 // chunks of zeros that are worth a discard; fewer are written
)

// Image is an image file that was read once: what identifies it, and what later
// readings of its chunks must give.
type Image struct {
	Size   int64
	Pieces store.Digest // of the digests of its pieces, as signing.Pieces says
	Whole  store.Digest // of the file, if it was asked for

	path   string
	head   []byte // the first edge bytes, which are written last
	chunks []chunk
}

type chunk struct {
	sum  [sha256.Size]byte
	data bool // or zeros
}

// Report is called with the bytes done of total.
type Report func(done, total int64)

// ReadImage reads an image file, of which holes are known to be zeros. The
// digest of the whole takes several times as long for an image with many holes,
// as their zeros count in it. Whether the image may be used is for the caller
// to decide, by size and digest.
func ReadImage(ctx context.Context, path string, whole bool, report Report) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	size := fi.Size()
	if !fi.Mode().IsRegular() || size < edge || size%sectorSize != 0 || size > maxImage {
		return nil, fmt.Errorf("cannot read image: %s is no disk image: %d bytes", path, size)
	}
	im := &Image{Size: size, path: path, chunks: make([]chunk, (size+chunkSize-1)/chunkSize)}
	read := im.read
	if whole {
		read = im.readWhole
	}
	if err := read(ctx, f, report); err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", path, err)
	}
	im.Pieces = im.digest()
	return im, nil
}

// read takes the chunks' digests.
func (im *Image) read(ctx context.Context, f *os.File, report Report) error {
	p := startReading(ctx, f, im.blocks(f))
	defer p.stop()
	return p.each(im.Size, report, im.take)
}

// readWhole takes the digests of the whole and of the chunks from the same
// bytes in memory.
func (im *Image) readWhole(ctx context.Context, f *os.File, report Report) error {
	whole := sha256.New()
	zeros := make([]byte, blockSize)
	p := startReading(ctx, f, im.blocks(f))
	defer p.stop()
	at := int64(0)
	skip := func(to int64) {
		for at < to {
			n := min(to-at, blockSize)
			whole.Write(zeros[:n])
			at += n
		}
	}
	for b := range p.full {
		skip(b.at)
		var g sync.WaitGroup
		g.Go(func() { im.take(b) })
		whole.Write(b.data)
		g.Wait()
		at = b.at + int64(len(b.data))
		p.free <- b.data
		if report != nil {
			report(at, im.Size)
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	skip(im.Size)
	im.Whole = store.SHA256(whole.Sum(nil))
	return nil
}

// digest is that of the chunks' digests.
func (im *Image) digest() store.Digest {
	all, zeros := sha256.New(), make([]byte, chunkSize)
	zero := sha256.Sum256(zeros)
	for i, c := range im.chunks {
		switch n := min(chunkSize, im.Size-int64(i)*chunkSize); {
		case c.data:
			all.Write(c.sum[:])
		case n < chunkSize:
			last := sha256.Sum256(zeros[:n])
			all.Write(last[:])
		default:
			all.Write(zero[:])
		}
	}
	return store.SHA256(all.Sum(nil))
}

// take takes what is needed of a block of the image.
func (im *Image) take(b block) {
	im.addChunks(b.at, b.data)
	if b.at == 0 {
		im.head = bytes.Clone(b.data[:edge])
	}
}

func (im *Image) addChunks(at int64, data []byte) {
	for i := at / chunkSize; len(data) > 0; i++ {
		n := min(chunkSize, len(data))
		if !isZero(data[:n]) {
			im.chunks[i] = chunk{sha256.Sum256(data[:n]), true}
		}
		data = data[n:]
	}
}

// blocks gives the blocks of the file that have data, one after the other. The
// first is always among them: it holds the partition table.
func (im *Image) blocks(f *os.File) func(yield func(span) bool) {
	return func(yield func(span) bool) {
		for at := int64(0); at < im.Size; {
			if at > 0 {
				next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
				switch {
				case errors.Is(err, unix.ENXIO):
					return
				case err == nil && next > at:
					at = next / blockSize * blockSize
				}
				// A file system that knows no holes: everything is data.
			}
			n := min(blockSize, im.Size-at)
			if !yield(span{at, n}) {
				return
			}
			at += n
		}
	}
}

// span is a range of bytes.
type span struct{ at, n int64 }

// spans are the ranges of data and those of zeros, in order; neither has what
// is written last. Zeros that are not worth a discard count as data.
func (im *Image) spans() (data, zeros []span) {
	n := int64(len(im.chunks))
	end := func(i int64) int64 { return min(i*chunkSize, im.Size) }
	for i := int64(edge / chunkSize); i < n; {
		j := i
		for j < n && !im.chunks[j].data {
			j++
		}
		if j-i >= minHole {
			zeros = append(zeros, span{i * chunkSize, end(j) - i*chunkSize})
			i = j
			continue
		}
		for ; j < n; j++ {
			if run := im.zeroRun(j); run >= minHole {
				break
			}
		}
		data = append(data, span{i * chunkSize, end(j) - i*chunkSize})
		i = j
	}
	return data, zeros
}

// zeroRun counts chunks of zeros from i on, up to minHole.
func (im *Image) zeroRun(i int64) (n int64) {
	for n < minHole && i+n < int64(len(im.chunks)) && !im.chunks[i+n].data {
		n++
	}
	return n
}

// mismatch compares bytes that a device gave back for the image's at an offset,
// chunk by chunk, and calls wrong for those that differ.
func (im *Image) mismatch(at int64, data []byte, wrong func(at int64, data bool)) {
	for i := at / chunkSize; len(data) > 0; i++ {
		n := min(chunkSize, len(data))
		c := im.chunks[i]
		if c.data && sha256.Sum256(data[:n]) != c.sum || !c.data && !isZero(data[:n]) {
			wrong(i*chunkSize, c.data)
		}
		data = data[n:]
	}
}

// isZero compares with what is zero already, in the processor's widest steps.
func isZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// pipe is a reader that runs ahead by a block or two.
type pipe struct {
	full   chan block
	free   chan []byte
	failed error // set before full is closed
	stop   func()
}

type block struct {
	at   int64
	data []byte
}

// err tells, after full was closed, why it was.
func (p *pipe) err() error { return p.failed }

// startReading reads spans, each at most blockSize, into aligned buffers. The
// consumer takes blocks from full, gives their buffers back to free, and calls
// stop when it uses none any more.
func startReading(ctx context.Context, r io.ReaderAt, spans func(yield func(span) bool)) *pipe {
	const buffers = 3
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{full: make(chan block, buffers), free: make(chan []byte, buffers)}
	mem, release := huge(buffers * blockSize)
	for i := range buffers {
		p.free <- mem[i*blockSize : (i+1)*blockSize]
	}
	ended := make(chan struct{})
	p.stop = func() { cancel(); <-ended; release() }
	go func() {
		defer close(ended)
		defer close(p.full)
		for s := range spans {
			var b []byte
			select {
			case b = <-p.free:
			case <-ctx.Done():
				p.failed = ctx.Err()
				return
			}
			if p.failed = ctx.Err(); p.failed != nil {
				return
			}
			b = b[:s.n]
			if err := readFull(r, b, s.at); err != nil {
				p.failed = err
				return
			}
			p.full <- block{s.at, b}
		}
	}()
	return p
}

// each calls f for all blocks, two at a time: reading is faster than one core's
// SHA-256. It reports how far of size it came.
func (p *pipe) each(size int64, report Report, f func(block)) error {
	var mu sync.Mutex
	done := int64(0)
	var g sync.WaitGroup
	for range 2 {
		g.Go(func() {
			for b := range p.full {
				f(b)
				mu.Lock()
				done = max(done, b.at+int64(len(b.data)))
				if report != nil {
					report(done, size)
				}
				mu.Unlock()
				p.free <- b.data
			}
		})
	}
	g.Wait()
	return p.err()
}

// readFull reads all of b; an end before is an error.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("at offset %d: %w", at+int64(n), err)
}
