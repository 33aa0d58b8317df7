package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/kubeadm"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/netpol"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// bringUpEngine starts Kubernetes and waits until its API server answers.
func (a *agent) bringUpEngine(ctx context.Context, e engine, c node.Config, n node.Node) (*apply.Cluster, error) {
	a.Phase(status.EngineUp)
	a.Say("starting %s %s", c.Engine.Name, c.Engine.Version)
	if a.host.emulated() {
		err := a.insist(ctx, status.EngineUp, "spare an emulated processor", func() error { return a.runAsBatch(ctx, e.batch) })
		if err != nil {
			return nil, err
		}
	}
	if err := e.up(ctx, a, e, c, n); err != nil {
		return nil, err
	}
	var cluster *apply.Cluster
	err := a.insist(ctx, status.EngineUp, "use the cluster", func() (err error) {
		cluster, err = apply.Connect(a.host.path(e.adminConf))
		if err == nil && (e.agentNetwork || slices.Contains(c.Engine.Disable, "servicelb")) { // k3s has servicelb for that
			cluster.Address = n.IP()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// At the first start it refuses to answer before the roles are there; at
	// others all that is here can begin with those of the boot before.
	if err := a.await(ctx, "the API server", func() error { return cluster.Readyz(ctx, apply.Roles) }); err != nil {
		return nil, err
	}
	if e.finish != nil {
		if err := e.finish(ctx, a); err != nil {
			return nil, err
		}
	}
	return cluster, nil
}

// serviceProxy is the component that makes services reachable. Pods get a
// network only once it works: one that starts before it finds no API server,
// fails, and is kept back ever longer by the kubelet.
const serviceProxy = "kube-proxy"

const (
	containerdConfig = "/run/holdfast/containerd/config.toml"
	podNetwork       = containerd.CNIConf + "/10-holdfast.conflist" // on /var
)

// openPodNetwork lets pods onto the network when service addresses work and
// policies are in force.
func (a *agent) openPodNetwork(ctx context.Context, r *apply.Reconciler, p *netpol.Controller) error {
	err := a.await(ctx, "component "+serviceProxy, func() error {
		for _, h := range r.Tick(ctx) {
			if h.Name == serviceProxy && !h.Healthy {
				return errors.New(h.Reason)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.await(ctx, "network policies", p.Err); err != nil {
		return err
	}
	return a.insist(ctx, status.EngineUp, "open the pod network", func() error {
		// What is sent to a pod that is gone must not leave the node.
		if err := a.exec(ctx, "/usr/bin/ip", "route", "replace", "unreachable", kubeadm.PodSubnet); err != nil {
			return err
		}
		return a.writeFiles(map[string][]byte{podNetwork: containerd.CNI(kubeadm.NodeSubnet)})
	})
}

// forget has containerd forget pods of a time to come, from when the clock was
// ahead. That it could not keeps nothing from starting.
func (a *agent) forget(ctx context.Context, e engine) error {
	n, err := a.host.Forget(ctx, e.socket, a.host.Now())
	if n > 0 {
		a.Say("%d pods of an earlier boot are of a time to come, as the clock was ahead: they are forgotten", n)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("forget pods of a time to come", "error", err)
	}
	return err
}

// forgetRest forgets those that have networks, which containerd can do once it
// has read the configuration that opened them.
func (a *agent) forgetRest(ctx context.Context, e engine) {
	for range 60 {
		if a.forget(ctx, e) == nil || a.host.Sleep(ctx, retryAfter) != nil {
			return
		}
	}
}

// awaitNode waits until the node is ready, and applies meanwhile.
func (a *agent) awaitNode(ctx context.Context, r *apply.Reconciler, c *apply.Cluster, n node.Node) error {
	var version string
	err := a.await(ctx, "node "+n.Name, func() error {
		reason, v, err := c.NodeReady(ctx, n.Name, a.host.bootID())
		if err == nil && reason != "" {
			err = errors.New(reason)
		}
		version = v
		r.Tick(ctx)
		return err
	})
	if err != nil {
		return err
	}
	a.Update(func(s *status.Status) {
		s.Node.Ready, s.Node.Version, s.Node.Reason = true, version, ""
		s.Engine.Ready, s.Engine.Reason = true, ""
	})
	a.Say("node ready: %s %s", n.Name, version)
	return nil
}

// closePodNetwork takes back, once a boot and before containerd starts, what
// openPodNetwork wrote at an earlier one: else every pod of the node starts
// before the API server does, and takes the processor from it.
func (a *agent) closePodNetwork() error {
	if _, err := os.Stat(a.host.path(containerdConfig)); err == nil {
		return nil // containerd was started in this boot; the agent is new
	}
	if err := os.Remove(a.host.path(podNetwork)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot close the pod network: %w", err)
	}
	return nil
}

// startContainerd writes the files of containerd and of the control plane, and
// starts the one that the other needs.
func (a *agent) startContainerd(ctx context.Context, e engine, c node.Config, n node.Node) error {
	if err := a.closePodNetwork(); err != nil {
		return err
	}
	if err := a.writeEngine(e, c, n); err != nil {
		return err
	}
	return a.exec(ctx, "/usr/bin/systemctl", "start", "containerd.service")
}

// pullImages has containerd unpack every image of the release from the node's
// own store. The control plane's come first.
func (a *agent) pullImages(ctx context.Context, e engine, images []node.Image) error {
	var refs []string
	for _, i := range images {
		refs = append(refs, i.Ref())
	}
	n := 0
	return a.host.Pull(ctx, e.socket, refs, func(ref string) {
		n++
		name, _, _ := strings.Cut(ref, "@")
		a.Say("image %s is unpacked (%d of %d)", name, n, len(refs))
	})
}

// kubeadmFiles is pure: what containerd and kubeadm find on the node, by path.
func kubeadmFiles(c node.Config, n node.Node) (map[string][]byte, error) {
	var pause node.Image
	var names []string
	for _, i := range c.Images {
		names = append(names, i.Name)
		if i.Name == c.Engine.Pause {
			pause = i
		}
	}
	if pause.Name == "" {
		return nil, fmt.Errorf("cannot configure containerd: the release has no image %s", c.Engine.Pause)
	}
	config, err := kubeadm.Config(c, n)
	if err != nil {
		return nil, err
	}
	patches, err := kubeadm.Patches(c.Images)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		containerdConfig:   containerd.Config(pause.Ref()),
		kubeadm.ConfigFile: config,
	}
	for name, b := range containerd.Hosts(names, "http://"+listenAt, c.Services.Registry, authorityFile) {
		files[containerd.CertsDir+"/"+name] = b
	}
	for name, b := range patches {
		files[kubeadm.PatchesDir+"/"+name] = b
	}
	return files, nil
}

// kubeadmVariables gives the control plane's pods these variables.
func kubeadmVariables(v map[string]string) (map[string][]byte, error) {
	patches, err := kubeadm.Variables(v)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, b := range patches {
		files[kubeadm.PatchesDir+"/"+name] = b
	}
	return files, nil
}

// await runs f every two seconds until it succeeds, and says every ten what
// is waited for. The only error is ctx's.
func (a *agent) await(ctx context.Context, what string, f func() error) error {
	return a.Step("wait for "+what, func() error {
		start := a.host.Now()
		told := start
		for {
			err := f()
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			now := a.host.Now()
			a.Update(func(s *status.Status) { s.Engine.Reason = err.Error() })
			if now.Sub(told) >= 10*time.Second {
				told = now
				a.Say("waiting for %s since %.0f s: %v", what, now.Sub(start).Seconds(), err)
			}
			if err := a.host.Sleep(ctx, 2*time.Second); err != nil {
				return err
			}
		}
	})
}
