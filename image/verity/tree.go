package verity

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
)

// Tree is a tree that was read and is that of a root hash. With it blocks of
// data can be checked one at a time.
type Tree struct {
	leaves []byte // the hashes of the data's blocks
	salt   []byte
	blocks int64
}

// ReadTree reads a tree over at most maxData bytes of data, and checks it,
// whole. The error wraps ErrMismatch if it is not that of rootHash.
func ReadTree(r io.ReaderAt, maxData int64, rootHash [32]byte) (*Tree, error) {
	size, err := DataSize(r)
	if err != nil {
		return nil, err
	}
	if size > maxData {
		return nil, fmt.Errorf("cannot read verity tree: %w: it is over %d bytes, more than %d", ErrMismatch, size, maxData)
	}
	t, err := readTree(r, size, rootHash)
	if err != nil {
		return nil, fmt.Errorf("cannot read verity tree: %w", err)
	}
	return t, nil
}

func readTree(r io.ReaderAt, size int64, rootHash [32]byte) (*Tree, error) {
	b := make([]byte, Size(size))
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	o, err := parse(b)
	if err != nil {
		return nil, err
	}
	t := &Tree{salt: o.Salt, blocks: blocks(size)}
	if !bytes.Equal(b[:BlockSize], format(o, t.blocks)) {
		return nil, fmt.Errorf("%w: another superblock", ErrMismatch)
	}
	var counts []int64 // of the levels' blocks, topmost first
	for n := t.blocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		counts = append([]int64{n}, counts...)
	}
	t.leaves = rootHash[:]
	at, left := int64(1), b[BlockSize:]
	for _, n := range counts {
		level := left[:n*BlockSize]
		left = left[n*BlockSize:]
		for i := range n {
			if !t.has(i, level[i*BlockSize:][:BlockSize]) {
				return nil, fmt.Errorf("%w: block %d of the tree", ErrMismatch, at+i)
			}
		}
		t.leaves, at = level, at+n
	}
	return t, nil
}

// Blocks is the number of blocks of data.
func (t *Tree) Blocks() int64 { return t.blocks }

// CheckBlock returns an error that wraps ErrMismatch unless b is the data's
// block i.
func (t *Tree) CheckBlock(i int64, b []byte) error {
	if i < 0 || i >= t.blocks || len(b) != BlockSize || !t.has(i, b) {
		return fmt.Errorf("%w: block %d of the data", ErrMismatch, i)
	}
	return nil
}

// has reports whether b has the i-th hash of what is the lowest level by now.
func (t *Tree) has(i int64, b []byte) bool {
	h := sha256.New()
	h.Write(t.salt)
	h.Write(b)
	var sum [sha256.Size]byte
	return bytes.Equal(h.Sum(sum[:0]), t.leaves[i*sha256.Size:][:sha256.Size])
}
