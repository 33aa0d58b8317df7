package crash_test

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPlanForks has a plan cut at each step of each update in all three ways, as
// many times as asked for, and the same for the same seed.
func TestPlanForks(t *testing.T) {
	var all []transition
	for update := range 3 {
		for i, step := range []string{"importing", "entry", "switching", "trial", "idle"} {
			at := 1000*update + 100*i
			all = append(all, transition{update, step, at, at + 7, at + 100})
		}
	}
	for _, n := range []int{1, 10, 70, 300} {
		plan := planForks(all, n, rand.New(rand.NewPCG(1, 2)))
		if !slices.Equal(plan, planForks(all, n, rand.New(rand.NewPCG(1, 2)))) {
			t.Error("another plan for the same seed")
		}
		cuts := 0
		seen := map[[2]string]int{}
		for _, f := range plan {
			if cuts++; f.Twice {
				cuts++
			}
			seen[[2]string{f.Step, f.Where}]++
			i := slices.IndexFunc(all, func(x transition) bool { return x.Update == f.Update && x.Step == f.Step })
			if x := all[i]; f.Op < x.Wrote || f.Op >= x.Next || (f.Where == before) != (f.Op < x.Persisted) {
				t.Errorf("%s of %v is a cut after %d", f.Where, x, f.Op)
			}
			if f.Twice && f.Again {
				t.Error("a boot that is cut takes no update")
			}
		}
		if cuts > n || cuts < n-1 {
			t.Errorf("%d cuts, not %d", cuts, n)
		}
		if n >= 70 && len(seen) != 5*3 {
			t.Errorf("only %d places of a cut: %v", len(seen), seen)
		}
	}
}
