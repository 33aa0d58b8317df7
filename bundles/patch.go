package bundles

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A patch makes one file from another, both filled up with zeros to whole
// blocks. It reads the old one once from its beginning to its end, so that neither file need be kept:
// the files of two roots lie in the same order.
//
// It is one zstd stream: patchMagic, then steps until the new file has its
// size. A step is three unsigned varints, counts of blocks: to pass over in
// the old file, to copy from it, and to take from the patch, which follow.
const (
	patchMagic  = "holdfast patch 1\n"
	patchBlock  = 4096
	patchInsert = 256     // blocks that a step takes at most
	patchLook   = 1 << 14 // blocks of the old file passed over at most
	patchWindow = 16 << 20
)

type blockSum [sha256.Size]byte

// compressRoot compresses as image does what it packs: one encoder at a fixed
// level. With another version of the library the bytes may be others.
func compressRoot(w io.Writer, r io.Reader) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	_, err = io.Copy(z, struct{ io.Reader }{r})
	return errors.Join(err, z.Close())
}

// blockSums reads a file of whole blocks.
func blockSums(r io.Reader) (map[blockSum][]int64, error) {
	at := map[blockSum][]int64{}
	var b [patchBlock]byte
	for i := int64(0); ; i++ {
		switch _, err := io.ReadFull(r, b[:]); {
		case errors.Is(err, io.EOF):
			return at, nil
		case err != nil:
			return nil, err
		}
		s := sha256.Sum256(b[:])
		at[s] = append(at[s], i)
	}
}

// makePatch writes the patch from the file whose blocks are at, to what r
// gives. The same files give the same bytes.
func makePatch(w io.Writer, at map[blockSum][]int64, r io.Reader) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	p := patcher{w: z, at: at}
	_, err = io.WriteString(z, patchMagic)
	for err == nil {
		var b [patchBlock]byte
		if _, err = io.ReadFull(r, b[:]); err == nil {
			err = p.block(b[:])
		}
	}
	if errors.Is(err, io.EOF) {
		err = p.flush()
	}
	return errors.Join(err, z.Close())
}

type patcher struct {
	w          io.Writer
	at         map[blockSum][]int64
	pos        int64 // in the old file, behind what was copied
	skip, copy int64 // of the step
	insert     []byte
}

func (p *patcher) block(b []byte) error {
	for _, i := range p.at[sha256.Sum256(b)] {
		if i < p.pos {
			continue
		}
		if i > p.pos+patchLook {
			break
		}
		if i > p.pos || len(p.insert) > 0 {
			if err := p.flush(); err != nil {
				return err
			}
			p.skip = i - p.pos
		}
		p.copy++
		p.pos = i + 1
		return nil
	}
	if len(p.insert) == patchInsert*patchBlock {
		if err := p.flush(); err != nil {
			return err
		}
	}
	p.insert = append(p.insert, b...)
	return nil
}

func (p *patcher) flush() error {
	if p.copy == 0 && len(p.insert) == 0 {
		return nil
	}
	var h []byte
	for _, n := range []int64{p.skip, p.copy, int64(len(p.insert) / patchBlock)} {
		h = binary.AppendUvarint(h, uint64(n))
	}
	_, err := p.w.Write(append(h, p.insert...))
	p.skip, p.copy, p.insert = 0, 0, p.insert[:0]
	return err
}

// wholeBlocks is a file of size bytes, filled up.
func wholeBlocks(r io.Reader, size int64) io.Reader {
	return io.MultiReader(io.LimitReader(r, size), bytes.NewReader(make([]byte, -size&(patchBlock-1))))
}

// cutOff passes on so many bytes and drops the rest.
type cutOff struct {
	w    io.Writer
	left int64
}

func (c *cutOff) Write(b []byte) (int, error) {
	n := min(int64(len(b)), c.left)
	c.left -= n
	if _, err := c.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// applyPatch writes the new file of size bytes. What old and patch say is not
// believed: the caller checks what comes out.
func applyPatch(w io.Writer, old io.Reader, patch io.Reader, size int64) error {
	z, err := zstd.NewReader(patch, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(patchWindow))
	if err != nil {
		return err
	}
	defer z.Close()
	r := bufio.NewReaderSize(z, 1<<16)
	magic := make([]byte, len(patchMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != patchMagic {
		return errors.Join(errors.New("not a patch that this program knows"), err)
	}
	buf := make([]byte, 1<<18)
	move := func(w io.Writer, r io.Reader, blocks uint64) error {
		n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(r, int64(blocks)*patchBlock), buf)
		if err == nil && n != int64(blocks)*patchBlock {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	w = &cutOff{w, size}
	for left := uint64((size + patchBlock - 1) / patchBlock); left > 0; {
		var step [3]uint64
		for i := range step {
			if step[i], err = binary.ReadUvarint(r); err != nil {
				return fmt.Errorf("cannot read a step of the patch: %w", unexpected(err))
			}
			if step[i] > 1<<40 {
				return errors.New("a step of the patch is too large")
			}
		}
		if step[1]+step[2] == 0 || step[1]+step[2] > left {
			return errors.New("a step of the patch does not fit what it makes")
		}
		left -= step[1] + step[2]
		if err := move(io.Discard, old, step[0]); err != nil {
			return fmt.Errorf("cannot read the old file: %w", err)
		}
		if err := move(w, old, step[1]); err != nil {
			return fmt.Errorf("cannot copy from the old file: %w", err)
		}
		if err := move(w, r, step[2]); err != nil {
			return fmt.Errorf("cannot copy from the patch: %w", err)
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("something follows the patch"), err)
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
