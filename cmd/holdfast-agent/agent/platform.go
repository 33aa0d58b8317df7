package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	tickBusy = 2 * time.Second  // while something is not healthy
	tickIdle = 10 * time.Second // when all is

	warningsEvery = 10 * time.Minute
	// A node and an API server that were well are not looked at again before.
	lookAgain = 9 * time.Second
)

// reconciler reads the release's manifests.
func (a *agent) reconciler(ctx context.Context, rel running, c *apply.Cluster) (*apply.Reconciler, error) {
	var cs []apply.Component
	err := a.insist(ctx, status.Components, "read the manifests", func() (err error) {
		cs, err = components(rel)
		return err
	})
	return apply.NewReconciler(c, cs, a.secret, a.host.Now), err
}

// platform applies the components and then watches them, until ctx ends.
func (a *agent) platform(ctx context.Context, u *updates, r *apply.Reconciler, n node.Node, c *apply.Cluster, look func(context.Context) []apply.Health) error {
	a.Phase(status.Components)
	start := a.host.Now()
	pruned := false
	var looked time.Time
	var e engineLook
	for {
		if now := a.host.Now(); !e.good() || now.Sub(e.at).Abs() >= lookAgain {
			e = a.lookAtEngine(ctx, n, c, now)
		}
		healthy := a.watch(ctx, look, n, e, start)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The clock may have been set right by now.
		if now := a.host.Now(); now.Sub(looked).Abs() > warningsEvery {
			looked = now
			a.lookAtCertificates(ctx, c)
			a.askForWarnings(ctx, c)
		}
		d := tickBusy
		if healthy {
			d = tickIdle
			a.healthy(ctx, u)
			if u.is() != install.OnTrial && r.Release() {
				a.Say("users' ingress is open again")
			}
			if !pruned && u.is() == install.Normal {
				pruned = a.prune(ctx, r)
			}
		}
		if err := a.host.Sleep(ctx, d); err != nil {
			return err
		}
	}
}

// lookAtCertificates has those made anew that were issued while the clock was
// ahead, and keeps the ends of the others for the warnings.
func (a *agent) lookAtCertificates(ctx context.Context, c *apply.Cluster) {
	ends, dropped, err := c.Certificates(ctx, a.host.Now())
	for _, s := range dropped {
		a.Say("the certificate %s: it is made anew", s)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Error("certificates", "error", err)
	}
	if ends != nil {
		a.ends.Store(&ends)
	}
}

// askForWarnings keeps what components warn of.
func (a *agent) askForWarnings(ctx context.Context, c *apply.Cluster) {
	told, err := c.Warnings(ctx)
	if err != nil && ctx.Err() == nil {
		a.log.Error("warnings of components", "error", err)
	}
	if told != nil {
		a.podsWarn.Store(&told)
	}
}

// prune removes what only earlier releases applied, and reports whether all of
// it is gone. It waits until the release is confirmed.
func (a *agent) prune(ctx context.Context, r *apply.Reconciler) bool {
	removed, err := r.Prune(ctx)
	for _, line := range removed {
		a.Say("removed, as this release has it no more: %s", line)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Error("cannot prune", "error", err)
	}
	return err == nil
}

// engineLook is how node and API server were at a time.
type engineLook struct {
	at              time.Time
	reason, version string // of the node
	err             error  // of the API server
}

func (e engineLook) good() bool { return !e.at.IsZero() && e.reason == "" && e.err == nil }

func (a *agent) lookAtEngine(ctx context.Context, n node.Node, c *apply.Cluster, now time.Time) engineLook {
	e := engineLook{at: now}
	if e.reason, e.version, e.err = c.NodeReady(ctx, n.Name, a.host.bootID()); e.err != nil {
		e.reason = fmt.Sprintf("cannot look at it: %v", e.err)
		return e
	}
	e.err = c.Readyz(ctx)
	return e
}

