package install

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// AtBoot takes up what the last boot left, and says how the node is to start.
// It is called with the running release before anything of the engine is
// started, and again when the agent is started again. After an error nothing
// may be started; it is to be called again.
func AtBoot(ctx context.Context, a Actions, running Ref) (Mode, error) {
	m, err := atBoot(ctx, a, running)
	if err != nil {
		return "", fmt.Errorf("cannot take up the last update: %w", err)
	}
	return m, nil
}

func atBoot(ctx context.Context, a Actions, running Ref) (Mode, error) {
	s, err := a.Load()
	switch {
	case err != nil:
		return "", err
	case s.Step == Idle:
		return atIdle(ctx, a, s, running)
	case beforeNew(s.Step):
		if s, err = drop(ctx, a, s, running, interrupted(s)); err != nil {
			return "", err
		}
		return atIdle(ctx, a, s, running)
	case running.is(s.To):
		return onNew(ctx, a, s)
	case running.is(s.From):
		return onOld(ctx, a, s, running)
	}
	return "", fmt.Errorf("release %s runs, in the middle of an update from %s to %s\nhint: start one of these two", running, s.From, s.To)
}

func interrupted(s State) string {
	return fmt.Sprintf("interrupted at %q; repeat it", s.Step)
}

func onNew(ctx context.Context, a Actions, s State) (Mode, error) {
	switch s.Step {
	case Switching:
		next := s.at(Trial, a.Now())
		if err := a.Save(next); err != nil {
			return "", err
		}
		_ = record(a, next, string(Trial), "") // the log must not decide the trial
		return OnTrial, nil
	case Trial:
		_ = record(a, s, string(Trial), "started again without a verdict")
		return OnTrial, nil
	case Confirming:
		return Normal, confirm(ctx, a, s)
	default: // Failing, Returning
		return Rebooting, leave(ctx, a, s)
	}
}

// leave goes back from the new release by way of a reboot. Should the counter
// not be set, the boots that follow run it out.
func leave(ctx context.Context, a Actions, s State) error {
	err := a.SetTries(ctx, s.To.Release, 0)
	if err != nil {
		_ = record(a, s, "cannot set the tries to zero", err.Error())
	}
	if rerr := a.Reboot(ctx); rerr != nil {
		return errors.Join(err, fmt.Errorf("cannot reboot: %w", rerr))
	}
	return nil
}

func onOld(ctx context.Context, a Actions, s State, running Ref) (Mode, error) {
	switch s.Step {
	case Switching:
		entries, err := a.Entries(ctx)
		if err != nil {
			return "", err
		}
		if t, ok := entries[s.To.Release]; !ok || t != 0 {
			if s, err = drop(ctx, a, s, running, interrupted(s)); err != nil {
				return "", err
			}
			return atIdle(ctx, a, s, running)
		}
		return goBack(ctx, a, s, "it did not come up: its tries are used up, and its agent never ran")
	case Trial:
		return goBack(ctx, a, s, "it came up, and stopped or hung before it was healthy, until its tries were used up")
	case Confirming:
		return goBack(ctx, a, s, "it was healthy, but did not boot again before that was written down")
	case Failing:
		return goBack(ctx, a, s, s.Failed.Reason)
	default: // Returning
		return finishReturn(ctx, a, s)
	}
}

func goBack(ctx context.Context, a Actions, s State, reason string) (Mode, error) {
	if s.Step != Failing {
		s.Failed = Failure{s.To, reason, a.Now().UTC()}
	}
	next := s.at(Returning, a.Now())
	if err := a.Save(next); err != nil {
		return "", err
	}
	_ = record(a, next, string(Returning), reason)
	return finishReturn(ctx, a, next)
}

// finishReturn removes the entry first, so that nothing can start the new
// release while its datastore is taken away. Should it start all the same, it
// leaves again.
func finishReturn(ctx context.Context, a Actions, s State) (Mode, error) {
	if err := a.RemoveEntry(ctx, s.To.Release); err != nil {
		return "", err
	}
	if err := a.RestoreDatastore(ctx, s.From.Release); err != nil {
		return "", err
	}
	if _, err := settle(ctx, a, s, string(Returned), s.Failed.Reason); err != nil {
		return "", err
	}
	return Returned, nil
}

