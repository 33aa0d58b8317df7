package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
)

// healthyFile is there once the agent's verdict is good; boot-complete.target
// needs it.
const healthyFile = "/run/holdfast/healthy"

// updates is what the agent knows of the update that it is in, or is making.
type updates struct {
	machine update.Machine
	running running
	ref     install.Ref

	jobs jobs

	mu      sync.Mutex
	mode    install.Mode
	busy    bool // an update is being made
	decided bool // the trial has its verdict

	reconciler *apply.Reconciler // once there is one
}

// takeUpUpdate takes up what the last boot left, before anything of the engine
// is started. It does not return while the machine is on its way to a reboot.
func (a *agent) takeUpUpdate(ctx context.Context, rel running) (*updates, error) {
	u := &updates{running: rel, ref: install.RefOf(rel.Verified)}
	err := a.insist(ctx, status.Refused, "take up the last update", func() (err error) {
		if u.machine, err = a.machine(ctx, rel.config); err != nil {
			return err
		}
		if which, err := u.machine.RepairTable(); err != nil {
			return err
		} else if which != "" {
			a.Say("the partition table's %s copy was torn, and is mended from the other", which)
		}
		if err := a.mountESP(ctx, u.machine); err != nil {
			return err
		}
		m, err := install.AtBoot(ctx, u.actions(nil), u.ref)
		u.setMode(m)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.showUpdate(u)
	s, err := u.machine.State(u.ref)
	if err != nil {
		return nil, err
	}
	switch u.is() {
	case install.Rebooting:
		a.Say("rebooting, to go back to the release before: %s", s.Failed.Reason)
		<-ctx.Done()
		return nil, ctx.Err()
	case install.OnTrial:
		a.Say("release %s is on trial: it has %d minutes to get healthy, or release %s comes back", u.ref, rel.healthyWithin(), s.From)
		go a.trialEnds(ctx, u)
	case install.Returned:
		a.Say("BACK on release %s: release %s failed: %s", u.ref, s.Failed.Release, s.Failed.Reason)
	case install.Fallback:
		a.Say("FAULT: release %s is confirmed and does not boot; this is release %s", s.Confirmed, u.ref)
	case install.Normal:
		if s.Failed.Release.Release != 0 {
			a.Say("the last update, to release %s, failed: %s", s.Failed.Release, s.Failed.Reason)
		}
	}
	return u, nil
}

// mountESP mounts the EFI system partition, cleaned up before. After a restart
// of the agent alone it is mounted already.
func (a *agent) mountESP(ctx context.Context, m update.Machine) error {
	mounted, err := a.host.Mounted(a.host.path(update.ESP))
	if err != nil || mounted {
		return err
	}
	removed, err := m.Normalize(a.host.path(update.Disk))
	if len(removed) > 0 {
		a.Say("a power cut left these on the EFI system partition, which are removed: %s", strings.Join(removed, ", "))
	}
	if err != nil {
		return err
	}
	return a.exec(ctx, "/usr/bin/systemctl", "start", "run-holdfast-esp.mount")
}

func (r running) healthyWithin() int {
	if n := r.config.Updates.HealthyWithin; n > 0 {
		return n
	}
	return 20
}

func (u *updates) actions(from *bundles.Verified) install.Actions {
	return u.machine.Actions(u.ref, from)
}

// machine is this node to package update.
func (a *agent) machine(ctx context.Context, c node.Config) (update.Machine, error) {
	dev, err := a.host.Disk(a.host.path(update.Disk))
	if err != nil {
		return update.Machine{}, fmt.Errorf("cannot find the disk: %w", err)
	}
	m := update.Machine{
		Root: a.host.Root, Device: dev, Layouts: a.host.layouts(), Store: a.host.path(storeDir), Now: a.host.Now,
		Progress: a.updateProgress(),
		Releases: func() ([]*bundles.Verified, error) { return a.host.releases(a.host.layouts()) },
		Reboot: func(ctx context.Context) error {
			return a.exec(ctx, "/usr/bin/systemctl", "--no-block", "reboot")
		},
		TakeOver: func(_ context.Context, to install.Ref) error { return a.host.takeOver(to) },
		Hold:     func(ctx context.Context, f func(context.Context) error) error { return f(ctx) },
	}
	if c.Engine.Name == node.NoEngine {
		nothing := func(context.Context) error { return nil }
		m.Stop, m.Start = nothing, nothing
		return m, nil
	}
	// An engine that this agent does not know fails where it is started: a release
	// on trial with it must be able to go back.
	e, err := engineOf(c.Engine.Name)
	m.Datastore, m.Beside = e.datastore, e.beside
	m.Stop = func(ctx context.Context) error {
		if err != nil {
			return err
		}
		return a.stopEngine(ctx, e)
	}
	m.Hold = func(ctx context.Context, f func(context.Context) error) error { return a.held(ctx, e, f) }
	// The way up from a stopped engine is that of a start of the agent.
	m.Start = func(context.Context) error { return errRestart }
	return m, nil
}

// errRestart ends `run`, for systemd to start it again.
var errRestart = errors.New("the engine was stopped: starting over")

// stopEngine ends what starts pods, and then every pod, the control plane's too.
func (a *agent) stopEngine(ctx context.Context, e engine) error {
	for _, unit := range e.stop {
		if err := a.exec(ctx, "/usr/bin/systemctl", "stop", unit); err != nil {
			return err
		}
	}
	return nil
}

// updateProgress says every ten seconds how far a long step is.
func (a *agent) updateProgress() func(what string, done, total int64) {
	return a.progress("update")
}

// progress says every ten seconds how far a long step of the work is.
func (a *agent) progress(work string) func(what string, done, total int64) {
	var at time.Time
	var last string
	return func(what string, done, total int64) {
		now := a.host.Now()
		if done < total && now.Sub(at) < 10*time.Second {
			return
		}
		p := fmt.Sprintf("%s: %d of %d MiB", what, done>>20, total>>20)
		if p == last {
			return
		}
		at, last = now, p
		if work == "update" {
			a.Update(func(s *status.Status) { s.Update.Progress = p })
		}
		a.Say("%s: %s", work, p)
	}
}

// showUpdate puts the state of the update into the status.
func (a *agent) showUpdate(u *updates) {
	s, err := u.machine.State(u.ref)
	if err != nil {
		a.log.Error("cannot show the update", "error", err)
		return
	}
	next, err := a.host.readSeries()
	if err != nil {
		a.log.Error("cannot show the update", "error", err)
	}
	a.Update(func(st *status.Status) {
		p := st.Update.Progress
		st.Update = status.UpdateState{Mode: string(u.is()), Step: string(s.Step), From: s.From.Release, To: s.To.Release, Confirmed: s.Confirmed.Release}
		st.Update.Then = next.after(max(u.ref.Release, s.To.Release))
		if s.Step != install.Idle {
			st.Update.Progress = p
		}
		if s.Failed.Release.Release != 0 {
			st.Update.Failed = &status.Failed{Release: s.Failed.Release.Release, Reason: s.Failed.Reason, Time: s.Failed.Time}
		}
	})
}

// trialEnds goes back when the trial's time is over.
func (a *agent) trialEnds(ctx context.Context, u *updates) {
	within := time.Duration(u.running.healthyWithin()) * time.Minute
	// An agent that is started over and over gets no more time.
	t, err := a.host.readTakenOver()
	if err != nil {
		a.log.Error("trial", "error", err)
	}
	for left := within - (a.host.uptime() - t.At); left > 0; left -= time.Second {
		if a.host.Sleep(ctx, time.Second) != nil || u.isDecided() {
			return
		}
	}
	s := a.Get()
	reason := fmt.Sprintf("not healthy within %s: %s", within, s.Phase)
	if len(s.Faults) > 0 {
		reason += ": " + strings.Join(s.Faults, "; ")
	} else if s.Engine.Reason != "" {
		reason += ": " + s.Engine.Reason
	}
	a.fail(ctx, u, reason)
}

// platform is what applies the components, nil before it can.
func (u *updates) platform() *apply.Reconciler {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reconciler
}

func (u *updates) setPlatform(r *apply.Reconciler) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reconciler = r
}

func (u *updates) is() install.Mode {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.mode
}

func (u *updates) setMode(m install.Mode) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mode = m
}

