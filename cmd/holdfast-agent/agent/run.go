package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/lab"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const secretsDir = "/var/lib/holdfast/secrets"

// agent is one `run`.
type agent struct {
	*status.Reporter
	host      Host
	log       *slog.Logger
	confirmed *confirmations
	ends      atomic.Pointer[map[string]time.Time] // of certificates in the cluster
	podsWarn  atomic.Pointer[[]string]             // what components warn of
}

// run brings the node up, step by step, and then keeps watch until ctx ends.
// It does not return for a fault: it says what is wrong, and tries again.
func run(ctx context.Context, h Host, log *slog.Logger) error {
	a := &agent{Reporter: status.New(h.path(statusFile), h.Console, log, h.Now), host: h, log: log, confirmed: &confirmations{}}
	// systemd would take a machine that waits for its release for a hung unit.
	h.notify("READY=1", "STATUS=starting")
	a.Phase(status.Starting)
	if err := a.insist(ctx, status.Refused, "clear up after a backup", a.lastBackup); err != nil {
		return err
	}

	var rel running
	err := a.insist(ctx, status.Refused, "find the running release", func() (err error) {
		rel, err = h.findRunning()
		return err
	})
	if err != nil {
		return err
	}
	f := rel.Facts()
	a.Say("release %s %d (zone %s, holdfast %s) is verified", f.Name, f.Release, f.Zone, f.Version)
	a.Update(func(s *status.Status) {
		s.Release = status.Release{Name: f.Name, Number: int(f.Release)}
		s.Engine = status.Engine{Name: rel.config.Engine.Name, Version: rel.config.Engine.Version}
	})
	if err := a.insist(ctx, status.Starting, "set the clock", func() error { return a.setClock(ctx, f.Epoch) }); err != nil {
		return err
	}
	go a.keepTime(ctx)
	u, err := a.takeUpUpdate(ctx, rel)
	if err != nil {
		return err
	}
	ctx, restart := context.WithCancelCause(ctx)
	defer restart(nil)
	all := a.labNode(rel.adminConf(), a.apply(ctx, u, restart), a.backUp(ctx, u))
	take := func(q bundleRequest) error { return a.takeBundle(ctx, u, q, restart, func(install.Plan) {}) }
	go a.watchSticks(ctx, u, func() error { return take(bundleRequest{}) })
	go a.goOn(ctx, u, take)
	go a.keepBackups(ctx, u)
	go a.control(ctx, lab.Node{Status: all.Status, Apply: all.Apply, Backup: all.Backup, Credentials: a.credentials(ctx, u)})
	if rel.config.LabAccess {
		go a.labPort(ctx, all)
	}
	err = a.bringUp(ctx, u)
	return cmp.Or(context.Cause(ctx), err)
}

// bringUp starts node, engine and platform, and keeps watch.
func (a *agent) bringUp(ctx context.Context, u *updates) error {
	rel := u.running

	n, err := a.bringUpNode(ctx, u)
	if err != nil {
		return err
	}
	if rel.config.Engine.Name == node.NoEngine {
		return a.appliance(ctx, u, n)
	}
	var e engine
	err = a.insist(ctx, status.Refused, "find the engine", func() (err error) {
		e, err = engineOf(rel.config.Engine.Name)
		return err
	})
	if err != nil {
		return err
	}
	c, err := a.bringUpEngine(ctx, e, rel.config, n)
	if err != nil {
		return err
	}
	r, err := a.reconciler(ctx, rel, c)
	if err != nil {
		return err
	}
	if err := a.insist(ctx, status.Components, "find what is to be put back", func() error { return a.putBack(u, r) }); err != nil {
		return err
	}
	u.setPlatform(r)
	if u.is() == install.OnTrial {
		err := a.insist(ctx, status.Components, "keep users' ingress closed", func() error { return r.Withhold(ctx) })
		if err != nil {
			return err
		}
	}
	look := r.Tick
	if e.agentNetwork {
		p, err := a.startPolicies(ctx, e, n)
		if err != nil {
			return err
		}
		if err := a.openPodNetwork(ctx, r, p); err != nil {
			return err
		}
		go a.forgetRest(ctx, e)
		look = func(ctx context.Context) []apply.Health { return append(r.Tick(ctx), policyHealth(p)) }
	}
	if err := a.awaitNode(ctx, r, c, n); err != nil {
		return err
	}
	return a.platform(ctx, u, r, n, c, look)
}

// appliance is a node without Kubernetes: it is healthy once it is up.
func (a *agent) appliance(ctx context.Context, u *updates, n node.Node) error {
	a.Update(func(s *status.Status) {
		s.Phase, s.Node.Ready, s.Engine.Ready = status.Healthy, true, true
	})
	a.Say("%s: release %s %d, node %s, no Kubernetes", status.Healthy, u.ref.Name, u.ref.Release, n.Name)
	a.host.notify("STATUS=" + status.Healthy)
	a.healthy(ctx, u)
	<-ctx.Done()
	return ctx.Err()
}

