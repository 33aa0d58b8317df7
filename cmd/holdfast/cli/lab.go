package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/lab"
)

func (a *app) labCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "lab",
		Short: "Boot the built image in a virtual machine with no way out",
		Long: `The lab runs the image that "holdfast build" made, unchanged, in QEMU with UEFI
firmware. Its network leads nowhere but to this machine's loopback, and what was on
the wire is recorded in out/lab/net.pcap.`,
		Example: "  holdfast lab up --wait\n  holdfast lab kubectl get pods -A\n  holdfast lab down",
	}
	c.AddCommand(a.labUp(), a.labStatus(), a.labKubectl(), a.labConsole(), a.labReboot(), a.labApply(), a.labBackup(), a.labProve(), a.labDown())
	return c
}

func (a *app) labDir() string { return filepath.Join(a.outDir(), "lab") }

func (a *app) labUp() *cobra.Command {
	var wait, fresh, secure bool
	var timeout, ahead time.Duration
	var memory, cpus, disk int
	var ports []string
	var restore, key string
	c := &cobra.Command{
		Use:   "up",
		Short: "Start the lab",
		Example: "  holdfast lab up --wait\n  holdfast lab up --fresh --memory 6144 --forward 8443:443" +
			"\n  holdfast lab up --fresh --restore ../mysite.holdfast-backup --wait",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if restore != "" && !fresh {
				return errUsage{errors.New("a backup is restored onto an empty disk: --restore needs --fresh")}
			}
			site, err := overlays.Load(a.dir)
			if err != nil {
				return err
			}
			forward, err := forwards(ports)
			if err != nil {
				return err
			}
			image := filepath.Join(a.outDir(), fmt.Sprintf("%s-%d.qcow2", site.Name, site.Release))
			if _, err := os.Stat(image); err != nil {
				return fmt.Errorf("cannot start the lab: %w\nhint: run \"holdfast build\"", err)
			}
			if key == "" {
				key = filepath.Join(a.dir, backup.PrivateKey)
			}
			n := site.Nodes[0]
			vm, err := lab.Up(c.Context(), lab.Config{
				Dir: a.labDir(), Image: image, Serial: n.Match.Serial, MAC: n.Match.MAC,
				CPUs: cpus, MemoryMiB: memory, DiskGiB: disk, Fresh: fresh, SecureBoot: secure, Forward: forward, ClockAhead: ahead,
				Backup: restore, RecoveryKey: key,
			}, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if a.json {
				a.event(map[string]any{"event": "lab", "accel": vm.Accel(), "api": vm.Port(6443), "dir": vm.Dir()})
			} else {
				a.printf("lab: node %s started with %s: %s\nconsole log: %s\n", n.Name, vm.Accel().Name, vm.Accel().Reason, filepath.Join(vm.Dir(), "console.log"))
			}
			if restore != "" {
				if err := a.confirmRestore(c.Context(), vm, restore, timeout); err != nil {
					return err
				}
			}
			if !wait {
				return nil
			}
			return a.waitHealthy(c.Context(), vm, timeout)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until node and components are healthy")
	c.Flags().StringVar(&restore, "restore", "", "with --fresh: a backup, on a stick that is in at power-on; its restoring is confirmed")
	c.Flags().StringVar(&key, "recovery-key", "", "with --restore: the key that opens it (default: "+backup.PrivateKey+" of the site)")
	c.Flags().BoolVar(&fresh, "fresh", false, "begin with a new disk; what the old one held is lost")
	c.Flags().DurationVar(&timeout, "timeout", 40*time.Minute, "with --wait or --restore: give up after that long")
	c.Flags().BoolVar(&secure, "secure-boot", true, "firmware that starts nothing but what the site's keys signed")
	c.Flags().IntVar(&memory, "memory", 4096, "memory in MiB")
	c.Flags().IntVar(&cpus, "cpus", 2, "processors")
	c.Flags().IntVar(&disk, "disk", 24, "disk size in GiB")
	c.Flags().DurationVar(&ahead, "clock-ahead", 0, "of the machine's clock; -17520h is two years behind")
	c.Flags().StringSliceVar(&ports, "forward", nil, "HOST:GUEST, a TCP port of this machine's 127.0.0.1 that leads to one of the node")
	return c
}

// forwards reads ports HOST:GUEST; all faults together.
func forwards(ports []string) (map[int]int, error) {
	out := map[int]int{}
	var errs []error
	for _, p := range ports {
		host, guest, _ := strings.Cut(p, ":")
		h, err := strconv.ParseUint(host, 10, 16)
		g, err2 := strconv.ParseUint(guest, 10, 16)
		if err != nil || err2 != nil || h == 0 || g == 0 || out[int(h)] != 0 {
			errs = append(errs, fmt.Errorf("cannot forward %q: want HOST:GUEST, two ports, each of this machine once", p))
			continue
		}
		out[int(h)] = int(g)
	}
	return out, errors.Join(errs...)
}

func (a *app) waitHealthy(ctx context.Context, vm *lab.VM, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start, last, lastLine := a.Now(), time.Time{}, ""
	err := vm.WaitHealthy(ctx, func(s lab.Status) {
		line := s.Phase
		for _, f := range s.Faults {
			line += "; " + f
		}
		if line == lastLine && a.Now().Sub(last) < 30*time.Second {
			return
		}
		last, lastLine = a.Now(), line
		if a.json {
			a.event(map[string]any{"event": "status", "status": s})
		} else {
			fmt.Fprintf(a.Stderr, "%5.0f s  %s\n", a.Now().Sub(start).Seconds(), line)
		}
	})
	if err != nil {
		return err
	}
	s, err := vm.Status(ctx)
	if err != nil {
		return err
	}
	return a.showStatus(s, vm)
}

func (a *app) showStatus(s lab.Status, vm *lab.VM) error {
	if a.json {
		a.event(s)
		return nil
	}
	yes := map[bool]string{true: "yes", false: "NO"}
	a.printf("\nsite %s, release %d: %s\n", s.Release.Name, s.Release.Number, s.Phase)
	a.printf("%-24s %-8s %s\n", "NODE", "READY", "VERSION")
	a.printf("%-24s %-8s %s %s\n", s.Node.Name, yes[s.Node.Ready], s.Node.Version, s.Node.Reason)
	a.printf("%-24s %-8s %s\n", "COMPONENT", "HEALTHY", "")
	for _, c := range s.Components {
		a.printf("%-24s %-8s %s\n", c.Name, yes[c.Healthy], c.Reason)
	}
	for _, f := range s.Faults {
		a.printf("fault: %s\n", f)
	}
	for _, w := range s.Warnings {
		a.printf("warning: %s\n", w)
	}
	for _, x := range s.Alerts {
		a.printf("alert: %s: %s\n", x.Name, x.Summary)
	}
	for _, t := range s.Outside.Tries {
		a.printf("reached outside: %s: %s to %s (%d packets)\n", t.Who, t.Proto, t.To, t.Packets)
	}
	if o := s.Outside; o.Lost > 0 || o.Fault != "" {
		a.printf("reached outside: %d packets more %s\n", o.Lost, o.Fault)
	}
	for _, f := range s.Other {
		a.printf("%s: %s\n", f.Name, f.Text)
	}
	a.printf("%-24s %8s\n", "STEP OF THE START", "SECONDS")
	for _, t := range s.Timings {
		a.printf("%-24s %8.1f\n", t.Step, t.Seconds)
	}
	if s.Engine.Name == "none" {
		return nil
	}
	a.printf("\nKubernetes API: https://127.0.0.1:%d (holdfast lab kubectl …)\n", vm.Port(6443))
	return nil
}

func (a *app) labStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show what the node's agent says; exit code 1 unless all is healthy",
		Example: "  holdfast lab status --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			vm, err := lab.Open(a.labDir())
			if err != nil {
				return err
			}
			s, err := vm.Status(c.Context())
			if err != nil {
				return err
			}
			if err := a.showStatus(s, vm); err != nil {
				return err
			}
			if !s.Healthy() {
				return errors.New("the site is not healthy")
			}
			return nil
		},
	}
}

