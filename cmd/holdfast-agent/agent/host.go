package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/images"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/netpol"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/sandboxes"
)

// Host is the machine below the agent: where its files are, and what it can do
// to it. Tests give another.
type Host struct {
	Root        string // prefix of all paths
	Getenv      func(string) string
	Now         func() time.Time
	Random      io.Reader
	SetTime     func(time.Time) error
	SetHostname func(string) error
	HasAddress  func(link, ip string) bool
	Console     func() (io.WriteCloser, error)
	Disk        func(partition string) (string, error)  // the disk that a partition is on
	Input       func(ctx context.Context) <-chan string // lines typed on a console, until ctx ends
	Mounted     func(dir string) (bool, error)
	// Run runs a program to its end; line gets each line of its output.
	Run func(ctx context.Context, line func(string), name string, arg ...string) error
	// Pull makes the container runtime at the socket have images, and tells which
	// it had to pull.
	Pull func(ctx context.Context, socket string, refs []string, told func(ref string)) error
	// Forget has the container runtime at the socket forget pods of a time to come,
	// and tells how many there were.
	Forget func(ctx context.Context, socket string, now time.Time) (int, error)
	// Enforce replaces the rules that network policies ask for.
	Enforce func(ctx context.Context, r netpol.Rules) error
	// Sleep waits; it returns ctx's error if that ends first.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Machine is the machine the program runs on. random and getenv come from main.
func Machine(root string, random io.Reader, getenv func(string) string) Host {
	return Host{
		Root: root, Getenv: getenv, Now: time.Now, Random: random,
		SetTime: func(t time.Time) error {
			ts := unix.NsecToTimespec(t.UnixNano())
			return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
		},
		SetHostname: func(s string) error { return unix.Sethostname([]byte(s)) },
		HasAddress:  hasAddress,
		Console:     openConsoles,
		Input:       typedLines,
		Disk:        diskOf,
		Mounted:     isMountPoint,
		Run:         runProgram,
		Pull:        images.Pull,
		Forget:      sandboxes.Forget,
		Enforce:     new(netpol.Table).Load,
		Sleep:       sleep,
	}
}

func (h Host) path(p string) string { return filepath.Join(h.Root, p) }

func hasAddress(link, ip string) bool {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return false
	}
	as, err := i.Addrs()
	if err != nil {
		return false
	}
	for _, a := range as {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().String() == ip {
			return true
		}
	}
	return false
}

// bootID tells this boot from others; "" if that cannot be read.
func (h Host) bootID() string {
	b, err := os.ReadFile(h.path("/proc/sys/kernel/random/boot_id"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// uptime is how long ago the machine started; 0 if that cannot be told.
func (h Host) uptime() time.Duration {
	b, err := os.ReadFile(h.path("/proc/uptime"))
	if err != nil {
		return 0
	}
	seconds, _, _ := strings.Cut(string(b), " ")
	f, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// diskOf follows a link to a partition and returns its disk's device.
func diskOf(partition string) (string, error) {
	dev, err := filepath.EvalSymlinks(partition)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/class/block", filepath.Base(dev)))
	if err != nil {
		return "", err
	}
	return filepath.Join("/dev", filepath.Base(filepath.Dir(dir))), nil
}

// isMountPoint reports whether another file system begins at dir.
func isMountPoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, err
	}
	if err := unix.Stat(filepath.Dir(dir), &above); err != nil {
		return false, err
	}
	return here.Dev != above.Dev, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func runProgram(ctx context.Context, line func(string), name string, arg ...string) error {
	c := exec.CommandContext(ctx, name, arg...)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c.Stdout, c.Stderr = w, w
	err = c.Start()
	w.Close() // ours; the program has its own
	if err != nil {
		return err
	}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line(in.Text())
	}
	// A line too long for us must not block the program.
	_, err = io.Copy(io.Discard, r)
	return errors.Join(c.Wait(), err)
}
