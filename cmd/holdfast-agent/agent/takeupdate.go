package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
)

// stickLabel is the file system label of a stick that carries bundles.
const stickLabel = "HOLDFAST"

// stickDevice is the link that udev makes for it.
const stickDevice = "/dev/disk/by-label/" + stickLabel

const stickWait = 20 * time.Second

const stickDir = "/run/holdfast/stick"

// onStick mounts the stick read-only, has f look at the bundle on it, and
// unmounts it again.
func (a *agent) onStick(ctx context.Context, f func(bundle string) error) error {
	return a.withStick(ctx, stickLabel, stickDevice, stickDir, "ro", func(dir string) error {
		found, err := filepath.Glob(filepath.Join(dir, "*.bundle"))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("cannot choose a bundle: the stick has %d\nhint: leave one *.bundle in its top directory", len(found))
		}
		return f(found[0])
	})
}

// withStick mounts the stick with that label on dir, in mode ro or rw, and
// unmounts it after f. What was written is on it only then, so that a failure is
// one of the whole.
func (a *agent) withStick(ctx context.Context, label, dev, dir, mode string, f func(dir string) error) (err error) {
	dev, dir = a.host.path(dev), a.host.path(dir)
	// One that was plugged in just now takes a moment.
	for left := stickWait; ; left -= time.Second {
		if _, err := os.Stat(dev); err == nil {
			break
		}
		if left <= 0 {
			return fmt.Errorf("cannot find a stick: no disk has a file system labelled %s", label)
		}
		if err := a.host.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot mount the stick: %w", err)
	}
	if err := a.exec(ctx, "/usr/bin/mount", "-o", mode+",nodev,nosuid,noexec", dev, dir); err != nil {
		return err
	}
	defer func() {
		unmount := a.exec(context.WithoutCancel(ctx), "/usr/bin/umount", dir)
		if mode == "rw" {
			err = errors.Join(err, unmount)
		} else if unmount != nil {
			a.log.Error("stick", "error", unmount)
		}
	}()
	return f(dir)
}

// onFile has f look at a file with the releases that this node has, which the
// bundles in it may be differences from. name is "" for the one on the stick.
func (a *agent) onFile(ctx context.Context, u *updates, name string, f func(file *os.File, base []*bundles.Verified) error) error {
	if name == "" {
		return a.onStick(ctx, func(name string) error { return a.onFile(ctx, u, name, f) })
	}
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot open the bundle: %w", err)
	}
	defer file.Close()
	base, err := a.host.releases(a.host.layouts())
	if len(base) == 0 {
		return err
	}
	base[0] = u.machine.WithRoot(base[0]) // the running release
	return f(file, base)
}

// admitted gives f the release of a file that may come to this node, what it
// would change, and the series that it begins or goes on with.
func (a *agent) admitted(ctx context.Context, u *updates, q bundleRequest, f func(*bundles.Verified, install.Plan, series) error) error {
	trust, err := a.host.trust()
	if err != nil {
		return err
	}
	return a.onFile(ctx, u, q.file, func(file *os.File, base []*bundles.Verified) error {
		fi, err := file.Stat()
		if err != nil {
			return fmt.Errorf("cannot open the bundle: %w", err)
		}
		sections, err := bundles.Sections(ctx, file, fi.Size())
		if err != nil {
			return err
		}
		running := u.ref.Release
		v, err := choose(sections, running, func(s bundles.Section, before ...*bundles.Verified) (*bundles.Verified, error) {
			return bundles.OpenSection(ctx, file, s, trust, nil, slices.Concat(before, base)...)
		})
		if err == nil && q.series != nil && !q.series.has(v.Index().Digest) {
			err = fmt.Errorf("release %d is not of the file that the series began with", v.Facts().Release)
		}
		if err == nil {
			err = u.machine.Admit(trust.Policy, u.running.Verified, v)
		}
		if err != nil {
			return err
		}
		p, err := u.machine.Plan(u.running.Verified, v)
		if err == nil && p.Reboot == "" {
			p.Reboot, err = a.whyReboot(u, v)
		}
		if err != nil {
			return err
		}
		s := seriesOf(q, sections, running)
		p.Then = s.after(p.To.Release)
		return f(v, p, s)
	})
}

// bundleRequest is what somebody asks for.
type bundleRequest struct {
	file   string // "" for the one on the stick
	dryRun bool
	reboot bool    // also where it need not be
	series *series // only releases of it; nil: any
}

// applyBundle verifies and admits a bundle, and unless it is a dry run makes
// the update, up to the reboot; where none is needed, up to errTakenOver. begun
// is told the plan once it is admitted.
func (a *agent) applyBundle(ctx context.Context, u *updates, q bundleRequest, begun func(install.Plan)) error {
	if !u.begin() {
		return errors.New("cannot take an update: one is being made")
	}
	defer u.end()
	err := a.admitted(ctx, u, q, func(v *bundles.Verified, p install.Plan, s series) error {
		if q.reboot && p.Reboot == "" {
			p.Reboot = "it was asked for"
		}
		begun(p)
		if q.dryRun {
			return nil
		}
		if left, err := u.machine.PutBacks(u.ref.Release); err != nil || len(left) > 0 {
			return errors.Join(fmt.Errorf("cannot take an update: the data of %s are to be put back first", strings.Join(left, ", ")), err)
		}
		a.Say("%s", strings.TrimSuffix(p.Text(), "\n"))
		way := install.ByReboot
		if p.Reboot == "" {
			way = install.InPlace
		}
		if err := a.host.writeSeries(s); err != nil {
			return err
		}
		err := install.Apply(ctx, a.dumping(u, v, a.told(u, u.actions(v))), u.ref, install.RefOf(v), way)
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, a.host.writeSeries(series{}))
		}
		a.showUpdate(u)
		if err == nil && way == install.InPlace {
			err = errTakenOver
		}
		return err
	})
	switch {
	case q.dryRun || ctx.Err() != nil:
	case errors.Is(err, errTakenOver):
		a.Say("update: the new release takes over")
	case err != nil:
		a.Say("NO UPDATE: %v", err)
	default:
		a.Say("update: rebooting")
	}
	return err
}

// told has the steps of an update shown as they begin.
func (a *agent) told(u *updates, act install.Actions) install.Actions {
	save := act.Save
	act.Save = func(s install.State) error {
		if err := save(s); err != nil {
			return err
		}
		a.showUpdate(u)
		if s.Step != install.Idle {
			a.Say("update to release %s: %s", s.To, s.Step)
		}
		return nil
	}
	return act
}

// begin reports whether no other update is being made, and reserves the node
// for this one.
func (u *updates) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy {
		return false
	}
	u.busy = true
	return true
}

func (u *updates) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.busy = false
}
