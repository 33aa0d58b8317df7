package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
)

// dumpWithin is how long one component's data may take to be kept.
const dumpWithin = 20 * time.Minute

// dumping keeps the data of components that an earlier release could not read,
// after a later one had them, before the engine ends or another release takes over.
func (a *agent) dumping(u *updates, to *bundles.Verified, act install.Actions) install.Actions {
	stop, copyRunning := act.StopEngine, act.CopyRunning
	act.StopEngine = func(ctx context.Context) error {
		if err := a.dump(ctx, u, to); err != nil {
			return err
		}
		return stop(ctx)
	}
	act.CopyRunning = func(ctx context.Context, from uint64) error {
		if err := a.dump(ctx, u, to); err != nil {
			return err
		}
		return copyRunning(ctx, from)
	}
	return act
}

// dump does so for those components that are otherwise in the new release. One
// that is not healthy does not keep an update back that may mend it.
func (a *agent) dump(ctx context.Context, u *updates, to *bundles.Verified) error {
	r := u.platform()
	if r == nil {
		return u.machine.KeepDumps(update.Dumps{Release: u.ref.Release})
	}
	var kept []string
	for _, name := range r.Dumped() {
		same, err := sameManifests(u.running.Verified, to, name)
		if err != nil {
			return err
		}
		if same {
			continue
		}
		a.Say("update: keeping the data of %s, for the way back", name)
		limited, cancel := context.WithTimeout(ctx, dumpWithin)
		err = r.Dump(limited, name, a.host.Sleep)
		cancel()
		healthy := slices.ContainsFunc(a.Get().Components, func(c status.Component) bool { return c.Name == name && c.Healthy })
		if err != nil && healthy {
			return fmt.Errorf("cannot keep the data of %s for the way back: %w", name, err)
		}
		if err != nil {
			a.Say("update: the data of %s are not kept, and it is not healthy: %v", name, err)
			continue
		}
		kept = append(kept, name)
	}
	return u.machine.KeepDumps(update.Dumps{Release: u.ref.Release, Components: kept})
}

// sameManifests reports whether a component is the same in both releases, or not
// in the second one.
func sameManifests(from, to *bundles.Verified, name string) (bool, error) {
	if !slices.Contains(to.Components(), name) {
		return true, nil
	}
	a, err1 := from.Manifests(name)
	b, err2 := to.Manifests(name)
	return reflect.DeepEqual(a, b), errors.Join(err1, err2)
}

// putBack has the platform begin with the data that were kept, where the node came
// back from a release that had them.
func (a *agent) putBack(u *updates, r *apply.Reconciler) error {
	left, err := u.machine.PutBacks(u.ref.Release)
	if err != nil || len(left) == 0 {
		return err
	}
	a.Say("what release %s had is put back first: %s", u.ref, strings.Join(left, ", "))
	r.PutBack(left, func(component string) error {
		left = slices.DeleteFunc(left, func(name string) bool { return name == component })
		if err := u.machine.SetPutBacks(update.Dumps{Release: u.ref.Release, Components: left}); err != nil {
			return err
		}
		a.Say("component %s: its data are what they were", component)
		return nil
	})
	return nil
}
