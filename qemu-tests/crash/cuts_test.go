package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/install"
)

// moment is when a power cut comes: a line on the console, and up to so long
// after it.
type moment struct {
	name string
	line *regexp.Regexp
	late time.Duration
}

func at(name, line string, late time.Duration) moment {
	return moment{name, regexp.MustCompile(line), late}
}

func step(name string, late time.Duration) moment {
	return at(name, `update to release \S+ 2: `+name, late)
}

// onOld are moments at which the old release comes back; onNew those after the
// new one was chosen.
var (
	onOld = []moment{
		step("importing", 0), step("importing", 20*time.Second),
		step("retiring", 0), step("writing", 0), step("writing", 40*time.Second),
		step("table", 0), step("entry", 0), step("entry", 5*time.Second),
		step("stopping", 0), step("switching", 0),
	}
	onNew = []moment{
		step("switching", time.Second), at("rebooting", `update: rebooting`, 10*time.Second),
		at("loader", `Restarting system`, 20*time.Second), at("boot of the trial", `Restarting system`, 60*time.Second),
		at("trial", `is on trial`, 0), at("trial", `is on trial`, 10*time.Second), at("confirming", `release \S+ 2, node \S+`, time.Second),
		at("confirmed", `CONFIRMED`, 0), at("confirmed", `CONFIRMED`, 3*time.Second),
	}
	rollback = at("trial that is cut three times", `is on trial`, time.Second)
)

// cutter cuts a node's power again and again.
type cutter struct {
	*bench
	bundle string
	rnd    *rand.Rand
	after  map[string]int // cuts by moment
	cuts   int
	came   map[string]int // where the node came up after a cut
	audit  string
	noLog  error // why the audit log cannot be asked for
	t      *testing.T
}

func (c *cutter) now(name string) error {
	seed := c.rnd.Uint64N(1 << 40) // 0 and 1, which keep all or nothing, come too seldom by chance
	if c.cuts%4 < 2 {
		seed = uint64(c.cuts % 4)
	}
	c.cuts++
	c.after[name]++
	c.t.Logf("cut %d: at %s, operation %d of this boot, seed %d", c.cuts, name, c.disk.Ops(), seed)
	return c.cut(seed)
}

// cutAt waits for the moment, and cuts.
func (c *cutter) cutAt(ctx context.Context, m moment) error {
	if _, err := c.vm.ExpectRegexp(ctx, m.line, patience); err != nil {
		return err
	}
	if m.late > 0 {
		time.Sleep(time.Duration(c.rnd.Int64N(int64(m.late))))
	}
	return c.now(m.name)
}

// up powers on again, now and then cutting that boot as well, and waits until
// the node is at rest.
func (c *cutter) up(ctx context.Context, maxCuts int) (seen, error) {
	for {
		if err := c.powerOn(ctx, ""); err != nil {
			return seen{}, err
		}
		if c.rnd.IntN(3) > 0 || c.cuts >= maxCuts {
			break
		}
		time.Sleep(time.Duration(c.rnd.Int64N(int64(time.Minute))))
		if err := c.now("boot after a cut"); err != nil {
			return seen{}, err
		}
	}
	s, err := c.atRest(ctx)
	if err != nil {
		return s, err
	}
	c.came[fmt.Sprintf("release %d, %s", s.Release.Number, s.Mode)]++
	c.t.Logf("at rest on release %d, %s: %s", s.Release.Number, s.Mode, s.Failed)
	return s, c.checkAudit(ctx)
}

// checkAudit checks that nothing the log once had is lost, and that it is
// whole.
func (c *cutter) checkAudit(ctx context.Context) error {
	log, err := c.vm.Audit(ctx)
	if err != nil {
		c.noLog = err
		return nil
	}
	if err := install.VerifyAudit(strings.NewReader(log)); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if !strings.HasPrefix(log, c.audit) {
		return fmt.Errorf("the audit log lost what it had:\n%s\nis now\n%s", c.audit, log)
	}
	c.audit = log
	return nil
}

// keep and restore are of the disk of a node that is off.
func (c *cutter) keep(from, to string) error {
	for _, name := range []string{"", ".map"} {
		if out, err := exec.Command("cp", "--sparse=always", c.path(from+name), c.path(to+name)).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
	}
	return nil
}