func (u *updates) isDecided() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.decided
}

// decide reports whether it is the first verdict.
func (u *updates) decide() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	first := !u.decided
	u.decided = true
	return first
}

// fail ends the trial badly. The loader counts a failure to go back, too.
func (a *agent) fail(ctx context.Context, u *updates, reason string) {
	if !u.decide() {
		return
	}
	a.Say("TRIAL FAILED: %s\ngoing back to the release before", reason)
	_ = a.insist(ctx, status.Degraded, "go back", func() error { return install.Fail(ctx, u.actions(nil), u.ref, reason) })
	a.showUpdate(u)
}

// rebootFile is there from the order of a plain reboot until the node is
// healthy again; its time is that of the order.
const rebootFile = "/var/lib/holdfast/rebooting"

func (a *agent) noteReboot() {
	if err := os.WriteFile(a.host.path(rebootFile), []byte(a.host.Now().UTC().Format(time.RFC3339Nano)+"\n"), 0o644); err != nil {
		a.log.Error("cannot note the reboot", "error", err)
	}
}

// noteHealthy persists how long a plain reboot took: it is what the next update
// is expected to take.
func (a *agent) noteHealthy(u *updates) {
	b, err := os.ReadFile(a.host.path(rebootFile))
	if err != nil {
		return
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err == nil {
		err = install.NoteHealthy(u.actions(nil), a.host.Now().Sub(at))
	}
	if err = errors.Join(err, os.Remove(a.host.path(rebootFile))); err != nil {
		a.log.Error("cannot note how long the reboot took", "error", err)
	}
}

// healthy is called whenever node, engine and platform are. The first time on
// trial it confirms the release, if whatever else boot-complete.target needs
// agrees and the slot, read whole, is what was signed.
func (a *agent) healthy(ctx context.Context, u *updates) {
	name := a.host.path(healthyFile)
	if _, err := os.Stat(name); err == nil && u.is() != install.OnTrial {
		return
	}
	if err := a.writeFiles(map[string][]byte{healthyFile: []byte("yes\n")}); err != nil {
		a.log.Error("cannot write the verdict", "error", err)
	}
	complete := a.exec(ctx, "/usr/bin/systemctl", "start", "boot-complete.target")
	if ctx.Err() != nil {
		return // a shutdown is no verdict
	}
	if u.is() != install.OnTrial {
		a.noteHealthy(u)
		if complete != nil {
			a.Say("%v", complete)
		}
		return
	}
	if complete != nil {
		a.fail(ctx, u, complete.Error())
		return
	}
	if err := u.actions(nil).Check(ctx, u.ref); err != nil {
		if ctx.Err() == nil {
			a.fail(ctx, u, err.Error())
		}
		return
	}
	if !u.decide() {
		return
	}
	err := a.insist(ctx, status.Degraded, "confirm the release", func() error { return install.Confirm(ctx, u.actions(nil), u.ref) })
	if err != nil {
		return
	}
	u.setMode(install.Normal)
	a.Say("CONFIRMED: release %s is this node's", u.ref)
	a.showUpdate(u)
}
