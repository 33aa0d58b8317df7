package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// fork is a power cut in the recorded updates, to be booted: the disk of a node
// whose power went after that operation, while the recorded one went on.
type fork struct {
	Update int    // in recording.Updates
	Step   string // the cut is about
	Where  string
	Op     int
	Seed   uint64
	Twice  bool // the boot that follows is cut as well
	Again  bool // the update is then taken again, to its end
}

func (f fork) String() string {
	return fmt.Sprintf("%d-%s-%d-%d", f.Update+1, f.Step, f.Op, f.Seed)
}

// The places of a cut.
const (
	before = "before it is persisted"
	just   = "just persisted"
	middle = "in its middle"
)

// planForks makes n cuts: each step of each update as it is persisted, in its
// middle, and before it is persisted, then more in the middle of any. What comes
// first is of every step, so that a run that ends early has seen them all.
func planForks(all []transition, n int, rnd *rand.Rand) []fork {
	var plan []fork
	done := map[string]bool{}
	for cuts := 0; cuts < n; {
		for _, where := range []string{just, middle, before} {
			for _, i := range rnd.Perm(len(all)) {
				x := all[i]
				f := fork{Update: x.Update, Step: x.Step, Where: where, Seed: 2 + rnd.Uint64N(1<<40)}
				switch where {
				case just:
					f.Op, f.Seed = x.Persisted, nbd.KeepNone
				case middle:
					f.Op = x.Persisted + rnd.IntN(max(x.Next-x.Persisted, 1))
				case before:
					f.Op = x.Wrote + rnd.IntN(x.Persisted-x.Wrote)
				}
				f.Twice = len(plan)%5 == 4
				f.Again = !f.Twice && !done[x.Step]
				done[x.Step] = done[x.Step] || f.Again
				if cuts++; f.Twice {
					cuts++
				}
				if cuts > n {
					return plan
				}
				plan = append(plan, f)
			}
		}
	}
	return plan
}

// booted is what came of a fork.
type booted struct {
	Fork    fork
	OnDisk  string // the step that update.json had
	Second  int    // operations of the boot that was cut, and
	Of      int    // those that it had in all; 0 if it was not cut
	Rests   int64
	Mode    string
	Again   string // how it took the update again
	Resets  int    // for which the emulation is to blame
	Seconds float64
}

// forks boots power cuts.
type forks struct {
	t   *testing.T
	rec recording
	dir string
	log *nbd.Log
	mu  sync.Mutex // for what follows
	*judge
	*node
	base *os.File
	done []booted
	bad  int
}

// bootForks boots n power cuts in the recorded updates, and each must come to
// rest, healthy, on the release that the judge foresees.
func bootForks(t *testing.T, rec recording, r releases, n int) (text, left string) {
	seed := uint64(number(t, "HOLDFAST_CRASH_SEED", 1))
	l, base := rec.open(t)
	f := &forks{t: t, rec: rec, dir: scratch(t, "forks"), log: l, base: base, judge: newJudge(t, l, base, r.trust)}
	f.node = newNode(t, rec, r, l, f.judge.parts)
	all, err := f.steps()
	must(t, err)
	f.expectSteps(all)
	for _, x := range all {
		t.Logf("%s: %s", rec.Updates[x.Update].Name, x)
	}
	plan := planForks(all, n, rand.New(rand.NewPCG(seed, 2)))
	must(t, f.earlier())
	machines := number(t, "HOLDFAST_CRASH_MACHINES", 2)
	end := time.Now().Add(time.Duration(number(t, "HOLDFAST_CRASH_MINUTES", 24*60)) * time.Minute)
	var wait sync.WaitGroup
	next := make(chan fork)
	for range machines {
		wait.Go(func() {
			for c := range next {
				if time.Now().Before(end) && f.failed() < 5 {
					f.try(c, max(1, runtime.NumCPU()/machines), len(plan))
				}
			}
		})
	}
	for _, c := range plan {
		if !f.has(c) {
			next <- c
		}
	}
	close(next)
	wait.Wait()
	if n := len(plan) - len(f.done); n > 0 {
		left = fmt.Sprintf("%d of %d to be booted yet", n, len(plan))
	}
	return f.report(seed), left
}

