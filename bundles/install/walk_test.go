package install

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// op is something that the agent does.
type op struct {
	name string
	run  func(ctx context.Context, m *machine) error
}

func boot(ctx context.Context, m *machine) error {
	w, a := m.w, m.actions()
	before := w.engine
	mode, err := AtBoot(ctx, a, m.rs.ref(w.running))
	if err != nil {
		w.mode = ""
		return err
	}
	if (mode == Rebooting) != (w.running == 0) {
		m.fail("mode %s, running %d", mode, w.running)
	}
	if w.running == 0 {
		return nil
	}
	w.mode = mode
	if (mode == OnTrial) != (w.step == Trial) || mode != OnTrial && w.step != Idle {
		m.fail("mode %s at %s", mode, w.step)
	}
	if mode == Normal && w.confirmed != w.running || mode == Fallback && w.confirmed <= w.running {
		m.fail("mode %s of %d, %d is confirmed", mode, w.running, w.confirmed)
	}
	if !before || mode == OnTrial {
		m.startEngine()
	}
	return nil
}

// ready reports whether the agent would apply: its engine runs, and no verdict
// is being written. That Apply itself refuses in a trial is tried all the same.
func (m *machine) ready() bool {
	return m.w.step != Idle || m.w.engine && m.w.mode != OnTrial
}

func apply1(n int8) op { return applyBy(ByReboot, n) }

func applyBy(way Way, n int8) op {
	return op{fmt.Sprintf("apply %d, in place: %t", n, way), func(ctx context.Context, m *machine) error {
		if !m.ready() || way == InPlace && m.rs[m.w.running] != m.rs[n] {
			return nil
		}
		return Apply(ctx, m.actions(), m.rs.ref(m.w.running), m.rs.ref(n), way)
	}}
}

var (
	bootOp    = op{"boot", boot}
	confirmOp = op{"confirm", func(ctx context.Context, m *machine) error {
		err := Confirm(ctx, m.actions(), m.rs.ref(m.w.running))
		if err == nil && m.w.mode == OnTrial {
			m.w.mode = Normal
		}
		return err
	}}
	failOp = op{"fail", func(ctx context.Context, m *machine) error {
		return Fail(ctx, m.actions(), m.rs.ref(m.w.running), "bad")
	}}
	abandonOp = op{"abandon", func(ctx context.Context, m *machine) error {
		return Abandon(ctx, m.actions(), m.rs.ref(m.w.running), "bored")
	}}
	cancelOp = op{"apply 3, cancelled", func(_ context.Context, m *machine) error {
		if !m.ready() {
			return nil
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		a := m.actions()
		fill := a.WriteEntry
		a.WriteEntry = func(ctx context.Context, r Ref) error { cancel(); return fill(ctx, r) }
		return Apply(ctx, a, m.rs.ref(m.w.running), m.rs.ref(3), ByReboot)
	}}
)

// try runs an operation on a copy of w with one fault.
func try(w world, rs roots, o op, f fault) (out world, m *machine, broken string, err error) {
	m = &machine{w: &w, rs: rs, f: f}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case cut:
			w.off()
		case violation:
			broken = string(r)
		default:
			panic(r)
		}
		out = w
	}()
	err = o.run(context.Background(), m)
	return
}

var calm = fault{at: -1}

