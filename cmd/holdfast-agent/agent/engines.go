package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/k3s"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/kubeadm"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// engine is what the agent has to know of a Kubernetes distribution; all else
// is the same for each.
type engine struct {
	adminConf string   // kubeconfig of an administrator
	socket    string   // of the container runtime
	datastore string   // a directory
	beside    []string // files without which a copy of datastore cannot be used
	stop      []string // units, in the order in which an update stops them
	state     []string // what a backup has of it: files and directories, "*" at the end for any
	groups    []string // control groups of all that writes to state and to volumes
	// files gives what the engine reads on node n, by path. The directories of
	// stale are removed first: what another release wrote would be read too.
	files func(c node.Config, n node.Node) (map[string][]byte, error)
	stale []string
	// up starts it, with the release's images unpacked, and returns when the API
	// server may be waited for. Its only error is ctx's.
	up func(ctx context.Context, a *agent, e engine, c node.Config, n node.Node) error
	// finish starts what needs a ready API server; nil: up has. Its only error is
	// ctx's.
	finish func(ctx context.Context, a *agent) error
	// agentNetwork: the agent lets pods onto the network and enforces network
	// policies. Other engines do both themselves.
	agentNetwork bool
	networks     []string               // of pods and of services
	certificates []string               // patterns of files; they end, and the engine with them
	renewed      func(name string) bool // whether a boot makes one of them anew that ends soon
	batch        []string               // services that all of the engine's programs, and pods, come from
	// sparing gives the files by which programs that batch does not start itself
	// have these variables; nil: there are none.
	sparing func(variables map[string]string) (map[string][]byte, error)
}

// engineOf returns the answers for the engine of that name.
func engineOf(name string) (engine, error) {
	switch name {
	case "kubeadm":
		return engine{
			adminConf: kubeadm.AdminConf, socket: containerd.Socket, datastore: "/var/lib/etcd",
			stop:  []string{"kubelet.service", "kubepods.slice", "containerd.service"},
			state: kubeadm.State(), groups: []string{"kubepods.slice"},
			files: kubeadmFiles, stale: []string{kubeadm.PatchesDir},
			up: upKubeadm, finish: finishKubeadm, agentNetwork: true,
			networks:     []string{kubeadm.PodSubnet, kubeadm.ServiceNet},
			certificates: kubeadm.Certificates(), renewed: kubeadm.Renewed,
			batch: []string{"kubelet.service", "containerd.service"}, sparing: kubeadmVariables,
		}, nil
	case "k3s":
		return engine{
			adminConf: k3s.AdminConf, socket: k3s.Socket, datastore: k3s.Datastore, beside: k3s.DatastoreFiles(),
			stop:  []string{k3s.Unit, "kubepods.slice"}, // it leaves pods running
			state: k3s.State(), groups: []string{"system.slice/" + k3s.Unit, "kubepods.slice"},
			files: k3sFiles, stale: []string{k3s.ConfigDir},
			up: upK3s, networks: []string{k3s.PodSubnet, k3s.ServiceNet}, batch: []string{k3s.Unit},
			// k3s renews what ends within 120 days when it starts, but for authorities.
			certificates: []string{"/var/lib/rancher/k3s/server/tls/*.crt", "/var/lib/rancher/k3s/server/tls/etcd/*.crt"},
			renewed:      func(name string) bool { return !strings.HasSuffix(name, "-ca.crt") },
		}, nil
	}
	return engine{}, fmt.Errorf("cannot start engine %q: this agent knows kubeadm and k3s", name)
}

func k3sFiles(c node.Config, n node.Node) (map[string][]byte, error) {
	return k3s.Files(c, n, "http://"+listenAt, authorityFile)
}

// upKubeadm starts containerd, and with it and kubeadm etcd and the API server.
func upKubeadm(ctx context.Context, a *agent, e engine, c node.Config, n node.Node) error {
	if err := a.insist(ctx, status.EngineUp, "start containerd", func() error { return a.startContainerd(ctx, e, c, n) }); err != nil {
		return err
	}
	// Those on the node's network, before the kubelet looks at them.
	_ = a.forget(ctx, e)
	if err := a.insist(ctx, status.EngineUp, "pull images", func() error { return a.pullImages(ctx, e, c.Images) }); err != nil {
		return err
	}
	return a.insist(ctx, status.EngineUp, "start the API server", func() error { return a.kubeadm().Up(ctx) })
}

func finishKubeadm(ctx context.Context, a *agent) error {
	return a.insist(ctx, status.EngineUp, "start the controllers", func() error { return a.kubeadm().Finish(ctx) })
}

func (a *agent) kubeadm() kubeadm.Node {
	return kubeadm.Node{Root: a.host.Root, Now: a.host.Now, Say: a.Say, Run: func(ctx context.Context, line func(string), name string, arg ...string) error {
		return a.host.Run(ctx, func(s string) { a.log.Info(s, "from", name); line(s) }, name, arg...)
	}}
}

// upK3s starts k3s, which starts its own containerd once its API server works;
// images are unpacked then, beside the pods that begin to ask for them.
func upK3s(ctx context.Context, a *agent, e engine, c node.Config, n node.Node) error {
	err := a.insist(ctx, status.EngineUp, "start k3s", func() error {
		if err := a.writeEngine(e, c, n); err != nil {
			return err
		}
		return a.exec(ctx, "/usr/bin/systemctl", "--no-block", "start", k3s.Unit)
	})
	if err != nil {
		return err
	}
	for _, f := range []struct{ what, name string }{{"k3s", e.adminConf}, {"k3s's container runtime", e.socket}} {
		err := a.await(ctx, f.what, func() error {
			_, err := os.Stat(a.host.path(f.name))
			return err
		})
		if err != nil {
			return err
		}
	}
	return a.insist(ctx, status.EngineUp, "pull images", func() error { return a.pullImages(ctx, e, c.Images) })
}

// writeEngine writes the engine's files anew.
func (a *agent) writeEngine(e engine, c node.Config, n node.Node) error {
	files, err := e.files(c, n)
	if err != nil {
		return err
	}
	services, err := a.serviceFiles(c.Services)
	if err != nil {
		return err
	}
	maps.Copy(files, services)
	if e.sparing != nil && a.host.emulated() {
		sparing, err := e.sparing(sparingly)
		if err != nil {
			return err
		}
		maps.Copy(files, sparing)
	}
	for _, d := range e.stale {
		if err := os.RemoveAll(a.host.path(d)); err != nil {
			return fmt.Errorf("cannot remove what another release left: %w", err)
		}
	}
	return a.writeFiles(files)
}
