package crash_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// fault is what a disk does wrong: what the judge finds in its log it would find
// in that of a node that forgot to flush, or that flushed in another order.
type fault struct {
	name        string
	order       []int // the operations that the disk does, in its order
	late        int   // so many of them, the last, belong before the others
	first, last int   // the cuts to be judged: after so many
	firmware    bool  // it shows in what firmware reads alone
}

// log is how far the sound disk is when this one has done so many operations.
func (f fault) log(l *nbd.Log, done int) int {
	if done < len(f.order)-f.late {
		return f.order[done]
	}
	return l.Len()
}

// faults makes logs of disks that do not do as they are told.
func faults(rec recording, l *nbd.Log, parts []disk.Partition) []fault {
	good := rec.Updates[slices.IndexFunc(rec.Updates, func(u taken) bool { return u.Name == "good" })]
	from, over := rec.Updates[0].Applied, good.Over
	isFlush := func(i int) bool { return l.Op(i).Kind == nbd.Flush }
	touches := func(i int, from, to int64) bool {
		op := l.Op(i)
		return op.Kind != nbd.Flush && op.Off < to && from < op.Off+op.Len
	}
	inTable := func(i int) bool {
		return i >= good.Applied && i < over && (touches(i, 0, parts[0].Start) || touches(i, l.Size()-1<<20, l.Size()))
	}
	inSlots := func(i int) bool {
		return i >= good.Applied && i < over && slices.ContainsFunc(parts, func(p disk.Partition) bool {
			return (strings.HasPrefix(p.Name, "holdfast-root") || strings.HasPrefix(p.Name, "holdfast-verity")) && touches(i, p.Start, p.Start+p.Size)
		})
	}
	inKernel := func(i int) bool { // larger than a directory or an allocation table
		esp := parts[slices.IndexFunc(parts, func(p disk.Partition) bool { return p.TypeGUID == disk.TypeESP })]
		return i >= good.Applied && i < over && touches(i, esp.Start, esp.Start+esp.Size) && l.Op(i).Len > 64<<10
	}
	first, last := span(l, inTable)
	// late are logs in which what is chosen comes after everything else.
	late := func(name string, chosen func(int) bool) fault {
		order, moved := split(l, chosen)
		begin, _ := slices.BinarySearch(order, over)
		return fault{name, append(order, moved...), len(moved), begin, len(order), true}
	}
	kept, _ := split(l, func(i int) bool { return i >= from && isFlush(i) })
	begin, _ := slices.BinarySearch(kept, from)
	both, _ := split(l, func(i int) bool { return i > first && i < last && isFlush(i) })
	firstOf, _ := slices.BinarySearch(both, first)
	lastOf, _ := slices.BinarySearch(both, last)
	return []fault{
		{"no flush is done", kept, 0, begin, len(kept), false},
		{"no flush between the copies of the partition table", both, 0, firstOf + 1, lastOf + 1, true},
		late("the slot is written when the update is over", inSlots),
		late("the kernel image is written when the update is over", inKernel),
	}
}

// span is from the first chosen operation to the last.
func span(l *nbd.Log, chosen func(i int) bool) (first, last int) {
	first = -1
	for i := range l.Len() {
		if chosen(i) {
			if last = i; first < 0 {
				first = i
			}
		}
	}
	return max(first, 0), last
}

// split is the operations of a log that are not chosen, and those that are.
func split(l *nbd.Log, chosen func(i int) bool) (rest, some []int) {
	for i := range l.Len() {
		if chosen(i) {
			some = append(some, i)
		} else {
			rest = append(rest, i)
		}
	}
	return rest, some
}

// control has the judge look at logs of faulty disks: where it finds nothing in
// them, it sees nothing.
func control(t *testing.T, rec recording, r releases) string {
	sound, base := rec.open(t)
	var s strings.Builder
	s.WriteString("The same log, of disks that do not do as they are told. States that are bad, of those judged, until a few were found:\n\n")
	for _, f := range faults(rec, sound, newJudge(t, sound, base, r.trust).parts) {
		l := sound.Altered(f.order)
		j := newJudge(t, l, base, r.trust)
		n := newNode(t, rec, r, l, j.parts)
		replay, rnd := l.Replay(base), rand.New(rand.NewPCG(3, 3))
		var judged, inFirmware, inVar int
		most, enough := 4000, 3
		if !f.firmware {
			most, enough = 100, 1 // /var takes long
		}
		for ; judged < most && (inFirmware < enough || !f.firmware && inVar < enough); judged++ {
			at := f.first + rnd.IntN(f.last-f.first+1)
			must(t, replay.To(at))
			state := replay.State(2 + rnd.Uint64N(1<<40))
			b := j.boots(state)
			_, may := rec.at(f.log(sound, at))
			err := b.oneOf(may)
			if err != nil {
				inFirmware++
			} else if p, ok := varOf(state, j.size); ok && !f.firmware {
				if _, err = n.takeUp(state, p, b, at); err != nil {
					inVar++
				}
			}
			if err != nil {
				t.Logf("%s, as is to be expected, after %d: %.200v", f.name, at, err)
			}
		}
		if fmt.Fprintf(&s, "* %s: %d in what firmware reads", f.name, inFirmware); !f.firmware {
			fmt.Fprintf(&s, ", %d in /var", inVar)
		}
		fmt.Fprintf(&s, ", of %d\n", judged)
		if inFirmware == 0 && (f.firmware || inVar == 0) {
			t.Errorf("%s, and none of %d states is bad: the judge sees nothing", f.name, judged)
		}
	}
	return s.String()
}
