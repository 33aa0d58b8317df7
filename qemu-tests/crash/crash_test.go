package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// need skips a test that takes minutes, or has not what it needs.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes; left out with -short")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing; make setup installs it", tool)
		}
	}
}

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

// TestCrash builds two releases, and takes the power away from a node that goes
// from one to the other.
func TestCrash(t *testing.T) {
	need(t, "qemu-system-x86_64", "e2fsck", "debugfs", "fsck.erofs")
	r := build(t)
	t.Run("States", func(t *testing.T) {
		rec := record(t, r)
		judgeStates(t, rec, r)
		t.Run("Control", func(t *testing.T) { control(t, rec, r) })
	})
	t.Run("Cuts", func(t *testing.T) { cutPower(t, r) })
}

// judgeStates judges states in which power cuts leave the disk of a node that
// takes an update, without booting them.
func judgeStates(t *testing.T, rec recording, r releases) {
	want := number(t, "HOLDFAST_CRASH_STATES", 1000)
	seed := uint64(number(t, "HOLDFAST_CRASH_SEED", 1))
	j, l, base := newJudge(t, rec, r.trust)
	n := newNode(t, rec, r, l, j.parts)
	start := time.Now()
	mostVar := number(t, "HOLDFAST_CRASH_VARS", want/15)
	cuts := chooseCuts(l, j.parts, want, rand.New(rand.NewPCG(seed, 0)))
	c := counts{runs: map[int64]int{}, modes: map[string]int{}}
	replay, took := l.Replay(base), map[[64]byte]bool{}
	for i, cut := range cuts {
		must(t, replay.To(cut.Op))
		s := replay.State(cut.Seed)
		b := j.boots(s)
		c.judged++
		err := b.err
		if err == nil {
			c.runs[b.first.Boots[b.first.First].Release]++
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
			name := filepath.Join(n.dir, fmt.Sprintf("state-%d-%d.raw", cut.Op, cut.Seed))
			t.Errorf("power cut after operation %d of %d (the update begins at %d), seed %d: %v\nfirmware: %s\nafter the agent: %s",
				cut.Op, l.Len(), rec.Applied, cut.Seed, err, describe(b.first), describe(b.normalized))
			if c.bad <= 3 {
				t.Logf("saved as %s: %v", name, save(s, name))
			}
			if c.bad == 20 {
				t.Fatal("twenty states are enough")
			}
		}
	}
	c.log, c.distinct, c.took, c.seed = l.Len(), j.distinct, time.Since(start), seed
	t.Logf("%s", c)
	result(t, "states", c.String())
}

// counts are what judgeStates did.
type counts struct {
	log, judged, distinct, vars, bad int
	runs                             map[int64]int
	modes                            map[string]int
	seed                             uint64
	took                             time.Duration
}

func (c counts) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d states of a log of %d operations were judged in %.0f s, seed %d; %d of them differ in what firmware reads.\n", c.judged, c.log, c.took.Seconds(), c.seed, c.distinct)
	fmt.Fprintf(&s, "%d lead to nothing whole. Release 1 comes up in %d, release 2 in %d.\n", c.bad, c.runs[1], c.runs[2])
	fmt.Fprintf(&s, "In %d states that differ, /var was read and the agent's code took up the update:\n\n", c.vars)
	var lines []string
	for m, n := range c.modes {
		lines = append(lines, fmt.Sprintf("* %s: %d", m, n))
	}
	sort.Strings(lines)
	return s.String() + strings.Join(lines, "\n") + "\n"
}

// result adds a section to the file that HOLDFAST_CRASH_RESULT names.
func result(t *testing.T, title, text string) {
	t.Helper()
	name := os.Getenv("HOLDFAST_CRASH_RESULT")
	if name == "" {
		return
	}
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	defer f.Close()
	verdict := "passed"
	if t.Failed() {
		verdict = "FAILED"
	}
	_, err = fmt.Fprintf(f, "\n## %s: %s\n\nCommit %s, %s.\n\n%s", strings.ToUpper(title[:1])+title[1:], verdict,
		strings.TrimSpace(string(commit)), time.Now().UTC().Format("2006-01-02 15:04 MST"), text)
	must(t, err)
}
