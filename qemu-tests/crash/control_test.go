package crash_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// brokenStates judges up to most cuts of a disk that ignores flushes, until it
// has found as many as are enough that lead to nothing whole: a judge that finds
// none sees nothing.
func brokenStates(t *testing.T, rec recording, r releases, l *nbd.Log, base io.ReaderAt, from, most, enough int) (bad, judged int) {
	t.Helper()
	dir := keepDir(t, "control")
	name := filepath.Join(dir, "log")
	d, err := nbd.Open(rec.Image, filepath.Join(dir, "disk"), nbd.Options{Size: l.Size(), Log: name})
	must(t, err)
	replay := l.Replay(base)
	for i := range l.Len() {
		op := l.Op(i)
		if op.Kind == nbd.Flush && i >= from {
			continue
		}
		var data []byte
		if op.FUA = op.FUA && i < from; op.Kind == nbd.Write {
			must(t, replay.To(i+1))
			data = make([]byte, op.Len)
			_, err := replay.State(nbd.KeepAll).ReadAt(data, op.Off)
			must(t, err)
		}
		must(t, d.Do(op, data))
	}
	must(t, d.Close())
	j, l, again := newJudge(t, recording{Log: name, Image: rec.Image}, r.trust)
	n := newNode(t, rec, r, l, j.parts)
	broken := l.Replay(again)
	rnd := rand.New(rand.NewPCG(3, 3))
	for ; judged < most && bad < enough; judged++ {
		at := from + (l.Len()-from)*judged/most
		must(t, broken.To(at))
		s := broken.State(2 + rnd.Uint64N(1<<40))
		b := j.boots(s)
		if b.err == nil {
			var p disk.Partition
			if p, _ = varOf(s, j.size); p.Size > 0 {
				_, b.err = n.takeUp(s, p, b, at)
			}
		}
		if b.err != nil {
			bad++
			t.Logf("without flushes, as is to be expected, after %d: %.200v", at, b.err)
		}
	}
	return bad, judged
}

// control judges a disk that ignores flushes.
func control(t *testing.T, rec recording, r releases) {
	_, l, base := newJudge(t, rec, r.trust)
	bad, judged := brokenStates(t, rec, r, l, base, rec.Applied, 200, 2)
	t.Logf("%d of %d states are bad", bad, judged)
	if bad == 0 {
		t.Error("a disk that ignores flushes leaves no bad state: the judge sees nothing")
	}
	result(t, "control", fmt.Sprintf("Of %d states of the same log with its flushes taken out, the judge finds %d bad, as it must.\n", judged, bad))
}
