package slot

import (
	"fmt"
	"io"
	"strings"

	"holdfast.dev/holdfast/image/verity"
)

// Memo remembers between judgements of one disk what was found out about parts
// of it, so that only what changed since is read again. The zero value is ready.
type Memo struct {
	programs map[string]*program
	slots    map[slotKey]*slotMemo
}

// A Memo forgets everything rather than grow without bound.
const (
	maxPrograms = 64
	maxSlots    = 16
)

type slotKey struct {
	root, rootSize, tree, treeSize int64
	hash                           [32]byte
}

// slotMemo knows of a slot which blocks are those of a root hash. A tree that
// was changed, and is right again, is the same tree: what was known about data
// stays true.
type slotMemo struct {
	tree    *verity.Tree // nil until it is read and right
	good    []bool       // blocks of data
	unknown int64        // how many are not good
}

// Changed says that n bytes at off may have other content since the last
// judgement.
func (m *Memo) Changed(off, n int64) {
	if n <= 0 {
		return
	}
	for key, p := range m.programs {
		for _, e := range p.extents {
			if e.at < off+n && off < e.at+e.n {
				delete(m.programs, key)
				break
			}
		}
	}
	for key, s := range m.slots {
		if key.tree < off+n && off < key.tree+key.treeSize {
			s.tree = nil
		}
		from := max(off-key.root, 0) / verity.BlockSize
		to := min((off+n-key.root+verity.BlockSize-1)/verity.BlockSize, int64(len(s.good)))
		for i := from; i < to; i++ {
			if s.good[i] {
				s.good[i] = false
				s.unknown++
			}
		}
	}
}

// program returns what look makes of a program at these extents of the disk,
// broken if there should be more of them.
func (m *Memo) program(extents []extent, broken bool, look func() (*program, error)) (*program, error) {
	var b strings.Builder
	for _, e := range extents {
		fmt.Fprintf(&b, "%d+%d ", e.at, e.n)
	}
	fmt.Fprint(&b, broken)
	key := b.String()
	if p, ok := m.programs[key]; ok {
		return p, nil
	}
	p, err := look()
	if err != nil {
		return nil, err
	}
	p.extents = extents
	if m.programs == nil || len(m.programs) >= maxPrograms {
		m.programs = map[string]*program{}
	}
	m.programs[key] = p
	return p, nil
}

// check is Check that reads only what it does not know.
func (m *Memo) check(r io.ReaderAt, s Slot, hash [32]byte) error {
	key := slotKey{s.Root.Start, s.Root.Size, s.Verity.Start, s.Verity.Size, hash}
	known := m.slots[key]
	if known == nil {
		if m.slots == nil || len(m.slots) >= maxSlots {
			m.slots = map[slotKey]*slotMemo{}
		}
		known = &slotMemo{}
		m.slots[key] = known
	}
	if known.tree == nil {
		t, err := verity.ReadTree(io.NewSectionReader(r, s.Verity.Start, s.Verity.Size), s.Root.Size, hash)
		if err != nil {
			return err
		}
		known.tree = t
		if known.good == nil {
			known.good, known.unknown = make([]bool, t.Blocks()), t.Blocks()
		}
	}
	return known.checkData(io.NewSectionReader(r, s.Root.Start, s.Root.Size))
}

func (s *slotMemo) checkData(r io.ReaderAt) error {
	const most = 128
	var buf []byte
	for i := int64(0); s.unknown > 0 && i < int64(len(s.good)); {
		if s.good[i] {
			i++
			continue
		}
		n := int64(1)
		for n < most && i+n < int64(len(s.good)) && !s.good[i+n] {
			n++
		}
		if buf == nil {
			buf = make([]byte, most*verity.BlockSize)
		}
		b := buf[:n*verity.BlockSize]
		if err := readFull(r, b, i*verity.BlockSize); err != nil {
			return err
		}
		for ; len(b) > 0; b = b[verity.BlockSize:] {
			if err := s.tree.CheckBlock(i, b[:verity.BlockSize]); err != nil {
				return err
			}
			s.good[i] = true
			s.unknown--
			i++
		}
	}
	return nil
}