// after is every world that one event leads to.
func after(t *testing.T, w world, rs roots, each func(world)) {
	all := func(w world, o op) {
		_, m, broken, _ := try(w, rs, o, calm)
		if broken != "" {
			t.Fatalf("%s: %s\n%+v", o.name, broken, w)
		}
		for at := -1; at < m.n+8; at++ {
			reached := at == -1
			for kind := 0; kind < torn || reached && kind < 16; kind++ {
				next, m, broken, _ := try(w, rs, o, fault{at, kind})
				if broken != "" {
					t.Fatalf("%s, fault %d of kind %d: %s\nbefore %+v\nafter  %+v", o.name, at, kind, broken, w, next)
				}
				if w.engine && next.running != 0 && next.step == Idle && !next.engine && !m.engineLost {
					t.Fatalf("%s, fault %d of kind %d: the engine is not started again\n%+v", o.name, at, kind, next)
				}
				if next.confirmed < w.confirmed {
					t.Fatalf("%s: confirmed sank\n%+v", o.name, next)
				}
				reached = m.hit && kind+1 < torn+m.tears
				if at == -1 || m.hit {
					each(next)
				}
				if at == -1 || !m.hit {
					break
				}
			}
		}
	}
	if w.running == 0 {
		n, counted := w.choose()
		if n == 0 || !w.whole(rs, n) {
			t.Fatalf("it does not boot: the loader takes %d\n%+v", n, w)
		}
		if counted && w.count() < 2 {
			t.Fatalf("the loader renames the only entry\n%+v", w)
		}
		for n := int8(1); n <= releases; n++ { // the others somebody chose by hand
			if w.entries[n] == absent || w.entries[n] == 0 || !w.whole(rs, n) {
				continue
			}
			w := w
			if w.entries[n] != Uncounted {
				lost := w
				lost.entries[n] = absent // a cut tears the loader's rename
				each(lost)
				w.entries[n]--
			}
			each(w) // it hangs or crashes, and the watchdog resets it
			w.running = n
			all(w, bootOp)
		}
		return
	}
	gone := w
	gone.off()
	each(gone)
	all(w, bootOp) // the agent is started again
	if w.mode == "" {
		return
	}
	for _, o := range []op{apply1(1), apply1(2), apply1(3), applyBy(InPlace, 2), applyBy(InPlace, 3), cancelOp, confirmOp, failOp, abandonOp} {
		all(w, o)
	}
}

// settled goes on without faults until the node is idle, with that verdict.
func settled(t *testing.T, w world, rs roots, healthy bool) world {
	first := w
	for range 60 {
		o := bootOp
		switch {
		case w.running == 0:
			n, counted := w.choose()
			if counted {
				w.entries[n]--
			}
			w.running = n
		case w.mode == OnTrial && (healthy && w.step != Failing || w.step == Idle):
			o = confirmOp
		case w.mode == OnTrial:
			o = failOp
		case w.mode != "" && w.step == Idle && w.engine:
			return w
		}
		next, _, broken, err := try(w, rs, o, calm)
		if err != nil || broken != "" {
			t.Fatalf("%s, calmly: %v %s\n%+v\nfrom %+v", o.name, err, broken, w, first)
		}
		w = next
	}
	t.Fatalf("it never settles\n%+v\nfrom %+v", w, first)
	return w
}

// repeatable checks that from w the node ends whole, and takes an update then.
func repeatable(t *testing.T, w world, rs roots, rested map[world]bool) {
	for _, healthy := range []bool{true, false} {
		w := settled(t, w, rs, healthy)
		// A reboot is a rest too.
		w.off()
		w = settled(t, w, rs, healthy)
		if w.mode != Normal && w.mode != Fallback || w.entries[w.running] == absent || w.from != 0 || w.to != 0 ||
			w.tmp != [releases + 1]int8{} || w.copies != [releases + 1]int8{} {
			t.Fatalf("it did not end whole\n%+v", w)
		}
		if e := w.entries[w.running]; w.count() > 1 && w.mode == Normal && e != FullTries && e != Uncounted {
			t.Fatalf("the tries were not set again\n%+v", w)
		}
		if w.mode == Fallback && w.entries[w.confirmed] == absent && w.whole(rs, w.confirmed) {
			t.Fatalf("the confirmed release's entry was not written again\n%+v", w)
		}
		if rested[w] {
			continue
		}
		rested[w] = true
		for next := w.confirmed; next <= releases; next++ {
			if next == w.running {
				continue
			}
			ways := []Way{ByReboot}
			if rs[next] == rs[w.running] && w.running == w.confirmed {
				ways = append(ways, InPlace)
			}
			for _, way := range ways {
				taken := int8(0)
				if way == InPlace {
					taken = next
				}
				u, _, broken, err := try(w, rs, applyBy(way, next), calm)
				if err != nil || broken != "" || u.running != taken || u.engine != (way == InPlace) {
					t.Fatalf("no update to %d, in place %t: %v %s\n%+v", next, way, err, broken, w)
				}
				good, bad := settled(t, u, rs, true), settled(t, u, rs, false)
				if good.running != next || good.confirmed != next || good.datastore != next || good.mode != Normal || good.entries[next] != FullTries {
					t.Fatalf("update to %d ended in\n%+v", next, good)
				}
				if bad.running != w.running || bad.confirmed != w.confirmed || bad.datastore != w.datastore || bad.mode != Returned || bad.failed != next {
					t.Fatalf("bad update to %d ended in\n%+v", next, bad)
				}
			}
		}
	}
}

