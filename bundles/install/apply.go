package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Way is how a node comes from one release to the next.
type Way bool

// Ways.
const (
	ByReboot Way = false
	InPlace  Way = true // both releases have the same root, and the engine runs on
)

// Apply takes a running node to the reboot into a new release, which was
// admitted, or in place to the moment at which it takes over. When it returns
// nil the reboot is under way, or the agent is to start again. After an error
// the node is as before, its engine running, and Apply may be called again;
// unless ctx ended, which is like a power cut: AtBoot or the next Apply clears
// up, and so does Abandon.
func Apply(ctx context.Context, a Actions, running, to Ref, way Way) error {
	if err := apply(ctx, a, running, to, way); err != nil {
		return fmt.Errorf("cannot update to release %s: %w", to, err)
	}
	return nil
}

func apply(ctx context.Context, a Actions, running, to Ref, way Way) error {
	s, err := a.Load()
	if err != nil {
		return err
	}
	if err := mayApply(s, running, to); err != nil {
		return err
	}
	if s.Step != Idle {
		if err := Abandon(ctx, a, running, "given up for release "+to.String()); err != nil {
			return err
		}
		if s, err = a.Load(); err != nil {
			return err
		}
	}
	if way == InPlace && !running.is(s.Confirmed) {
		return fmt.Errorf("release %s is confirmed and does not run: it takes a reboot", s.Confirmed)
	}
	s.From, s.To, s.Failed, s.Times, s.Rebuilt, s.InPlace = running, to, Failure{}, nil, false, way == InPlace
	if to.RootHash != running.RootHash {
		if s.Slot, err = a.IdleSlot(ctx, running); err != nil {
			return err
		}
	}
	if err := walk(ctx, a, s); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return errors.Join(err, Abandon(ctx, a, running, err.Error()))
	}
	what, leave := "reboot", a.Reboot
	if s.InPlace {
		what, leave = "take over", func(ctx context.Context) error { return a.TakeOver(ctx, to) }
	}
	if err := leave(ctx); err != nil {
		return fmt.Errorf("cannot %s: %w\nhint: reset the machine; release %s then starts on trial", what, err, to)
	}
	return nil
}

func mayApply(s State, running, to Ref) error {
	if !beforeNew(s.Step) {
		return fmt.Errorf("an update to release %s is at %q\nhint: wait for its end", s.To, s.Step)
	}
	repair := to.is(s.Confirmed) && running.Release < to.Release
	if to.Release <= running.Release || to.Release <= s.Confirmed.Release && !repair {
		return fmt.Errorf("release %d runs and %d is confirmed: numbers only grow", running.Release, s.Confirmed.Release)
	}
	return nil
}

// beforeNew reports whether at that step the new release cannot have booted.
func beforeNew(s Step) bool { return slices.Index(steps, s) < slices.Index(steps, Switching) }

// walk goes from Importing to Switching.
func walk(ctx context.Context, a Actions, s State) error {
	shared := s.Slot == ""
	for _, st := range []struct {
		step Step
		skip bool
		do   func() error
	}{
		{Importing, false, func() error { return a.Import(ctx, s.To) }},
		{Retiring, false, func() error { return retire(ctx, a, s.From.Release) }},
		{Writing, shared, func() error { return a.Fill(ctx, s.Slot, s.To) }},
		{Table, shared, func() error { return a.SetTable(ctx, s.Slot, s.To) }},
		{Entry, false, func() error { return a.WriteEntry(ctx, s.To) }},
		{Stopping, false, func() error {
			if s.InPlace {
				return a.CopyRunning(ctx, s.From.Release)
			}
			if err := a.StopEngine(ctx); err != nil {
				return err
			}
			return a.CopyDatastore(ctx, s.From.Release)
		}},
		{Switching, false, func() error { return a.Arm(ctx, s.To.Release) }},
	} {
		if st.skip {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		next, err := enter(a, s, st.step, "")
		if err != nil {
			return err
		}
		s = next
		if err := st.do(); err != nil {
			return fmt.Errorf("%s: %w", st.step, err)
		}
	}
	return nil
}

// retire leaves keep's boot entry as the only one. It loses its counter while
// there still is another to boot should the rename be torn: from then on
// neither agent nor loader renames it.
func retire(ctx context.Context, a Actions, keep uint64) error {
	entries, err := a.Entries(ctx)
	if err != nil {
		return err
	}
	t, ok := entries[keep]
	if !ok {
		return fmt.Errorf("the running release %d has no boot entry\nhint: reboot, so that it is written again", keep)
	}
	if t != Uncounted && len(entries) > 1 {
		if err := a.SetTries(ctx, keep, Uncounted); err != nil {
			return err
		}
	}
	for _, n := range slices.Sorted(maps.Keys(entries)) {
		if n != keep {
			if err := a.RemoveEntry(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Abandon gives up an update whose new release has not booted, on the running
// node: its engine runs again afterwards. Without such an update it does
// nothing.
func Abandon(ctx context.Context, a Actions, running Ref, reason string) error {
	s, err := a.Load()
	if err != nil || s.Step == Idle {
		return err
	}
	if !beforeNew(s.Step) && s.Step != Switching || running.is(s.To) {
		return fmt.Errorf("cannot give up the update to release %s: it is at %q", s.To, s.Step)
	}
	stopped := !s.InPlace && (s.Step == Stopping || s.Step == Switching)
	if _, err := drop(ctx, a, s, running, reason); err != nil {
		return fmt.Errorf("cannot give up the update to release %s: %w", s.To, err)
	}
	if stopped {
		return a.StartEngine(ctx)
	}
	return nil
}

// drop ends an update whose new release has not run.
func drop(ctx context.Context, a Actions, s State, running Ref, reason string) (State, error) {
	if !running.is(s.To) {
		if err := a.RemoveEntry(ctx, s.To.Release); err != nil {
			return s, err
		}
	}
	s.Failed = Failure{s.To, reason, a.Now().UTC()}
	return settle(ctx, a, s, "given up", reason)
}