// bringUpNode finds which node this machine is, and gives it its network and
// its secrets.
func (a *agent) bringUpNode(ctx context.Context, u *updates) (node.Node, error) {
	c := u.running.config
	var n node.Node
	var link node.Link
	err := a.insist(ctx, status.Refused, "find this machine's node", func() error {
		m, err := node.ReadMachine(a.host.Root)
		if err != nil {
			return err
		}
		n, link, err = node.Find(c.Nodes, m)
		return err
	})
	if err != nil {
		return n, err
	}
	a.Phase(status.Network)
	a.Say("this machine is node %s (%s on %s)", n.Name, n.Address, link.Name)
	a.Update(func(s *status.Status) { s.Node = status.Node{Name: n.Name} })
	if err := a.insist(ctx, status.Network, "bring up the network", func() error { return a.network(ctx, c, n, link) }); err != nil {
		return n, err
	}
	go a.watchOutside(ctx)
	go a.keepWarning(ctx, u, n)
	if c.Services.Journal {
		go a.keepJournal(ctx, n)
	}
	if c.Services.Monitoring != nil {
		go a.monitored(ctx, u, n)
	}
	if err := a.restore(ctx, u, n); err != nil {
		return n, err
	}
	a.showServer(c)
	return n, a.insist(ctx, status.Network, "make secrets", func() error {
		for _, k := range c.Components {
			for _, s := range k.Secrets {
				if _, err := a.secret(s); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (a *agent) secret(s node.Secret) (map[string]string, error) {
	return secrets.Ensure(a.host.path(secretsDir), s, a.host.Random)
}

// network writes the names of the node and networkd's files and waits until the address is there.
func (a *agent) network(ctx context.Context, c node.Config, n node.Node, link node.Link) error {
	files := map[string][]byte{
		"/run/holdfast/resolv.conf": node.ResolvConf(n),
		"/run/holdfast/hostname":    []byte(n.Name + "\n"),
		"/run/holdfast/hosts":       node.Hosts(c, n),
	}
	for name, b := range node.NetworkFiles(n, link) {
		files["/run/systemd/network/"+name] = b
	}
	if err := a.writeFiles(files); err != nil {
		return err
	}
	if err := a.host.SetHostname(n.Name); err != nil {
		return fmt.Errorf("cannot set the hostname: %w", err)
	}
	// Without counters a site is as good; that there are none, its status says.
	if err := a.countOutside(ctx, c, n); err != nil {
		a.Say("cannot count what reaches outside: %v", err)
	}
	if err := a.exec(ctx, "/usr/bin/networkctl", "reload"); err != nil {
		return err
	}
	for range 120 {
		if a.host.HasAddress(link.Name, n.IP()) {
			return nil
		}
		if err := a.host.Sleep(ctx, time.Second/2); err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot bring up the network: %s has no address %s after 60 s\nhint: is the cable in?", link.Name, n.IP())
}

// writeFiles writes files that every boot makes anew.
func (a *agent) writeFiles(files map[string][]byte) error {
	for name, b := range files {
		p := a.host.path(name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	return nil
}

// exec runs a program whose output is of interest only when it fails.
func (a *agent) exec(ctx context.Context, name string, arg ...string) error {
	var last string
	err := a.host.Run(ctx, func(s string) { last = s; a.log.Info(s, "from", filepath.Base(name)) }, name, arg...)
	if err != nil {
		return fmt.Errorf("cannot run %s %v: %w: %s", name, arg, err, last)
	}
	return nil
}

const (
	retryAfter  = 5 * time.Second
	repeatAfter = time.Minute
)

// insist runs f until it succeeds. A fault is told when it is new, and again
// every minute; meanwhile the status is in phase. The only error is ctx's.
func (a *agent) insist(ctx context.Context, phase, what string, f func() error) error {
	before := a.Get().Phase
	var told string
	var at time.Time
	for {
		err := a.Step(what, f)
		if err == nil {
			if told != "" {
				a.Phase(before)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if msg := err.Error(); msg != told || a.host.Now().Sub(at) >= repeatAfter {
			told, at = msg, a.host.Now()
			a.Update(func(s *status.Status) { s.Phase, s.Faults = phase, []string{msg} })
			a.Say("FAULT: cannot %s; nothing more is started:\n%s", what, msg)
			a.host.notify("STATUS=cannot " + what)
		}
		if err := a.host.Sleep(ctx, retryAfter); err != nil {
			return err
		}
	}
}
