package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrRunning is wrapped by the error of Up on a machine that runs already.
var ErrRunning = errors.New("the lab is up already")

// ErrNotRunning is wrapped by errors about a machine that does not run.
var ErrNotRunning = errors.New("the lab is not up")

// Up starts a machine, which outlives this process, and returns once QEMU
// answers; the guest is then at its first instructions. Without c.Fresh a disk
// that is there is booted again, if it was made over the same image. Nothing
// is changed on disk before every check has passed.
func Up(ctx context.Context, c Config, log *slog.Logger) (*VM, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c = c.WithDefaults()
	h, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot start the lab: %w", err)
	}
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if p := readProcess(c.Dir); p.alive() {
		return nil, fmt.Errorf("%w: pid %d in %s\nhint: holdfast lab down ends it", ErrRunning, p.PID, c.Dir)
	}
	before, err := readState(c.Dir)
	if err == nil && !c.Fresh && c.Disk == "" && isFile(filepath.Join(c.Dir, "disk.qcow2")) && before.Image != h.image {
		return nil, fmt.Errorf("cannot boot the lab's disk again: it was made over another image than %s is now\nhint: start afresh (--fresh); that discards the disk", c.Image)
	}
	s := state{Image: h.image, Disk: h.disk, Accel: h.accel, Serial: c.Serial, MAC: c.MAC, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, DiskGiB: c.DiskGiB, Secure: c.SecureBoot, Network: c.Network}
	if c.ClockAhead != 0 {
		s.Clock = time.Now().Add(c.ClockAhead).UTC().Format("2006-01-02T15:04:05")
	}
	if s.Forward, err = withAPI(c.Forward, before.Forward); err != nil {
		return nil, err
	}
	if err := files(ctx, c, h); err != nil {
		return nil, err
	}
	if c.Backup != "" {
		if err := plugBackup(c.Dir, c.Backup, c.RecoveryKey); err != nil {
			return nil, fmt.Errorf("cannot plug in the backup: %w", err)
		}
	}
	plugged, err := sticks(c.Dir)
	if err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(c.Dir, "config.json"), s); err != nil {
		return nil, fmt.Errorf("cannot start the lab: %w", err)
	}
	log.Info("starting the lab", "dir", c.Dir, "accel", s.Accel.Name, "reason", s.Accel.Reason)
	vm := &VM{dir: c.Dir, state: s, offset: sizeOf(filepath.Join(c.Dir, "console.log"))}
	if err := vm.start(ctx, h.qemu, append(arguments(s, plugged, h.code, c.bios), c.QEMUArgs...)); err != nil {
		return nil, err
	}
	return vm, nil
}

// found is what Up needs from the host.
type found struct {
	qemu, qemuImg, code, vars string
	image                     imageID
	disk                      string // socket
	format                    string // of the image
	accel                     Accel
}

// prepare finds everything, or says all that is missing.
func prepare(ctx context.Context, c Config) (found, error) {
	var h found
	var errs [5]error
	errs[0] = c.check()
	if p := readProcess(c.Dir); c.Dir != "" && p.alive() {
		errs[0] = nil // its own ports are busy; Up says that it is up
	}
	h.qemu, errs[1] = c.Host.qemu()
	h.qemuImg, errs[2] = c.Host.qemuImg()
	if !c.bios {
		h.code, h.vars, errs[3] = c.Host.ovmf(c.SecureBoot)
	}
	if c.Disk != "" {
		h.disk, errs[4] = findDisk(c.Dir, c.Disk)
	} else if h.image, errs[4] = identifyImage(c.Image); errs[4] == nil {
		h.format, errs[4] = checkImage(h.image.Path, c.DiskGiB)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return found{}, err
	}
	if h.accel = (Accel{c.Accel, "asked for"}); c.Accel == "" {
		h.accel = c.Host.Probe(ctx)
	}
	return h, errors.Join(ctx.Err(), checkQEMU(ctx, h.qemu, h.accel))
}

// files makes what the machine needs in its directory and is not there.
func files(ctx context.Context, c Config, h found) error {
	if c.Fresh {
		stale, err := filepath.Glob(filepath.Join(c.Dir, "*.pcap"))
		if err != nil {
			return err
		}
		for _, n := range []string{"disk.qcow2", "vars.fd", "console.log", "sticks.json"} {
			stale = append(stale, filepath.Join(c.Dir, n))
		}
		for _, n := range stale {
			if err := os.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	for _, n := range []string{"qmp.sock", "console.sock", "lab.sock", "qemu.pid"} {
		if err := os.Remove(filepath.Join(c.Dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if c.Disk == "" && !isFile(filepath.Join(c.Dir, "disk.qcow2")) {
		if err := makeDisk(ctx, h.qemuImg, c.Dir, h.image.Path, h.format, c.DiskGiB); err != nil {
			return err
		}
	}
	if vars := filepath.Join(c.Dir, "vars.fd"); !c.bios && !isFile(vars) {
		if err := copyFile(vars, h.vars); err != nil {
			return fmt.Errorf("cannot make the firmware's variables: %w", err)
		}
	}
	return keepCapture(c.Dir)
}

// keepCapture moves net.pcap aside: QEMU would overwrite it, and it is
// evidence.
func keepCapture(dir string) error {
	name := filepath.Join(dir, "net.pcap")
	if !isFile(name) {
		return nil
	}
	for i := 1; ; i++ {
		if to := filepath.Join(dir, fmt.Sprintf("net.%d.pcap", i)); !isFile(to) {
			return os.Rename(name, to)
		}
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		os.Remove(to + ".new")
		return err
	}
	return os.Rename(to+".new", to)
}

// lockDir keeps two calls from starting two machines on one disk.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w\nhint: another command is starting or ending this lab; wait for it", dir, err)
	}
	return func() { f.Close() }, nil
}

// start runs QEMU in a session of its own and waits until it answers.
func (vm *VM) start(ctx context.Context, qemu string, args []string) error {
	logName := vm.path("qemu.log")
	out, err := os.OpenFile(logName, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start the lab: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(qemu, args...) // not bound to ctx: it outlives the caller
	cmd.Dir, cmd.Stdout, cmd.Stderr = vm.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start QEMU: %w", err)
	}
	p, err := identify(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(vm.path("qemu.pid"), p)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }() // reaps it; how it ended is in its log
	if err != nil {
		cmd.Process.Kill()
		return fmt.Errorf("cannot record QEMU's pid: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		var state string
		if state, err = vm.State(ctx); err == nil && state != "off" { // off: it ended before it was asked
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("cannot start QEMU: it ended at once: %s%s", tail(logName, 10), qemuHint(logName))
		case <-ctx.Done():
			cmd.Process.Kill()
			return fmt.Errorf("cannot start QEMU: %w: %s", err, tail(logName, 10))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// qemuHint is a remedy for what QEMU complained about, where there is one.
func qemuHint(logName string) string {
	s := tail(logName, 20)
	switch {
	case strings.Contains(s, "annot allocate memory"):
		return "\nhint: give the lab less memory, or free some on this machine"
	case strings.Contains(s, "host forwarding rule"):
		return "\nhint: a forwarded port is in use; try again, or forward another one"
	}
	return "\nhint: all it said is in " + logName
}

// tail is the end of a text file, in lines.
func tail(name string, lines int) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 64 << 10
	if fi, err := f.Stat(); err == nil && fi.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(plain(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func sizeOf(name string) int64 {
	fi, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return fi.Size()
}