// watch looks once at the components, and tells what is new.
func (a *agent) watch(ctx context.Context, look func(context.Context) []apply.Health, n node.Node, e engineLook, start time.Time) bool {
	old := a.Get()
	now := old
	now.Faults = nil
	reason, err := e.reason, e.err
	if e.version != "" {
		now.Node.Version = e.version
	}
	now.Node.Ready, now.Node.Reason = reason == "", reason
	now.Engine.Ready, now.Engine.Reason = err == nil, ""
	if err != nil {
		now.Engine.Reason = err.Error()
	}
	switch {
	case reason != "":
		now.Faults = append(now.Faults, "node "+n.Name+": "+reason)
	case err != nil:
		now.Faults = append(now.Faults, now.Engine.Reason)
	}
	if now.Node.Ready != old.Node.Ready || now.Node.Reason != old.Node.Reason {
		a.Say("node %s", describe(n.Name, "ready", now.Node.Ready, reason))
	}
	now.Components = nil
	for _, h := range look(ctx) {
		k := status.Component{Name: h.Name, Healthy: h.Healthy, Reason: h.Reason}
		now.Components = append(now.Components, k)
		if !h.Healthy {
			now.Faults = append(now.Faults, "component "+h.Name+": "+h.Reason)
		}
		if !slices.Contains(old.Components, k) {
			a.Say("component %s", describe(h.Name, "healthy", h.Healthy, h.Reason))
			if h.Healthy && !timed(old.Timings, h.Name) {
				now.Timings = append(now.Timings, status.Timing{Step: "component " + h.Name, Seconds: a.host.Now().Sub(start).Round(time.Millisecond).Seconds()})
			}
		}
	}
	if ctx.Err() != nil {
		return false // what was seen is of a shutdown
	}
	healthy := len(now.Faults) == 0
	switch {
	case healthy:
		now.Phase = status.Healthy
	case old.Phase == status.Healthy:
		now.Phase = status.Degraded
	}
	// All else may have changed meanwhile: by an update, a backup, the clock.
	a.Update(func(s *status.Status) {
		s.Phase, s.Node, s.Engine, s.Components, s.Faults = now.Phase, now.Node, now.Engine, now.Components, now.Faults
		s.Timings = append(s.Timings, now.Timings[len(old.Timings):]...)
	})
	if now.Phase != old.Phase {
		a.Say("%s: release %s %d, node %s, %d components", now.Phase, now.Release.Name, now.Release.Number, n.Name, len(now.Components))
		a.host.notify("STATUS=" + now.Phase)
	}
	return healthy
}

func describe(name, word string, ok bool, reason string) string {
	if ok {
		return name + ": " + word
	}
	return name + ": not " + word + ": " + reason
}

func timed(ts []status.Timing, component string) bool {
	return slices.ContainsFunc(ts, func(t status.Timing) bool { return t.Step == "component "+component })
}

// components joins what node.json says with the manifests of the release. One
// that only has manifests, as the site's own, comes after all others.
func components(rel running) ([]apply.Component, error) {
	all := slices.Clone(rel.config.Components)
	var names []string
	for _, k := range all {
		names = append(names, k.Name)
	}
	have := rel.Components()
	for _, name := range have {
		if !slices.Contains(names, name) {
			all = append(all, node.Component{Name: name, Needs: slices.Clone(names)})
		}
	}
	var out []apply.Component
	for _, k := range all {
		c := apply.Component{Component: k}
		if slices.Contains(have, k.Name) {
			ms, err := rel.Manifests(k.Name)
			if err != nil {
				return nil, err
			}
			for _, m := range ms {
				objs, err := apply.Parse(m.Data)
				if err != nil {
					return nil, fmt.Errorf("%s of component %s: %w", m.Title, k.Name, err)
				}
				c.Objects = append(c.Objects, objs...)
			}
		}
		out = append(out, c)
	}
	return out, nil
}
