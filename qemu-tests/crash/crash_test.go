package crash_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// number is that of an environment variable.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// TestCrash builds releases, and takes the power away from a node that goes from
// one to another.
func TestCrash(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "e2fsck", "debugfs", "fsck.erofs")
	forks := number(t, "HOLDFAST_CRASH_CUTS", 0)
	r := build(t, forks > 0)
	rec := record(t, r)
	part(t, "States", func(t *testing.T) (string, string) { return judgeStates(t, rec, r), "" })
	part(t, "Control", func(t *testing.T) (string, string) { return control(t, rec, r), "" })
	part(t, "Killed", func(t *testing.T) (string, string) { return kill(t, rec, r), "" })
	if forks > 0 {
		part(t, "Cuts", func(t *testing.T) (string, string) { return bootForks(t, rec, r, forks) })
	}
}

// judgeStates judges states in which power cuts leave the disk of a node that
// takes updates, without booting them.
func judgeStates(t *testing.T, rec recording, r releases) string {
	want := number(t, "HOLDFAST_CRASH_STATES", 1000)
	seed := uint64(number(t, "HOLDFAST_CRASH_SEED", 1))
	l, base := rec.open(t)
	j := newJudge(t, l, base, r.trust)
	n := newNode(t, rec, r, l, j.parts)
	start := time.Now()
	mostVar := number(t, "HOLDFAST_CRASH_VARS", want/15)
	cuts := chooseCuts(l, j.parts, want, rand.New(rand.NewPCG(seed, 0)))
	c := counts{in: map[string]int{}, runs: map[int64]int{}, modes: map[string]int{}}
	replay, took := l.Replay(base), map[[64]byte]bool{}
	for i, cut := range cuts {
		if i%1000 == 0 && i > 0 {
			t.Logf("%d of %d states after %.0f s, %d bad, %d with /var", i, len(cuts), time.Since(start).Seconds(), c.bad, c.vars)
		}
		must(t, replay.To(cut.Op))
		s := replay.State(cut.Seed)
		b := j.boots(s)
		c.judged++
		update, may := rec.at(cut.Op)
		err := b.oneOf(may)
		if err == nil {
			c.runs[b.first.Boots[b.first.First].Release]++
			c.in[rec.nameOf(update)]++
			if p, ok := varOf(s, j.size); ok {
				// Spread over the whole log.
				due := c.vars*len(cuts) < (i+1)*mostVar
				var key [64]byte
				if due {
					k := s.Key(p.Start, p.Size)
					copy(key[:], k[:])
					copy(key[32:], fmt.Sprint(b.normalized.First, b.names))
				}
				if due && !took[key] {
					took[key] = true
					c.vars++
					var o outcome
					o, err = n.takeUp(s, p, b, cut.Op)
					c.modes[fmt.Sprintf("release %d %s, at step %q", o.runs, o.mode, o.step)]++
				}
			}
		}
		if err != nil {
			c.bad++
			name := filepath.Join(scratch(t, "states"), fmt.Sprintf("%d-%d.raw", cut.Op, cut.Seed))
			t.Errorf("power cut after operation %d of %d (%s), seed %d: %v\nfirmware: %s\nafter the agent: %s",
				cut.Op, l.Len(), rec.nameOf(update), cut.Seed, err, describe(b.first), describe(b.normalized))
			if c.bad <= 3 {
				t.Logf("saved as %s: %v", name, save(s, name))
			}
			if c.bad == 20 {
				t.Error("twenty states are enough")
				break
			}
		}
	}
	c.log, c.distinct, c.took, c.seed = l.Len(), j.distinct, time.Since(start), seed
	return c.String()
}

// counts are what judgeStates did.
type counts struct {
	log, judged, distinct, vars, bad int
	in                               map[string]int // by update
	runs                             map[int64]int
	modes                            map[string]int
	seed                             uint64
	took                             time.Duration
}

func (c counts) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d states of a log of %d operations were judged in %.0f s, seed %d; %d of them differ in what firmware reads.\n", c.judged, c.log, c.took.Seconds(), c.seed, c.distinct)
	fmt.Fprintf(&s, "%d lead to nothing whole, or to a release that must not come up then.\n", c.bad)
	list(&s, "Cut in the update", c.in)
	byRelease := map[string]int{}
	for n, k := range c.runs {
		byRelease[fmt.Sprint("release ", n)] = k
	}
	list(&s, "Comes up first", byRelease)
	list(&s, fmt.Sprintf("In %d states that differ, /var was read and the agent's code took up the update", c.vars), c.modes)
	return s.String()
}

// list writes how many there are of each.
func list(s *strings.Builder, title string, m map[string]int) {
	fmt.Fprintf(s, "\n%s:\n\n", title)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(s, "* %s: %d\n", name, m[name])
	}
}

// part runs a part and keeps what it returns: a section of the results, and
// what is left for another run, "" if nothing is. A part that passed in an
// earlier run is left out.
func part(t *testing.T, title string, run func(t *testing.T) (text, left string)) {
	t.Run(title, func(t *testing.T) {
		top := os.Getenv("HOLDFAST_CRASH_DIR")
		name := filepath.Join(top, "results", title+".md")
		if b, err := os.ReadFile(name); top != "" && err == nil && strings.HasPrefix(string(b), "## "+title+": passed\n") {
			t.Skipf("an earlier run passed:\n%s", b)
		}
		start, verdict := time.Now(), "FAILED"
		text, left := "", ""
		t.Cleanup(func() {
			if !t.Failed() && left == "" {
				verdict = "passed"
			} else if !t.Failed() {
				verdict = "not at its end, " + left
			}
			text = fmt.Sprintf("## %s: %s\n\nCommit %s, %s, %.0f s.\n\n%s", title, verdict, commit(), start.UTC().Format("2006-01-02 15:04 MST"), time.Since(start).Seconds(), text)
			t.Logf("%s", text)
			if top != "" {
				must(t, os.MkdirAll(filepath.Dir(name), 0o755))
				must(t, os.WriteFile(name, []byte(text), 0o644))
			}
		})
		text, left = run(t)
	})
}