func (a *app) labKubectl() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ARGS…",
		Short:              "Run kubectl, as the release has it, against the lab",
		Example:            "  holdfast lab kubectl get pods -A",
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
				return c.Help()
			}
			return a.kubectl(c.Context(), args)
		},
	}
}

func (a *app) kubectl(ctx context.Context, args []string) error {
	vm, err := lab.Open(a.labDir())
	if err != nil {
		return err
	}
	program, err := a.kubectlProgram()
	if err != nil {
		return err
	}
	config, err := vm.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	name := filepath.Join(a.labDir(), "kubeconfig")
	if err := os.WriteFile(name, config, 0o600); err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], args...)...)
	// k3s unpacks its programs first; here they go with the lab.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+name, "K3S_DATA_DIR="+filepath.Join(a.labDir(), "k3s"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.Stdin, a.Stdout, a.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kubectl: %w", err)
	}
	return nil
}

// kubectlProgram takes kubectl out of the release that the lab runs; it may have
// arguments that come first.
func (a *app) kubectlProgram() ([]string, error) {
	site, err := overlays.Load(a.dir)
	if err != nil {
		return nil, err
	}
	r, err := readResult(filepath.Join(a.outDir(), fmt.Sprintf("%s-%d.json", site.Name, site.Release)))
	if err != nil {
		return nil, err
	}
	name := filepath.Join(a.labDir(), "kubectl-"+r.OS.Root.Raw.Digest.Hex()[:16])
	inRoot, program := "usr/bin/kubectl", []string{name}
	if site.Kubernetes.Engine == "k3s" {
		inRoot, program = image.K3s, []string{name, "kubectl"} // it is many programs in one
	}
	if _, err := os.Stat(name); err == nil {
		return program, nil
	}
	s, err := a.cache()
	if err != nil {
		return nil, err
	}
	return program, extract(s, r.OS.Root.Raw, inRoot, name)
}

