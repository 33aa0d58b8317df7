package nbd

import "slices"

// extent is a range of the disk that one operation wrote last.
type extent struct {
	off, end int64
	op       int
}

// chunk is the unit in which extents are kept. None reaches over its end, so
// that one change touches few others, and the slices are never changed in
// place, so that maps can share them.
const chunk = 8 << 20

type extents map[int64][]extent

func (x extents) put(off, end int64, op int) { x.putOver(nil, off, end, op) }

// putOver puts into x, where chunks that x lacks are as below has them.
func (x extents) putOver(below extents, off, end int64, op int) {
	for off < end {
		c := off / chunk
		stop := min(end, (c+1)*chunk)
		x[c] = covered(x.chunk(below, c), extent{off, stop, op})
		off = stop
	}
}

func (x extents) chunk(below extents, c int64) []extent {
	if all, ok := x[c]; ok {
		return all
	}
	return below[c]
}

// covered returns old with e over it.
func covered(old []extent, e extent) []extent {
	i, _ := slices.BinarySearchFunc(old, e.off, func(o extent, off int64) int {
		if o.end <= off {
			return -1
		}
		return 1
	})
	j := i
	for j < len(old) && old[j].off < e.end {
		j++
	}
	out := make([]extent, 0, len(old)+2)
	out = append(out, old[:i]...)
	if i < j && old[i].off < e.off {
		out = append(out, extent{old[i].off, e.off, old[i].op})
	}
	out = append(out, e)
	if i < j && old[j-1].end > e.end {
		out = append(out, extent{e.end, old[j-1].end, old[j-1].op})
	}
	return append(out, old[j:]...)
}

// at returns the operation that wrote off last and where its run ends, at the
// latest at end. When none did, ok is false for the whole run.
func (x extents) at(off, end int64) (op int, stop int64, ok bool) { return x.atOver(nil, off, end) }

// atOver looks in below for chunks that x lacks.
func (x extents) atOver(below extents, off, end int64) (op int, stop int64, ok bool) {
	c := off / chunk
	end = min(end, (c+1)*chunk)
	all := x.chunk(below, c)
	i, _ := slices.BinarySearchFunc(all, off, func(o extent, off int64) int {
		if o.end <= off {
			return -1
		}
		return 1
	})
	switch {
	case i == len(all):
		return 0, end, false
	case all[i].off > off:
		return 0, min(end, all[i].off), false
	}
	return all[i].op, min(end, all[i].end), true
}