// steps are the transitions in the log, found by an earlier run or now.
func (f *forks) steps() (all []transition, err error) {
	name := filepath.Join(f.dir, "steps.json")
	if doc, err := os.ReadFile(name); err == nil {
		return all, json.Unmarshal(doc, &all)
	}
	if all, err = f.node.transitions(f.rec, f.base); err != nil {
		return nil, err
	}
	doc, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(name, doc, 0o644)
	}
	return all, err
}

// expectSteps checks that the log has every step of every update.
func (f *forks) expectSteps(all []transition) {
	for i, u := range f.rec.Updates {
		want := "importing retiring writing table entry stopping switching trial confirming idle"
		switch u.Name {
		case "failing":
			want = strings.Replace(want, "confirming", "failing returning", 1)
		case "shared root":
			want = strings.Replace(want, "writing table ", "", 1)
		}
		if got := strings.Join(stepsOf(all, i), " "); got != want {
			f.t.Fatalf("the log of %q has the steps %q, not %q", u.Name, got, want)
		}
	}
}

func (f *forks) kept() string { return filepath.Join(f.dir, "booted.jsonl") }

// earlier reads what earlier runs did.
func (f *forks) earlier() error {
	b, err := os.ReadFile(f.kept())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for line := range bytes.Lines(b) {
		var x booted
		if err := json.Unmarshal(line, &x); err != nil {
			return fmt.Errorf("%s: %w", f.kept(), err)
		}
		f.done = append(f.done, x)
	}
	return err
}

func (f *forks) has(c fork) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.done {
		if x.Fork == c {
			return true
		}
	}
	return false
}

func (f *forks) failed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bad
}

// try boots one cut, and notes what came of it.
func (f *forks) try(c fork, cpus, of int) {
	start := time.Now()
	x, err := f.boot(context.Background(), c, cpus)
	x.Seconds = time.Since(start).Seconds()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.bad++
		f.t.Errorf("%s, %s of %s, after operation %d, seed %d: %v\nkept: %s", f.rec.Updates[c.Update].Name, c.Where, c.Step, c.Op, c.Seed, err, filepath.Join(f.dir, c.String()))
		return
	}
	f.done = append(f.done, x)
	f.t.Logf("%d of %d: %s, %s of %s (on disk: %q): release %d, %s; cut again after %d of %d; %s; %.0f s",
		len(f.done), of, f.rec.Updates[c.Update].Name, c.Where, c.Step, x.OnDisk, x.Rests, x.Mode, x.Second, x.Of, x.Again, x.Seconds)
	doc, err := json.Marshal(x)
	if err == nil {
		err = appendTo(f.kept(), append(doc, '\n'))
	}
	if err != nil {
		f.t.Error(err)
	}
}

func appendTo(name string, b []byte) error {
	out, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = out.Write(b)
	return errors.Join(err, out.Close())
}

// foresee is the release on which a node with that disk comes to rest, and the
// step that it was at, as the judge has it.
func (f *forks) foresee(c fork, s *nbd.State) (rests int64, step string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.rec.Updates[c.Update]
	b := f.judge.boots(s)
	_, may := f.rec.at(c.Op)
	if err := b.oneOf(may); err != nil {
		return 0, "", err
	}
	p, ok := varOf(s, s.Size())
	if !ok {
		return 0, "", errors.New("there is no /var")
	}
	o, err := f.node.takeUp(s, p, b, c.Op)
	if err != nil {
		return 0, "", err
	}
	switch o.mode {
	case install.OnTrial:
		return u.Rests, string(o.step), nil
	case install.Rebooting:
		return u.From, string(o.step), nil
	}
	return o.runs, string(o.step), nil
}