func (a *app) labConsole() *cobra.Command {
	return &cobra.Command{
		Use:     "console",
		Short:   "Join the serial console; Ctrl-] leaves it",
		Example: "  holdfast lab console",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			vm, err := lab.Open(a.labDir())
			if err != nil {
				return err
			}
			return vm.Attach(c.Context(), a.Stdin, a.Stdout)
		},
	}
}

func (a *app) labReboot() *cobra.Command {
	var hard, wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:     "reboot",
		Short:   "Reboot the lab's node",
		Example: "  holdfast lab reboot --wait\n  holdfast lab reboot --hard",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			vm, err := lab.Open(a.labDir())
			if err != nil {
				return err
			}
			var before lab.Status
			if wait {
				try, cancel := context.WithTimeout(c.Context(), 10*time.Second)
				before, _ = vm.Status(try) // an agent that cannot answer is no reason not to reset
				cancel()
			}
			if err := vm.Reboot(c.Context(), hard); err != nil {
				return err
			}
			if !wait {
				return nil
			}
			waitGone(c.Context(), vm, before)
			return a.waitHealthy(c.Context(), vm, timeout)
		},
	}
	c.Flags().BoolVar(&hard, "hard", false, "reset the machine without asking the node")
	c.Flags().BoolVar(&wait, "wait", false, "wait until node and components are healthy")
	c.Flags().DurationVar(&timeout, "timeout", 40*time.Minute, "with --wait: give up after that long")
	return c
}

// waitGone waits until the machine no longer answers as before: a node that is
// about to reboot is healthy for some seconds more.
func waitGone(ctx context.Context, vm *lab.VM, before lab.Status) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		s, err := vm.Status(try)
		cancel()
		if err != nil || s.Phase != before.Phase || !s.Since.Equal(before.Since) {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func (a *app) labDown() *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "Stop the lab; its disk stays",
		Example: "  holdfast lab down",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			vm, err := lab.Open(a.labDir())
			if errors.Is(err, lab.ErrNotRunning) {
				return nil
			}
			if err != nil {
				return err
			}
			return vm.Down(c.Context())
		},
	}
}
