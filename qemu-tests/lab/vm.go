package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sigs.k8s.io/yaml"
)

// VM is a machine that was started. Its methods ask what runs now; only the
// offset of Expect is remembered. A VM is for one goroutine.
type VM struct {
	dir    string
	state  state
	offset int64 // into console.log
}

// Open returns the machine in dir, whether it runs or not. Its Expect begins
// at the console's beginning.
func Open(dir string) (*VM, error) {
	s, err := readState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the lab in %s: %w\nhint: holdfast lab up starts one", dir, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the lab in %s: %w", dir, err)
	}
	return &VM{dir: dir, state: s}, nil
}

func (vm *VM) path(name string) string { return filepath.Join(vm.dir, name) }

// Dir is where the machine's files are.
func (vm *VM) Dir() string { return vm.dir }

// Accel is how it was started.
func (vm *VM) Accel() Accel { return vm.state.Accel }

// Port is the port of 127.0.0.1 that leads to the guest's, or 0.
func (vm *VM) Port(guest int) int {
	h, _ := portTo(vm.state.Forward, guest)
	return h
}

// Captures are the recordings of the wire, the current one last.
func (vm *VM) Captures() []string {
	var all []string
	for i := 1; ; i++ {
		n := vm.path(fmt.Sprintf("net.%d.pcap", i))
		if !isFile(n) {
			break
		}
		all = append(all, n)
	}
	if n := vm.path("net.pcap"); isFile(n) {
		all = append(all, n)
	}
	return all
}

// Running reports whether QEMU runs.
func (vm *VM) Running() bool { return readProcess(vm.dir).alive() }

// running returns an error wrapping ErrNotRunning unless QEMU runs.
func (vm *VM) running() error {
	if vm.Running() {
		return nil
	}
	return fmt.Errorf("%w in %s\nhint: holdfast lab up starts it", ErrNotRunning, vm.dir)
}

// State is QEMU's word for the machine: "running", "paused", "shutdown", … or
// "off" when there is no QEMU.
func (vm *VM) State(ctx context.Context) (string, error) {
	if !vm.Running() {
		return "off", nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var r struct{ Status string }
	if err := qmp(ctx, vm.dir, "query-status", &r); err != nil {
		return "", err
	}
	return r.Status, nil
}

// askTime bounds a question whose context has no deadline.
const askTime = 30 * time.Second

func (vm *VM) ask(ctx context.Context, op string, limit time.Duration, result any) error {
	return vm.askAll(ctx, question{Op: op}, limit, result)
}

func (vm *VM) askAll(ctx context.Context, q question, limit time.Duration, result any) error {
	if err := vm.running(); err != nil {
		return err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return ask(ctx, vm.dir, q, result)
}

// Status asks the agent for the node's status, until ctx ends or for half a
// minute: the agent answers only some time after the kernel is up.
func (vm *VM) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, vm.ask(ctx, "status", askTime, &s)
}

// journalLines are more than a start has.
const journalLines = 10_000

// Logs asks the agent for the node's journal.
func (vm *VM) Logs(ctx context.Context) (string, error) {
	var s string
	return s, vm.askAll(ctx, question{Op: "logs", Lines: journalLines}, 2*time.Minute, &s)
}

// Audit asks the agent for the log of updates, one JSON line an event. A log
// that was changed is an error.
func (vm *VM) Audit(ctx context.Context) (string, error) {
	var s string
	return s, vm.ask(ctx, "audit", askTime, &s)
}

// Kubeconfig asks the agent for the administrator's kubeconfig and leads it
// through the forwarded port. The name in the server's certificate that is
// checked is one that every cluster's has.
func (vm *VM) Kubeconfig(ctx context.Context) ([]byte, error) {
	var s string
	if err := vm.ask(ctx, "kubeconfig", askTime, &s); err != nil {
		return nil, err
	}
	return redirect([]byte(s), vm.Port(apiPort))
}

func redirect(kubeconfig []byte, port int) ([]byte, error) {
	var k map[string]any
	if err := yaml.Unmarshal(kubeconfig, &k); err != nil {
		return nil, fmt.Errorf("cannot read the node's kubeconfig: %w", err)
	}
	clusters, _ := k["clusters"].([]any)
	for _, c := range clusters {
		entry, _ := c.(map[string]any)
		cluster, ok := entry["cluster"].(map[string]any)
		if !ok {
			return nil, errors.New("cannot read the node's kubeconfig: a cluster without an address")
		}
		cluster["server"] = fmt.Sprintf("https://127.0.0.1:%d", port)
		cluster["tls-server-name"] = "kubernetes"
	}
	if len(clusters) == 0 {
		return nil, errors.New("cannot read the node's kubeconfig: it has no cluster")
	}
	return yaml.Marshal(k)
}

// Reboot restarts the guest: by its own means, or at once as by the reset
// button when hard.
func (vm *VM) Reboot(ctx context.Context, hard bool) error {
	if hard {
		if err := vm.running(); err != nil {
			return err
		}
		return qmp(ctx, vm.dir, "system_reset", nil)
	}
	if err := vm.ask(ctx, "reboot", askTime, nil); err != nil {
		return fmt.Errorf("%w\nhint: a hard reboot needs no agent", err)
	}
	return nil
}

const (
	downGrace = 90 * time.Second // for the guest to stop its services
	quitGrace = 10 * time.Second // for QEMU to write out its caches
)

// Down ends the machine: by its own power-off, else by QEMU's quit, else by
// the process's end. The guest has a minute and a half, less when ctx ends
// first. A machine that does not run is no error.
func (vm *VM) Down(ctx context.Context) error {
	unlock, err := lockDir(vm.dir)
	if err != nil {
		return err
	}
	defer unlock()
	p := readProcess(vm.dir)
	if !p.alive() {
		return vm.clean()
	}
	soft, cancel := context.WithTimeout(ctx, downGrace)
	defer cancel()
	first, cancelFirst := context.WithTimeout(soft, 3*time.Second)
	err = ask(first, vm.dir, question{Op: "poweroff"}, nil)
	cancelFirst()
	if err != nil {
		err = qmp(soft, vm.dir, "system_powerdown", nil)
	}
	if err == nil && waitEnd(soft, p) {
		return vm.clean()
	}
	// From here on the caller's patience no longer counts.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), quitGrace)
	defer cancelLast()
	if err := qmp(last, vm.dir, "quit", nil); err == nil && waitEnd(last, p) {
		return vm.clean()
	}
	return vm.Kill()
}

// Kill ends QEMU at once, as by pulling the plug. What the guest wrote to
// disk.qcow2 is in the host's page cache and stays; a disk that has a server
// loses what its server makes it lose: cut that first.
func (vm *VM) Kill() error {
	p := readProcess(vm.dir)
	if err := p.kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), quitGrace)
	defer cancel()
	if !waitEnd(ctx, p) {
		return fmt.Errorf("cannot end QEMU (pid %d): it does not go away", p.PID)
	}
	return vm.clean()
}

