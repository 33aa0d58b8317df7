package install

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap/store"
)

// The model: a machine with a loader, two slots, boot entries, a datastore and
// update.json, and the real functions of this package on it. The test goes to
// every state that can be reached by any order of events: updates, verdicts,
// boots that fail, agents that are started again, and in each action a power
// cut before it, a cut in the middle, an error without and with effect.

const (
	releases       = 3
	absent   Tries = -9
	half     int8  = -1 // of a datastore or a copy: torn
	stale    int8  = -2 // of a copy: the engine ran on after it was made
)

// world is all that a power cut leaves, and what runs; it is a map key.
type world struct {
	step                Step
	confirmed, from, to int8
	slot, failed        int8
	inPlace             bool
	entries             [releases + 1]Tries
	tmp                 [releases + 1]int8 // 1 whole, half torn
	slots               [2]struct{ guid, data int8 }
	datastore           int8 // the release that wrote it last
	copies              [releases + 1]int8
	imported            [releases + 1]bool
	running             int8 // 0: off
	mode                Mode
	engine              bool
}

// roots gives each release its root; releases may share one.
type roots [releases + 1]int8

func (rs roots) ref(n int8) Ref { return refs[n][rs[n]] }

var refs = func() (out [releases + 1][releases + 1]Ref) {
	for n := 1; n <= releases; n++ {
		for root := range out[n] {
			out[n][root] = Ref{"demo", uint64(n), store.FromBytes([]byte{byte(n)}), strings.Repeat(fmt.Sprint(root), 64)}
		}
	}
	return out
}()

func start() world {
	w := world{step: Idle, confirmed: 1, slot: -1, datastore: 1}
	for n := range w.entries {
		w.entries[n] = absent
	}
	w.entries[1], w.imported[1] = Uncounted, true
	w.slots[0].guid, w.slots[0].data = 1, 1
	return w
}

func (w *world) count() (n int) {
	for _, t := range w.entries {
		if t != absent {
			n++
		}
	}
	return n
}

// whole reports whether release n's root can be opened: exactly one slot has
// its identifiers, and its bytes.
func (w *world) whole(rs roots, n int8) bool {
	a, b := w.slots[0], w.slots[1]
	return (a.guid == rs[n]) != (b.guid == rs[n]) && (a.guid == rs[n] && a.data == rs[n] || b.guid == rs[n] && b.data == rs[n])
}

func (w *world) off() { w.running, w.mode, w.engine = 0, "", false }

// The fault of one run: at action number at.
type fault struct {
	at, kind int
}

const (
	cutBefore = iota
	failBefore
	failAfter
	torn // and torn+1, …: the action's own ways
)

type (
	cut       struct{}
	violation string
)

var errInjected = errors.New("injected")

// machine is a world with the actions over it.
type machine struct {
	w   *world
	rs  roots
	f   fault
	n   int
	hit bool   // the fault was reached
	why string // the last reason of a failure
	// The engine is not back because starting it was what failed.
	engineLost bool
	tears      int // ways to tear the action of the fault
}

