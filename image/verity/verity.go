// Package verity writes and checks dm-verity hash trees: a superblock of
// format 1 and a tree of salted SHA-256 hashes over blocks of 4096 bytes, with
// the bytes that "veritysetup format" gives. The format is described in the
// kernel's Documentation/admin-guide/device-mapper/verity.rst and in
// cryptsetup's wiki (DMVerity).
package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// BlockSize is the size in bytes of data and hash blocks.
const BlockSize = 4096

// MaxSalt is the longest salt in bytes that a superblock holds.
const MaxSalt = 256

const (
	perBlock = BlockSize / sha256.Size // hashes in a block
	maxSize  = 1 << 50                 // bytes of data; far above any disk's, below any overflow
)

// ErrMismatch is wrapped by the error of Verify about data or a tree that are
// not those of the root hash; any other error means that they could not be read.
var ErrMismatch = errors.New("verity mismatch")

// Options are what the superblock holds beside sizes.
type Options struct {
	Salt []byte // at most MaxSalt bytes
	UUID [16]byte
}

// Size is the length in bytes of what Write writes for dataSize bytes of data.
func Size(dataSize int64) int64 {
	size := int64(BlockSize)
	for n := blocks(dataSize); n > 1; {
		n = (n + perBlock - 1) / perBlock
		size += n * BlockSize
	}
	return size
}

// Write writes superblock and tree for the first size bytes of data, which
// must be whole blocks, and returns the root hash. It holds the tree in memory,
// a 127th part of the data, since a tree begins with its top.
func Write(w io.Writer, data io.ReaderAt, size int64, o Options) (rootHash [32]byte, err error) {
	levels, rootHash, err := build(data, size, o)
	if err != nil {
		return rootHash, fmt.Errorf("cannot make verity tree: %w", err)
	}
	for _, l := range levels {
		if _, err := w.Write(l); err != nil {
			return rootHash, fmt.Errorf("cannot write verity tree: %w", err)
		}
	}
	return rootHash, nil
}

// Verify reads the first size bytes of data, and tree whole, and returns an
// error unless they are what rootHash stands for.
func Verify(data, tree io.ReaderAt, size int64, rootHash [32]byte) error {
	if err := verify(data, tree, size, rootHash); err != nil {
		return fmt.Errorf("cannot verify data: %w", err)
	}
	return nil
}

// DataSize is the number of bytes of data that the superblock of tree names. It
// is to be trusted only once Verify has accepted it.
func DataSize(tree io.ReaderAt) (int64, error) {
	b := make([]byte, BlockSize)
	if err := readFull(tree, b, 0); err != nil {
		return 0, fmt.Errorf("cannot read verity superblock: %w", err)
	}
	if _, err := parse(b); err != nil {
		return 0, fmt.Errorf("cannot read verity superblock: %w", err)
	}
	n := binary.LittleEndian.Uint64(b[72:])
	if n == 0 || n > maxSize/BlockSize {
		return 0, fmt.Errorf("cannot read verity superblock: %w: %d blocks of data", ErrMismatch, n)
	}
	return int64(n) * BlockSize, nil
}

func verify(data, tree io.ReaderAt, size int64, rootHash [32]byte) error {
	stored := make([]byte, BlockSize)
	if err := readFull(tree, stored, 0); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	o, err := parse(stored)
	if err != nil {
		return err
	}
	levels, got, err := build(data, size, o)
	if err != nil {
		return err
	}
	if got != rootHash {
		return fmt.Errorf("%w: root hash is %x, want %x", ErrMismatch, got, rootHash)
	}
	at := int64(0)
	for _, l := range levels {
		for ; len(l) > 0; l = l[BlockSize:] {
			if err := readFull(tree, stored, at); err != nil {
				return fmt.Errorf("tree: %w", err)
			}
			if !bytes.Equal(stored, l[:BlockSize]) {
				return fmt.Errorf("%w: block %d of the tree", ErrMismatch, at/BlockSize)
			}
			at += BlockSize
		}
	}
	return nil
}