// oneCycle begins on the old release, at rest, and ends with a node at rest
// after a cut.
func (c *cutter) oneCycle(ctx context.Context, m moment, most int) (seen, error) {
	c.vm.SkipConsole()
	if _, err := c.vm.Apply(ctx, c.bundle, false); err != nil {
		return seen{}, err
	}
	if err := c.cutAt(ctx, m); err != nil {
		return seen{}, err
	}
	if m.name == rollback.name {
		for range 2 {
			if err := c.powerOn(ctx, ""); err != nil {
				return seen{}, err
			}
			if err := c.cutAt(ctx, m); err != nil {
				return seen{}, err
			}
		}
		if c.cuts < most {
			if err := c.powerOn(ctx, ""); err != nil {
				return seen{}, err
			}
			if err := c.cutAt(ctx, at("returning", `BACK on release|is on trial`, time.Second)); err != nil {
				return seen{}, err
			}
		}
	}
	return c.up(ctx, most)
}

// cutPower takes the power away at every transition of an update, and in
// between; each time the node must come up by itself, healthy, on one of the
// two releases, and must take the update again.
func cutPower(t *testing.T, r releases) {
	most := number(t, "HOLDFAST_CRASH_CUTS", 3)
	seed := uint64(number(t, "HOLDFAST_CRASH_SEED", 1))
	ctx, start := context.Background(), time.Now()
	c := &cutter{bench: &bench{dir: keepDir(t, "cuts"), image: r.old.image}, bundle: r.new.bundle, t: t,
		rnd: rand.New(rand.NewPCG(seed, 1)), after: map[string]int{}, came: map[string]int{}}
	t.Cleanup(func() { c.end(t); result(t, "cuts", c.report(seed, time.Since(start))) })
	must(t, c.powerOn(ctx, ""))
	s, err := c.atRest(ctx)
	must(t, err)
	must(t, c.cut(0))
	must(t, c.keep("disk", "kept"))
	must(t, c.powerOn(ctx, ""))
	_, err = c.atRest(ctx)
	must(t, err)
	plan := c.plan(most)
	for i := 0; c.cuts < most; i++ {
		s, err = c.oneCycle(ctx, plan[i%len(plan)], most)
		if err != nil {
			t.Fatalf("after %d cuts, the last at %s (kept: %s): %v", c.cuts, plan[i%len(plan)].name, filepath.Join(c.dir, "disk"), err)
		}
		if s.Release.Number == 2 {
			must(t, c.cut(0))
			must(t, c.keep("kept", "disk"))
			c.audit = ""
			must(t, c.powerOn(ctx, ""))
			_, err = c.atRest(ctx)
			must(t, err)
		}
	}
	if s.Release.Number == 1 {
		_, err = c.vm.Apply(ctx, c.bundle, false)
		must(t, err)
		_, err = c.waitFor(ctx, "on the new release", func(s seen) bool { return s.Healthy() && s.Step == "idle" && s.Confirmed == 2 })
		must(t, err)
	}
}

// plan is the order of moments: each of them comes before any comes twice. A
// short run takes one before, one at and one after the switch.
func (c *cutter) plan(most int) []moment {
	if most < 10 {
		return []moment{onOld[4], onOld[9], onNew[2]}
	}
	var out []moment
	for i, m := range onOld {
		out = append(out, m)
		if i < len(onNew) {
			out = append(out, onNew[i])
		}
	}
	return append(out, rollback)
}

func (c *cutter) report(seed uint64, took time.Duration) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d power cuts in %.0f s, seed %d.\n", c.cuts, took.Seconds(), seed)
	list := func(title string, m map[string]int) {
		fmt.Fprintf(&s, "\n%s:\n\n", title)
		var lines []string
		for name, n := range m {
			lines = append(lines, fmt.Sprintf("* %s: %d\n", name, n))
		}
		sort.Strings(lines)
		s.WriteString(strings.Join(lines, ""))
	}
	list("Cut at", c.after)
	list("Came to rest, healthy, on", c.came)
	if c.noLog != nil {
		fmt.Fprintf(&s, "\nThe audit log was not asked for every time: %v\n", c.noLog)
	}
	return s.String()
}