// boot starts a machine on the disk that the cut leaves, and waits until it is
// at rest.
func (f *forks) boot(ctx context.Context, c fork, cpus int) (x booted, err error) {
	x = booted{Fork: c, Again: "not taken again"}
	u := f.rec.Updates[c.Update]
	state, err := nbd.StateAt(f.log, f.base, c.Op, c.Seed)
	if err != nil {
		return x, err
	}
	var rests int64
	if rests, x.OnDisk, err = f.foresee(c, state); err != nil {
		return x, fmt.Errorf("the judge, before any boot: %w", err)
	}
	dir := filepath.Join(f.dir, c.String())
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "again"), 0o755)); err != nil {
		return x, err
	}
	b := &bench{dir: dir, begin: state.Disk, vars: f.rec.Vars, as: lab.Config{CPUs: cpus}}
	defer func() {
		if err = errors.Join(err, b.powerOff()); err == nil {
			err = os.RemoveAll(dir)
		}
	}()
	log := ""
	if c.Twice {
		log = b.path("log")
	}
	s, err := b.comesTo(ctx, log, rests)
	if err != nil {
		return x, err
	}
	if c.Twice {
		x.Resets = b.resets
		if err := b.powerOff(); err != nil {
			return x, err
		}
		l, err := nbd.OpenLog(log)
		if err != nil {
			return x, err
		}
		defer l.Close()
		rnd := rand.New(rand.NewPCG(c.Seed, uint64(c.Op)))
		x.Second, x.Of = rnd.IntN(l.Len()), l.Len()
		second, err := nbd.StateAt(l, state, x.Second, 2+rnd.Uint64N(1<<40))
		if err != nil {
			return x, err
		}
		b = &bench{dir: filepath.Join(dir, "again"), begin: second.Disk, vars: b.vars, as: b.as}
		if s, err = b.comesTo(ctx, "", rests); err != nil {
			return x, fmt.Errorf("cut again after %d operations of %d: %w", x.Second, x.Of, err)
		}
	}
	x.Rests, x.Mode = s.Release.Number, s.Mode
	if _, err := b.auditSince(ctx, u.Audit); err != nil {
		return x, err
	}
	x.Again, err = f.again(ctx, b, c, rests)
	x.Resets += b.resets
	return x, err
}

// comesTo starts the machine and waits until it is at rest on that release.
func (b *bench) comesTo(ctx context.Context, log string, rests int64) (seen, error) {
	if err := b.powerOn(ctx, log); err != nil {
		return seen{}, err
	}
	s, err := b.atRest(ctx)
	if err == nil && s.Release.Number != rests {
		err = fmt.Errorf("it is at rest on release %d, %s, and not on %d, as the judge foresees", s.Release.Number, s.Mode, rests)
	}
	return s, err
}

// again has a node that came to rest take the update again, or the one that
// follows, but not the one that fails: to its end, or as a dry run, which says
// whether it would.
func (f *forks) again(ctx context.Context, b *bench, c fork, on int64) (string, error) {
	for _, u := range f.rec.Updates[c.Update:] {
		if u.From != on || u.Rests != u.To {
			continue
		}
		if !c.Again {
			_, err := b.vm.Apply(ctx, u.Bundle, lab.ApplyOptions{DryRun: true})
			return "would take " + u.Name, err
		}
		_, err := b.take(ctx, u.Bundle, u.Rests)
		return "took " + u.Name, err
	}
	return "nothing to take", nil
}

// report says what all runs did.
func (f *forks) report(seed uint64) string {
	var s strings.Builder
	cuts, twice, resets, seconds := 0, 0, 0, 0.0
	steps, where, came, again := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for _, x := range f.done {
		cuts++
		if x.Of > 0 {
			cuts, twice = cuts+1, twice+1
		}
		resets += x.Resets
		seconds += x.Seconds
		steps[fmt.Sprintf("%s: %s", f.rec.Updates[x.Fork.Update].Name, x.OnDisk)]++
		where[fmt.Sprintf("%s: %s", f.rec.Updates[x.Fork.Update].Name, x.Fork.Where)]++
		came[fmt.Sprintf("release %d, %s", x.Rests, x.Mode)]++
		again[x.Again]++
	}
	fmt.Fprintf(&s, "%d power cuts were booted, seed %d, in %.0f minutes of machines; %d of them cut the boot after another one. The updates were recorded at commit %s.\n", cuts, seed, seconds/60, twice, f.rec.Commit)
	if resets > 0 {
		fmt.Fprintf(&s, "%d times the emulation lost a processor's timer, and the machine was reset.\n", resets)
	}
	list(&s, "The step in update.json when power went", steps)
	list(&s, "Where the cut came, about a step", where)
	list(&s, "Came to rest, healthy, as the judge foresaw, on", came)
	list(&s, "Then", again)
	return s.String()
}