// atIdle starts the confirmed release, or the one before should it not boot.
func atIdle(ctx context.Context, a Actions, s State, running Ref) (Mode, error) {
	if !running.is(s.Confirmed) && running.Release >= s.Confirmed.Release {
		// Only a lost update.json gets here. The release is verified, and the
		// number does not sink.
		s.Confirmed = running
		if err := a.Save(s); err != nil {
			return "", err
		}
		_ = a.Record(Event{What: "taken as confirmed", To: running.Release, Index: string(running.Index), Reason: "it runs, and update.json named an older one"})
	}
	clean(ctx, a, s)
	entries, err := a.Entries(ctx)
	if err != nil {
		// A node whose ESP cannot be read still runs.
		_ = a.Record(Event{What: "cannot read the boot entries", Reason: err.Error()})
		entries = nil
	}
	if running.is(s.Confirmed) {
		if t, ok := entries[running.Release]; ok && len(entries) > 1 && t != Uncounted && t != FullTries {
			if err := a.SetTries(ctx, running.Release, FullTries); err != nil {
				_ = a.Record(Event{What: "cannot set the tries again", To: running.Release, Reason: err.Error()})
			}
		}
		return Normal, nil
	}
	if _, there := entries[s.Confirmed.Release]; err == nil && !there && rewrite(ctx, a, s.Confirmed) {
		if err := a.Reboot(ctx); err != nil {
			return "", fmt.Errorf("cannot reboot: %w", err)
		}
		return Rebooting, nil
	}
	_ = a.Record(Event{What: string(Fallback), From: s.Confirmed.Release, To: running.Release, Reason: "the confirmed release does not boot"})
	return Fallback, nil
}

// rewrite makes the confirmed release's boot entry again where a torn rename
// lost it, and its slot is whole. One that is there, its tries used up, is
// left alone: that release was tried.
func rewrite(ctx context.Context, a Actions, r Ref) bool {
	err := a.Check(ctx, r)
	if err == nil {
		err = a.WriteEntry(ctx, r)
	}
	if err == nil {
		err = a.Arm(ctx, r.Release)
	}
	e := Event{What: "boot entry written again", To: r.Release, Index: string(r.Index)}
	if err != nil {
		e.What, e.Reason = "cannot write the boot entry again", err.Error()
	}
	_ = a.Record(e)
	return err == nil
}

// Confirm ends a trial well: the new release is the node's. Ingress may open
// when it returns nil. After an error it may be called again, or Fail.
func Confirm(ctx context.Context, a Actions, running Ref) error {
	s, err := a.Load()
	if err == nil && s.Step == Idle && running.is(s.Confirmed) {
		return nil // the agent was started again
	}
	if err == nil {
		err = onTrial(s, running)
	}
	if err == nil {
		err = confirm(ctx, a, s)
	}
	if err != nil {
		return fmt.Errorf("cannot confirm release %s: %w", running, err)
	}
	return nil
}

func confirm(ctx context.Context, a Actions, s State) error {
	if s.Step != Confirming {
		next := s.at(Confirming, a.Now())
		if err := a.Save(next); err != nil {
			return err
		}
		s = next
		_ = record(a, s, string(Confirming), "")
	}
	if err := a.SetTries(ctx, s.To.Release, FullTries); err != nil {
		return err
	}
	s.Confirmed = s.To
	if began, done := s.Times[Switching], s.Times[Confirming]; !s.InPlace && !began.IsZero() && done.After(began) {
		s.Healthy = done.Sub(began)
	}
	_, err := settle(ctx, a, s, "confirmed", "")
	return err
}

// Fail ends a trial badly: the machine goes back to the release before. When
// it returns nil the reboot is under way.
func Fail(ctx context.Context, a Actions, running Ref, reason string) error {
	s, err := a.Load()
	if err == nil && !(s.Step == Failing && running.is(s.To)) {
		err = onTrial(s, running)
	}
	if err == nil && s.Step != Failing {
		s.Failed = Failure{s.To, reason, a.Now().UTC()}
		next := s.at(Failing, a.Now())
		if err = a.Save(next); err == nil {
			s = next
			_ = record(a, s, string(Failing), reason)
		}
	}
	if err == nil {
		err = leave(ctx, a, s)
	}
	if err != nil {
		return fmt.Errorf("cannot leave release %s: %w", running, err)
	}
	return nil
}

func onTrial(s State, running Ref) error {
	if (s.Step == Trial || s.Step == Confirming) && running.is(s.To) {
		return nil
	}
	return fmt.Errorf("release %s is not on trial: the update is at %q", running, s.Step)
}

// NoteHealthy persists how long a plain reboot took, order to healthy.
func NoteHealthy(a Actions, took time.Duration) error {
	s, err := a.Load()
	if err != nil || took <= 0 {
		return err
	}
	s.Healthy = took
	return a.Save(s)
}