func (vm *VM) clean() error {
	var errs []error
	for _, n := range []string{"qemu.pid", "qmp.sock", "console.sock", "lab.sock"} {
		if err := os.Remove(vm.path(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func waitEnd(ctx context.Context, p process) bool {
	for p.alive() {
		select {
		case <-ctx.Done():
			return !p.alive()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return true
}

// deadStates are those that a machine does not leave by itself.
var deadStates = []string{"internal-error", "io-error", "guest-panicked"}

// WaitHealthy asks for the status every two seconds, hands each to progress
// (may be nil), and returns when the node is healthy. When ctx or the machine
// ends first, the error says what was still wrong.
func (vm *VM) WaitHealthy(ctx context.Context, progress func(Status)) error {
	var last Status
	var lastErr error
	for {
		try, cancel := context.WithTimeout(ctx, askTime)
		s, err := vm.Status(try)
		cancel()
		switch {
		case err == nil:
			last, lastErr = s, nil
			if progress != nil {
				progress(s)
			}
			if s.Healthy() {
				return nil
			}
			if s.Phase == PhaseRefused {
				return fmt.Errorf("cannot wait for a healthy node: it refused to start: %s", vm.whatIsWrong(s, nil))
			}
		case errors.Is(err, ErrNotRunning):
			return fmt.Errorf("cannot wait for a healthy node: %w\nthe console's end:\n%s", err, tail(vm.path("console.log"), 20))
		default:
			lastErr = err
			if _, err := vm.Unstick(ctx); err != nil {
				return fmt.Errorf("cannot wait for a healthy node: %w", err)
			}
			if state, err := vm.State(ctx); err == nil && slices.Contains(deadStates, state) {
				return fmt.Errorf("cannot wait for a healthy node: the machine stopped (%s)\nhint: if it runs under KVM, try tcg\nthe console's end:\n%s", state, tail(vm.path("console.log"), 20))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for a healthy node: %w: %s", ctx.Err(), vm.whatIsWrong(last, lastErr))
		case <-time.After(2 * time.Second):
		}
	}
}

func (vm *VM) whatIsWrong(s Status, err error) string {
	text := fmt.Sprintf("phase %q, node ready: %v", s.Phase, s.Node.Ready)
	if r := cmp.Or(s.Node.Reason, s.Engine.Reason); r != "" {
		text += " (" + r + ")"
	}
	for _, c := range s.Components {
		if !c.Healthy {
			text += fmt.Sprintf("\n%s: %s", c.Name, c.Reason)
		}
	}
	for _, f := range s.Faults {
		text += "\n" + f
	}
	if err != nil {
		text += "\n" + err.Error() + "\nthe console's end:\n" + tail(vm.path("console.log"), 20)
	}
	return text
}
