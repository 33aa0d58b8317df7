package kubeadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
)

// Node is what Up needs of the machine.
type Node struct {
	Root string // prefix of all paths; "/" on a node
	// Run runs a program to its end; line is called with each line it prints.
	Run func(ctx context.Context, line func(string), name string, arg ...string) error
	Say func(format string, a ...any)
	Now func() time.Time
}

func (n Node) path(p string) string { return filepath.Join(n.Root, p) }

// doneFile marks a control plane whose init ran to its end.
const doneFile = "/var/lib/holdfast/kubeadm.done"

// State is what a node must have for Up to take up the control plane that it
// was part of, on another disk too.
func State() []string {
	return []string{"/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet/pki", doneFile}
}

// The phases of `kubeadm init` that Up leaves to Finish, and those before.
//
// A controller manager gives up when the API server is not healthy ten seconds
// after its own start. Started at once, on a slow machine it takes the processor
// from the API server, for nothing, again and again.
var (
	waitForAPI = []string{"control-plane/controller-manager", "control-plane/scheduler", "wait-control-plane",
		"upload-config", "upload-certs", "mark-control-plane", "bootstrap-token", "kubelet-finalize"}
	beforeAPI = []string{"certs", "kubeconfig", "etcd", "control-plane/apiserver", "kubelet-start"}
)

// Up starts etcd, the API server and the kubelet: with `kubeadm init` at the
// first boot, later by rendering the static pods again, since
// /etc/kubernetes/manifests is empty after a boot. It needs a running
// containerd, ConfigFile and PatchesDir. It returns when the kubelet is started;
// once the API server is ready, Finish does the rest.
func (n Node) Up(ctx context.Context) error {
	first, err := n.firstBoot()
	if err != nil {
		return err
	}
	if !first {
		return n.again(ctx)
	}
	if left := n.leftovers(); len(left) > 0 {
		n.Say("an earlier first boot was interrupted: starting it again, in place of %s", strings.Join(left, ", "))
		if err := n.clean(ctx); err != nil {
			return err
		}
	}
	if err := n.authorities(); err != nil {
		return err
	}
	return n.init(ctx, waitForAPI)
}

// Finish starts what needs the API server, with which it also ends a first boot.
func (n Node) Finish(ctx context.Context) error {
	first, err := n.firstBoot()
	if err != nil {
		return err
	}
	if !first {
		return n.phases(ctx, "control-plane controller-manager", "control-plane scheduler")
	}
	if err := n.init(ctx, beforeAPI); err != nil {
		return err
	}
	err = os.MkdirAll(filepath.Dir(n.path(doneFile)), 0o755)
	if err == nil {
		err = atomicfile.Write(n.path(doneFile), []byte("done\n"), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot mark the first boot as done: %w", err)
	}
	return nil
}

func (n Node) firstBoot() (bool, error) {
	_, err := os.Stat(n.path(doneFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("cannot tell whether this is the first boot: %w", err)
	}
	return err != nil, nil
}

// init runs `kubeadm init` without some phases, which the flag takes in place
// of the configuration's.
func (n Node) init(ctx context.Context, without []string) error {
	skip := strings.Join(slices.Concat(skipPhases, without), ",")
	if err := n.run(ctx, "init", "--config", ConfigFile, "--skip-token-print", "--skip-phases", skip); err != nil {
		return fmt.Errorf("cannot create the control plane: %w", err)
	}
	return nil
}

// again brings up a control plane that exists: authorities, kubeconfigs and
// etcd's data stay, and so do certificates that do not end soon.
func (n Node) again(ctx context.Context) error {
	if err := n.renew(ctx); err != nil {
		return err
	}
	if err := n.phases(ctx, "etcd local", "control-plane apiserver", "kubelet-start"); err != nil {
		return err
	}
	// kubeadm only warns when the kubelet does not start.
	if err := n.Run(ctx, func(string) {}, "/usr/bin/systemctl", "start", "kubelet.service"); err != nil {
		return fmt.Errorf("cannot start the kubelet: %w\nhint: its journal tells more", err)
	}
	return nil
}

func (n Node) phases(ctx context.Context, names ...string) error {
	for _, name := range names {
		arg := slices.Concat([]string{"init", "phase"}, strings.Fields(name), []string{"--config", ConfigFile})
		if err := n.run(ctx, arg...); err != nil {
			return fmt.Errorf("cannot start the control plane: %w", err)
		}
	}
	return nil
}

// run runs kubeadm and tells its phases, which it prints as "[phase] text".
func (n Node) run(ctx context.Context, arg ...string) error {
	var phase, last, cause string
	err := n.Run(ctx, func(line string) {
		if s := strings.TrimSpace(line); s != "" {
			last = s
			if strings.HasPrefix(s, "error: ") {
				cause = s // advice on flags follows it
			}
		}
		rest, ok := strings.CutPrefix(line, "[")
		p, text, ok2 := strings.Cut(rest, "] ")
		if ok && ok2 && p != phase {
			phase = p
			n.Say("kubeadm: %s: %s", p, text)
		}
	}, "kubeadm", arg...)
	if err != nil {
		return fmt.Errorf("kubeadm %s: %w: %s", strings.Join(arg, " "), err, cmp.Or(cause, last))
	}
	return nil
}

// What an init writes. Only before doneFile exists may it be removed: the
// datastore then holds nothing but what the init itself put there.
var initDirs = []string{"/etc/kubernetes/manifests", "/etc/kubernetes", "/var/lib/etcd"}

func (n Node) leftovers() []string {
	var left []string
	for _, d := range initDirs {
		es, err := os.ReadDir(n.path(d))
		if err != nil {
			continue
		}
		for _, e := range es {
			if p := filepath.Join(d, e.Name()); p != "/etc/kubernetes/manifests" {
				left = append(left, p)
			}
		}
	}
	return left
}

func (n Node) clean(ctx context.Context) error {
	// With it kubeadm would ask an API server that is half there.
	if err := os.RemoveAll(n.path(AdminConf)); err != nil {
		return fmt.Errorf("cannot clean up: %w", err)
	}
	// It stops the kubelet and removes its pods, if there are any after a
	// restart of the agent alone. What it leaves is removed below.
	if err := n.run(ctx, "reset", "--force", "--cri-socket", "unix://"+containerd.Socket, "--skip-phases", "preflight,remove-etcd-member"); err != nil {
		n.Say("%v (continuing)", err)
	}
	var errs []error
	for _, p := range n.leftovers() {
		errs = append(errs, os.RemoveAll(n.path(p)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot clean up: %w", err)
	}
	return nil
}