// What the operator is told, by what happens after an update was begun.
func TestReasons(t *testing.T) {
	rs := roots{0, 1, 2, 3}
	on := settled(t, start(), rs, true)
	step := func(w world, o op, f fault) (world, string) {
		t.Helper()
		next, m, broken, err := try(w, rs, o, f)
		if broken != "" || err != nil && f == calm {
			t.Fatalf("%s: %s %v", o.name, broken, err)
		}
		return next, m.why
	}
	run := func(w world, n int8) world { w.running = n; return w }
	spent := func(w world) world { w.off(); w.entries[2] = 0; return w }
	armed, _ := step(on, apply1(2), calm)
	trial := func() world { w, _ := step(run(armed, 2), bootOp, calm); return w }()
	failing, _ := step(trial, failOp, calm)
	confirming := func() world { w := trial; w.step = Confirming; return w }()
	for _, c := range []struct {
		name string
		w    world
		mode Mode
		why  string
	}{
		{"never comes up", spent(armed), Returned, "its agent never ran"},
		{"hangs on trial", spent(trial), Returned, "stopped or hung before it was healthy"},
		{"bad verdict", spent(failing), Returned, "bad"},
		{"lost while confirmed", spent(confirming), Returned, "did not boot again"},
	} {
		w, why := step(run(c.w, 1), bootOp, calm)
		if w.mode != c.mode || w.failed != 2 || !strings.Contains(why, c.why) {
			t.Errorf("%s: %s, %q\n%+v", c.name, w.mode, why, w)
		}
	}
	// A cut before the entry has its name is an interruption, and no failure.
	for at := 0; ; at++ {
		cutOff, _ := step(on, apply1(2), fault{at, cutBefore})
		if cutOff.entries[2] != absent {
			break
		}
		if w, why := step(run(cutOff, 1), bootOp, calm); w.mode != Normal || cutOff.step != Idle && !strings.Contains(why, "interrupted") {
			t.Errorf("cut before action %d: %s, %q", at, w.mode, why)
		}
	}
}

func TestModel(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // it allocates much, and keeps little
	t.Run("roots", func(t *testing.T) {
		for _, rs := range []roots{{0, 1, 2, 3}, {0, 1, 1, 2}, {0, 1, 2, 2}, {0, 1, 2, 1}, {0, 1, 1, 1}} {
			t.Run(fmt.Sprint(rs[1:]), func(t *testing.T) {
				t.Parallel()
				explore(t, rs)
			})
		}
	})
}

func explore(t *testing.T, rs roots) {
	seen, rested := map[world]bool{}, map[world]bool{}
	var todo []world
	moves := 0
	add := func(w world) {
		moves++
		if !seen[w] {
			seen[w] = true
			todo = append(todo, w)
		}
	}
	add(start())
	modes := map[Mode]int{}
	met := map[Step]int{}
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		modes[w.mode]++
		met[w.step]++
		after(t, w, rs, add)
		repeatable(t, w, rs, rested)
	}
	for _, m := range []Mode{Normal, OnTrial, Returned, Fallback} {
		if modes[m] == 0 {
			t.Errorf("mode %s was never met", m)
		}
	}
	for _, s := range steps {
		if met[s] == 0 && !(slices.Contains([]Step{Writing, Table}, s) && rs == roots{0, 1, 1, 1}) {
			t.Errorf("step %s was never met", s)
		}
	}
	t.Logf("%d states, %d events", len(seen), moves)
}
