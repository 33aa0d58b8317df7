package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// recording is the log of a node's first boot and of the updates that it took
// one after the other.
type recording struct {
	Log, Image string
	Vars       string // the firmware's variables before the first update
	Updates    []taken
	Seconds    float64
	Commit     string
}

// taken is an update that was recorded.
type taken struct {
	Name          string
	Bundle        string
	From, To      int64 // releases
	Rests         int64 // the release on which it ends if nothing is cut
	Applied, Over int   // operations when it was asked for, and when the node was at rest again
	Audit         string
}

// open reads the log; base is the disk before it.
func (rec recording) open(t *testing.T) (l *nbd.Log, base *os.File) {
	t.Helper()
	l, err := nbd.OpenLog(rec.Log)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	base, err = os.Open(rec.Image)
	must(t, err)
	t.Cleanup(func() { base.Close() })
	return l, base
}

// at is the number of the update that is under way after so many operations,
// and the releases that may come up then; -1 stands for none.
func (rec recording) at(op int) (update int, may []int64) {
	may = []int64{rec.Updates[0].From}
	for i, u := range rec.Updates {
		switch {
		case op < u.Applied:
			return -1, may
		case op < u.Over:
			return i, []int64{u.From, u.To}
		}
		may = []int64{u.Rests}
	}
	return -1, may
}

// nameOf is an update's name.
func (rec recording) nameOf(update int) string {
	if update < 0 {
		return "none"
	}
	return rec.Updates[update].Name
}

// record makes the recording, or takes the one of an earlier run.
func record(t *testing.T, r releases) recording {
	t.Helper()
	ctx, start := context.Background(), time.Now()
	b := &bench{dir: scratch(t, "record"), begin: onImage(r.old.image, 14<<30)}
	kept := b.path("recording.json")
	var rec recording
	if doc, err := os.ReadFile(kept); err == nil {
		must(t, json.Unmarshal(doc, &rec))
		return rec
	}
	for _, name := range []string{"disk", "disk.map", "log", "lab"} {
		must(t, os.RemoveAll(b.path(name))) // of a run that did not come to its end
	}
	t.Cleanup(func() { b.end(t) })
	rec = recording{Log: b.path("log"), Image: r.old.image, Vars: b.path("vars.fd"), Commit: commit()}
	must(t, b.powerOn(ctx, rec.Log))
	s, err := b.atRest(ctx)
	must(t, err)
	must(t, copyFile(rec.Vars, b.labDir()+"/vars.fd"))
	for _, u := range []struct {
		name string
		release
		rests int64
	}{
		{"failing", r.failing, r.old.number}, {"good", r.good, r.good.number}, {"shared root", r.shared, r.shared.number},
	} {
		if u.number == 0 {
			continue
		}
		made := taken{Name: u.name, Bundle: u.bundle, From: s.Confirmed, To: u.number, Rests: u.rests, Applied: b.disk.Ops()}
		made.Audit, err = b.vm.Audit(ctx)
		must(t, err)
		s, err = b.take(ctx, u.bundle, made.Rests)
		must(t, err)
		time.Sleep(10 * time.Second) // for what the kernel writes behind
		made.Over = b.disk.Ops()
		rec.Updates = append(rec.Updates, made)
		t.Logf("recorded: %s, operations %d to %d, after %.0f s", made.Name, made.Applied, made.Over, time.Since(start).Seconds())
	}
	must(t, b.powerOff())
	rec.Seconds = time.Since(start).Seconds()
	doc, err := json.Marshal(rec)
	must(t, err)
	must(t, os.WriteFile(kept, doc, 0o644))
	return rec
}

// take has the node take an update that ends on a release.
func (b *bench) take(ctx context.Context, bundle string, rests int64) (seen, error) {
	before, err := b.vm.Audit(ctx)
	if err != nil {
		return seen{}, err
	}
	if _, err := b.vm.Apply(ctx, bundle, lab.ApplyOptions{Reboot: true}); err != nil {
		return seen{}, err
	}
	what := fmt.Sprintf("at rest on release %d again", rests)
	return b.waitFor(ctx, what, func(s seen) bool {
		if !s.Healthy() || s.Step != "idle" || s.Mode == "trial" || s.Confirmed != rests || s.Release.Number != rests {
			return false
		}
		now, err := b.vm.Audit(ctx) // it looks so before the update begins, too
		return err == nil && strings.Contains(strings.TrimPrefix(now, before), `"what":"importing"`)
	})
}

// commit is the tree's, or what HOLDFAST_CRASH_COMMIT says.
func commit() string {
	if s := os.Getenv("HOLDFAST_CRASH_COMMIT"); s != "" {
		return s
	}
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// stepText begins every update.json. A file of its size is written in one
// block.
const stepText = "{\n \"version\": 1,\n \"step\": \""

// transition is a step that update.json came to.
type transition struct {
	Update    int // in recording.Updates
	Step      string
	Wrote     int // the operation that wrote the file
	Persisted int // the operations after which it is there, whatever a cut drops
	Next      int // the operation that writes the next one, or where the update is over
}

func (x transition) String() string {
	return fmt.Sprintf("%s at %d to %d", x.Step, x.Wrote, x.Persisted)
}

// transitions finds the steps of all updates in a log.
func (n *node) transitions(rec recording, base *os.File) ([]transition, error) {
	var all []transition
	var docs []string
	for u, made := range rec.Updates {
		for i := made.Applied; i < made.Over; i++ {
			b, err := n.log.Data(i)
			if err != nil {
				return nil, err
			}
			for at := 0; at < len(b); at += pageSize {
				doc, ok := strings.CutPrefix(string(b[at:min(at+pageSize, len(b))]), stepText)
				if !ok {
					continue
				}
				step, _, _ := strings.Cut(doc, `"`)
				if k := len(all) - 1; k >= 0 && all[k].Update == u && all[k].Step == step {
					continue // it changed in another field
				}
				all, docs = append(all, transition{Update: u, Step: step, Wrote: i}), append(docs, stepText+strings.TrimRight(doc, "\x00"))
			}
		}
	}
	for k := range all {
		x := &all[k]
		x.Next = rec.Updates[x.Update].Over
		if k+1 < len(all) && all[k+1].Update == x.Update {
			x.Next = all[k+1].Wrote
		}
		if err := n.persisted(x, docs[k], base); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// persisted finds the first flush behind which the file is there.
func (n *node) persisted(x *transition, doc string, base *os.File) error {
	r := n.log.Replay(base)
	for i := x.Wrote + 1; i < x.Next; i++ {
		if n.log.Op(i).Kind != nbd.Flush {
			continue
		}
		if err := r.To(i + 1); err != nil {
			return err
		}
		s := r.State(nbd.KeepNone)
		p, ok := varOf(s, s.Size())
		if !ok {
			return errors.New("cannot find /var")
		}
		was, err := n.updateFile(s, p, i+1)
		if err != nil {
			return err
		}
		if was == doc {
			x.Persisted = i + 1
			return nil
		}
	}
	return fmt.Errorf("step %q of operation %d is persisted nowhere before operation %d", x.Step, x.Wrote, x.Next)
}

// stepsOf are the steps of one update, in order.
func stepsOf(all []transition, update int) (steps []string) {
	for _, x := range all {
		if x.Update == update {
			steps = append(steps, x.Step)
		}
	}
	return slices.Clip(steps)
}
