package kmod

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

const (
	indexMagic   = 0xB007F457
	indexVersion = 0x00020001

	hasPrefix   = 0x80000000
	hasValues   = 0x40000000
	hasChildren = 0x20000000
	maxOffset   = 0x0FFFFFFF
)

// entry is one value of an index; a key may have several.
type entry struct {
	key, value string
	priority   uint32
}

// node is one node of the trie over a sorted run of entries.
type node struct {
	prefix   string
	values   []entry
	bytes    []byte // of the children, rising
	children []*node
	size     int // of the node itself, in bytes
	total    int // with everything below it
}

// encodeIndex returns the index file of es, which it sorts.
func encodeIndex(es []entry) ([]byte, error) {
	for _, e := range es {
		if i := strings.IndexFunc(e.key+e.value, func(r rune) bool { return r == 0 || r >= 0x80 }); i >= 0 {
			return nil, fmt.Errorf("cannot index %q: %q: only 7-bit ASCII can be", e.key, e.value)
		}
	}
	slices.SortStableFunc(es, func(a, b entry) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		return int(int64(a.priority) - int64(b.priority))
	})
	// The root never has a prefix: readers start at its children.
	root := newNode(es, 0, false)
	if root.total+12 > maxOffset {
		return nil, fmt.Errorf("cannot write an index of %d bytes: at most %d", root.total, maxOffset)
	}
	b := make([]byte, 0, 12+root.total)
	b = binary.BigEndian.AppendUint32(b, indexMagic)
	b = binary.BigEndian.AppendUint32(b, indexVersion)
	b = binary.BigEndian.AppendUint32(b, 12|root.flags())
	return root.append(b), nil
}

// newNode makes the node of es, sorted entries that share their first n bytes.
func newNode(es []entry, n int, compress bool) *node {
	d := &node{}
	if len(es) > 0 && compress {
		// Sorted: what the first and the last share, all share.
		first, last := es[0].key[n:], es[len(es)-1].key[n:]
		k := 0
		for k < min(len(first), len(last)) && first[k] == last[k] {
			k++
		}
		d.prefix = first[:k]
		n += k
	}
	for len(es) > 0 && len(es[0].key) == n {
		d.values, es = append(d.values, es[0]), es[1:]
	}
	for len(es) > 0 {
		c := es[0].key[n]
		end := slices.IndexFunc(es, func(e entry) bool { return e.key[n] != c })
		if end < 0 {
			end = len(es)
		}
		child := newNode(es[:end], n+1, true)
		d.bytes, d.children = append(d.bytes, c), append(d.children, child)
		d.total += child.total
		es = es[end:]
	}
	if d.prefix != "" {
		d.size += len(d.prefix) + 1
	}
	if len(d.bytes) > 0 {
		d.size += 2 + 4*(int(d.bytes[len(d.bytes)-1])-int(d.bytes[0])+1)
	}
	if len(d.values) > 0 {
		d.size += 4
		for _, v := range d.values {
			d.size += 4 + len(v.value) + 1
		}
	}
	d.total += d.size
	return d
}

func (d *node) flags() uint32 {
	var f uint32
	if d.prefix != "" {
		f |= hasPrefix
	}
	if len(d.values) > 0 {
		f |= hasValues
	}
	if len(d.bytes) > 0 {
		f |= hasChildren
	}
	return f
}

// append writes the node to the end of b, which is its place in the file, and
// its children after it.
func (d *node) append(b []byte) []byte {
	at := uint32(len(b) + d.size) // of the next child
	if d.prefix != "" {
		b = append(append(b, d.prefix...), 0)
	}
	if n := len(d.bytes); n > 0 {
		first, last := d.bytes[0], d.bytes[n-1]
		refs := make([]uint32, int(last)-int(first)+1)
		for i, c := range d.bytes {
			refs[c-first] = at | d.children[i].flags()
			at += uint32(d.children[i].total)
		}
		b = append(b, first, last)
		for _, r := range refs {
			b = binary.BigEndian.AppendUint32(b, r)
		}
	}
	if len(d.values) > 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(len(d.values)))
		for _, v := range d.values {
			b = binary.BigEndian.AppendUint32(b, v.priority)
			b = append(append(b, v.value...), 0)
		}
	}
	for _, c := range d.children {
		b = c.append(b)
	}
	return b
}
