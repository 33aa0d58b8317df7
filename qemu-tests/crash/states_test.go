package crash_test

import (
	"math/rand/v2"
	"slices"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// cutAt is a power cut: after that many operations, with a seed that says what
// becomes of those that were not durable.
type cutAt struct {
	Op   int
	Seed uint64
}

// chooseCuts picks n power cuts in the order of their operations. Two thirds
// are at flushes and around every write to the partition table and the ESP, or
// as many as there are of those; the others are anywhere. The plain cuts, which
// keep all or nothing, are among them for each place.
func chooseCuts(l *nbd.Log, parts []disk.Partition, n int, rnd *rand.Rand) []cutAt {
	esp := parts[slices.IndexFunc(parts, func(p disk.Partition) bool { return p.TypeGUID == disk.TypeESP })]
	tableEnd, backup := parts[0].Start, l.Size()-1<<20
	var dense []int
	for i := range l.Len() {
		op := l.Op(i)
		switch {
		case op.Kind == nbd.Flush:
			dense = append(dense, i, i+1)
		case op.Off < tableEnd || op.Off+op.Len > backup, op.Off < esp.Start+esp.Size && esp.Start < op.Off+op.Len:
			for j := max(0, i-2); j <= min(i+3, l.Len()); j++ {
				dense = append(dense, j)
			}
		}
	}
	slices.Sort(dense)
	dense = slices.Compact(dense)
	have := map[cutAt]bool{}
	add := func(op int, most int) {
		for _, seed := range []uint64{nbd.KeepNone, nbd.KeepAll, 2 + rnd.Uint64N(1<<40), 2 + rnd.Uint64N(1<<40)} {
			if len(have) < most {
				have[cutAt{op, seed}] = true
			}
		}
	}
	for _, i := range rnd.Perm(len(dense)) {
		add(dense[i], n*2/3)
	}
	for tries := 0; len(have) < n && tries < 10*n; tries++ {
		add(rnd.IntN(l.Len()+1), n)
	}
	// Where the log is short, more seeds at the places that count.
	for len(have) < n {
		have[cutAt{dense[rnd.IntN(len(dense))], 2 + rnd.Uint64N(1<<40)}] = true
	}
	var out []cutAt
	for c := range have {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b cutAt) int {
		if a.Op != b.Op {
			return a.Op - b.Op
		}
		if a.Seed < b.Seed {
			return -1
		}
		return 1
	})
	return out
}

// pages is a disk whose changes stay in memory.
type pages struct {
	below *nbd.State
	at    map[int64][]byte
}

const pageSize = 4096

func (p *pages) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.below.ReadAt(b, off)
	for at := off / pageSize * pageSize; at < off+int64(n); at += pageSize {
		if page, ok := p.at[at]; ok {
			from := max(at, off)
			copy(b[from-off:n], page[from-at:])
		}
	}
	return n, err
}

func (p *pages) WriteAt(b []byte, off int64) (int, error) {
	for done := 0; done < len(b); {
		at := (off + int64(done)) / pageSize * pageSize
		page, ok := p.at[at]
		if !ok {
			page = make([]byte, pageSize)
			if _, err := p.below.ReadAt(page, at); err != nil {
				return done, err
			}
			p.at[at] = page
		}
		done += copy(page[off+int64(done)-at:], b[done:])
	}
	return len(b), nil
}

func (p *pages) Sync() error { return nil }