// build returns the superblock and the tree's levels, topmost first.
func build(data io.ReaderAt, size int64, o Options) (levels [][]byte, rootHash [32]byte, err error) {
	if size <= 0 || size%BlockSize != 0 || size > maxSize {
		return nil, rootHash, fmt.Errorf("%d bytes of data are not whole blocks of %d", size, BlockSize)
	}
	if len(o.Salt) > MaxSalt {
		return nil, rootHash, fmt.Errorf("salt of %d bytes, more than %d", len(o.Salt), MaxSalt)
	}
	superblock := format(o, blocks(size))
	for n := blocks(size); n > 1; n = blocks(size) {
		level, err := hashLevel(data, n, o.Salt)
		if err != nil {
			return nil, rootHash, err
		}
		levels = append([][]byte{level}, levels...)
		data, size = bytes.NewReader(level), int64(len(level))
	}
	top := make([]byte, BlockSize)
	if err := readFull(data, top, 0); err != nil {
		return nil, rootHash, err
	}
	h := sha256.New()
	h.Write(o.Salt)
	h.Write(top)
	h.Sum(rootHash[:0])
	return append([][]byte{superblock}, levels...), rootHash, nil
}

// hashLevel hashes n blocks of data into the blocks of the level above.
func hashLevel(data io.ReaderAt, n int64, salt []byte) ([]byte, error) {
	groups := (n + perBlock - 1) / perBlock
	level := make([]byte, groups*BlockSize)
	var next atomic.Int64
	var g errgroup.Group
	for range min(int64(runtime.GOMAXPROCS(0)), groups) {
		g.Go(func() error {
			buf := make([]byte, perBlock*BlockSize)
			h := sha256.New()
			for {
				i := next.Add(1) - 1
				if i >= groups {
					return nil
				}
				count := min(perBlock, n-i*perBlock)
				part := buf[:count*BlockSize]
				if err := readFull(data, part, i*perBlock*BlockSize); err != nil {
					return err
				}
				out := level[i*BlockSize : i*BlockSize : (i+1)*BlockSize]
				for ; len(part) > 0; part = part[BlockSize:] {
					h.Reset()
					h.Write(salt)
					h.Write(part[:BlockSize])
					out = h.Sum(out)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return level, nil
}

func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// readFull reads all of b; data that ends before is an error.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("cannot read %d bytes at %d: %w", len(b), at, err)
}

// format makes the superblock, padded to a block.
func format(o Options, dataBlocks int64) []byte {
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(b[0:8], "verity")
	le.PutUint32(b[8:], 1)  // version
	le.PutUint32(b[12:], 1) // hash type: salt before data
	copy(b[16:32], o.UUID[:])
	copy(b[32:64], "sha256")
	le.PutUint32(b[64:], BlockSize) // of data
	le.PutUint32(b[68:], BlockSize) // of the tree
	le.PutUint64(b[72:], uint64(dataBlocks))
	le.PutUint16(b[80:], uint16(len(o.Salt)))
	copy(b[88:88+MaxSalt], o.Salt)
	return b
}

// parse takes from a superblock what can differ between those that format
// makes; that the rest is as expected is seen when the whole block is compared.
func parse(b []byte) (Options, error) {
	var o Options
	if !bytes.HasPrefix(b, []byte("verity\x00\x00")) {
		return o, fmt.Errorf("%w: no verity superblock", ErrMismatch)
	}
	n := binary.LittleEndian.Uint16(b[80:])
	if n > MaxSalt {
		return o, fmt.Errorf("%w: salt of %d bytes", ErrMismatch, n)
	}
	o.Salt = bytes.Clone(b[88 : 88+int(n)])
	copy(o.UUID[:], b[16:32])
	return o, nil
}