func (m *machine) fail(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

// do is one action: what it does, and the ways in which a cut tears it.
func (m *machine) do(effect func(), tears ...func()) error {
	if m.w.running == 0 {
		m.fail("an action after the reboot")
	}
	mine := m.n == m.f.at
	m.n++
	if !mine {
		effect()
		return nil
	}
	m.hit, m.tears = true, len(tears)
	switch {
	case m.f.kind == cutBefore:
		panic(cut{})
	case m.f.kind == failBefore:
		return errInjected
	case m.f.kind == failAfter:
		effect()
		return errInjected
	case m.f.kind-torn < len(tears):
		tears[m.f.kind-torn]()
		panic(cut{})
	}
	panic(cut{})
}

func (m *machine) num(r Ref) int8 { return int8(r.Release) }

func (m *machine) actions() Actions {
	w := m.w
	set := func(p *int8, v int8) func() { return func() { *p = v } }
	a := Actions{
		Now:    func() time.Time { return time.Time{} },
		Record: func(Event) error { return nil },
		Load: func() (State, error) {
			s := State{Version: 1, Step: w.step, Confirmed: m.rs.ref(w.confirmed), From: m.rs.ref(w.from), To: m.rs.ref(w.to), InPlace: w.inPlace}
			if w.slot >= 0 {
				s.Slot = fmt.Sprint(w.slot)
			}
			s.Failed = Failure{Release: m.rs.ref(w.failed), Reason: "bad"} // one reason for all, to keep the worlds few
			return s, nil
		},
		Save: func(s State) error {
			if m.f == calm {
				if err := s.check(); err != nil {
					m.fail("a state that cannot be read: %v", err)
				}
			}
			m.why = s.Failed.Reason
			return m.do(func() {
				w.step, w.confirmed, w.from, w.to, w.failed = s.Step, m.num(s.Confirmed), m.num(s.From), m.num(s.To), m.num(s.Failed.Release)
				w.slot, w.inPlace = -1, s.InPlace
				if s.Slot != "" {
					w.slot = int8(s.Slot[0] - '0')
				}
			})
		},
		Import: func(_ context.Context, to Ref) error {
			return m.do(func() { w.imported[to.Release] = true })
		},
	}
	m.bootActions(&a)
	a.IdleSlot = func(_ context.Context, running Ref) (string, error) {
		i := 0
		if w.slots[0].guid == m.rs[running.Release] {
			i = 1
		}
		if w.slots[i].guid == m.rs[running.Release] {
			m.fail("both slots are the running one")
		}
		return fmt.Sprint(i), m.do(func() {})
	}
	a.Fill = func(_ context.Context, slot string, to Ref) error {
		p := &w.slots[slot[0]-'0']
		if p.guid == m.rs[w.running] {
			m.fail("the running slot is written")
		}
		for n, t := range w.entries {
			if t != absent && m.rs[n] == p.guid {
				m.fail("the slot of release %d is written while it has an entry", n)
			}
		}
		return m.do(set(&p.data, m.rs[to.Release]), set(&p.data, 0))
	}
	a.SetTable = func(_ context.Context, slot string, to Ref) error {
		return m.do(set(&w.slots[slot[0]-'0'].guid, m.rs[to.Release])) // the other copy of the table mends it
	}
	a.Check = func(_ context.Context, r Ref) error {
		if !w.whole(m.rs, m.num(r)) {
			return errors.New("not whole")
		}
		return m.do(func() {})
	}
	m.engineActions(&a)
	return a
}

func (m *machine) bootActions(a *Actions) {
	w := m.w
	a.Entries = func(context.Context) (map[uint64]Tries, error) {
		out := map[uint64]Tries{}
		for n, t := range w.entries {
			if t != absent {
				out[uint64(n)] = t
			}
		}
		return out, m.do(func() {})
	}
	a.SetTries = func(_ context.Context, n uint64, t Tries) error {
		if w.count() < 2 {
			m.fail("the only entry, of release %d, is renamed", n)
		}
		if w.entries[n] == absent {
			return m.do(func() {}) // lost before: the rename finds nothing
		}
		return m.do(func() { w.entries[n] = t }, func() { w.entries[n] = absent }, func() { w.entries[n] = t })
	}
	a.RemoveEntry = func(_ context.Context, n uint64) error {
		if int8(n) == w.running {
			m.fail("the running release's entry is removed")
		}
		return m.do(func() { w.entries[n], w.tmp[n] = absent, 0 }, func() { w.entries[n] = absent }, func() { w.tmp[n] = 0 })
	}
	a.WriteEntry = func(_ context.Context, r Ref) error {
		if !w.imported[r.Release] {
			m.fail("the UKI of %d is not in the store", r.Release)
		}
		return m.do(func() { w.tmp[r.Release] = 1 }, func() { w.tmp[r.Release] = half })
	}
	a.Arm = func(_ context.Context, n uint64) error {
		if w.tmp[n] != 1 || !w.whole(m.rs, int8(n)) {
			m.fail("release %d is armed, and cannot boot", n)
		}
		return m.do(func() { w.entries[n], w.tmp[n] = FullTries, 0 },
			func() { w.tmp[n] = 0 }, // torn: under neither name, or both
			func() { w.entries[n] = FullTries })
	}
	a.Clean = func(context.Context) error {
		if w.step != Idle {
			m.fail("cleaned at %s", w.step)
		}
		all := func() { w.tmp, w.copies = [releases + 1]int8{}, [releases + 1]int8{} }
		return m.do(all, func() { w.copies = [releases + 1]int8{} })
	}
	a.Reboot = func(context.Context) error { return m.do(w.off) }
	a.TakeOver = func(_ context.Context, to Ref) error {
		if m.rs[w.running] != m.rs[to.Release] {
			m.fail("release %d takes over in the root of %d", to.Release, w.running)
		}
		if w.entries[to.Release] != FullTries {
			m.fail("release %d takes over, and would not boot", to.Release)
		}
		return m.do(func() { w.running, w.mode = int8(to.Release), "" })
	}
}

func (m *machine) engineActions(a *Actions) {
	w := m.w
	stopped := func() {
		if w.engine {
			m.fail("the datastore is touched while the engine runs")
		}
	}
	a.StopEngine = func(context.Context) error { return m.do(func() { w.engine = false }) }
	a.StartEngine = func(context.Context) error {
		err := m.do(m.startEngine)
		m.engineLost = err != nil && !w.engine
		return err
	}
	a.CopyDatastore = func(_ context.Context, from uint64) error {
		stopped()
		return m.do(func() { w.copies[from] = w.datastore }, func() { w.copies[from] = half })
	}
	a.CopyRunning = func(_ context.Context, from uint64) error {
		if !w.engine {
			m.fail("a stopped engine's datastore is copied as that of one that runs")
		}
		return m.do(func() { w.copies[from] = w.datastore }, func() { w.copies[from] = half })
	}
	a.RestoreDatastore = func(_ context.Context, from uint64) error {
		stopped()
		if w.copies[from] <= 0 {
			m.fail("a datastore is restored from no whole copy: %d", w.copies[from])
		}
		return m.do(func() { w.datastore = w.copies[from] }, func() { w.datastore = half })
	}
}

// startEngine is where it shows whether the datastore is the release's. An
// engine that a release in place finds running is the same to it.
func (m *machine) startEngine() {
	w := m.w
	w.engine = true
	switch d, r := w.datastore, w.running; {
	case d == half:
		m.fail("the engine starts on half a datastore")
	case w.mode == OnTrial:
		if d != r && (d > r || w.copies[w.from] != d) {
			m.fail("trial of %d on the datastore of %d, with copy %d", r, d, w.copies[w.from])
		}
		w.datastore = r
	case d > r && d != w.confirmed:
		m.fail("release %d starts on the datastore of %d (%s)", r, d, w.mode)
	case d < r:
		m.fail("release %d starts without a trial on the datastore of %d", r, d)
	}
	if w.mode != OnTrial {
		for n, c := range w.copies {
			if c != 0 {
				w.copies[n] = stale
			}
		}
	}
}

// choose is the loader: the highest release with tries left. It counts down.
func (w *world) choose() (n int8, counted bool) {
	for i := releases; i > 0 && n == 0; i-- {
		if t := w.entries[i]; t != absent && t != 0 {
			n = int8(i)
		}
	}
	return n, n > 0 && w.entries[n] != Uncounted
}
