package lab

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Config says which machine to run. Dir must be given, and Image or Disk.
type Config struct {
	Dir         string        // its state
	Image       string        // the release's image, raw or qcow2; only read
	Disk        string        // unix socket of an NBD server to boot from, instead of a disk made over Image
	Serial      string        // SMBIOS serial number; default "holdfast-lab"
	MAC         string        // default 52:54:00:12:34:56
	CPUs        int           // default 2
	MemoryMiB   int           // default 4096
	DiskGiB     int           // default 24; of the disk made over Image
	Forward     map[int]int   // port of 127.0.0.1 to port of the guest; its 6443 always has one
	Network     string        // name in Dir of a unix socket where the network begins, instead of one with no way out; see package sink. It has to lead the forwards in
	SecureBoot  bool          // firmware that lets only signed code boot
	ClockAhead  time.Duration // of the machine's clock at power-on
	Accel       string        // "kvm" or "tcg"; default: what Probe answers
	Fresh       bool          // begin with a new disk and new firmware variables
	Backup      string        // with RecoveryKey and Fresh: on a stick that is plugged in at power-on
	RecoveryKey string        // the private key that opens it
	QEMUArgs    []string      // appended as they are, for tests
	Host        Host

	bios bool // boot a sector rather than a release
}

const apiPort = 6443 // of the Kubernetes API in the guest

// state is config.json: what the directory's disk was made from and how the
// machine was started.
type state struct {
	Image     imageID     `json:"image,omitzero"`
	Disk      string      `json:"disk,omitempty"` // the socket, as QEMU is given it
	Accel     Accel       `json:"accel"`
	Serial    string      `json:"serial"`
	MAC       string      `json:"mac"`
	CPUs      int         `json:"cpus"`
	MemoryMiB int         `json:"memoryMiB"`
	DiskGiB   int         `json:"diskGiB"`
	Forward   map[int]int `json:"forward"`
	Secure    bool        `json:"secureBoot"`
	Network   string      `json:"network,omitempty"`
	Clock     string      `json:"clock,omitempty"` // at power-on, UTC; empty: this host's
}

// imageID tells whether the overlay's backing file is still the one it was
// made over; over any other, it is garbage.
type imageID struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime"` // nanoseconds
}

// WithDefaults fills in what is not given.
func (c Config) WithDefaults() Config {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&c.CPUs, 2)
	set(&c.MemoryMiB, 4096)
	set(&c.DiskGiB, 24)
	if c.Serial == "" {
		c.Serial = "holdfast-lab"
	}
	if c.MAC == "" {
		c.MAC = "52:54:00:12:34:56"
	}
	return c
}

// check returns all that is wrong with the values of c.
func (c Config) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("cannot start the lab: "+format, args...))
	}
	if c.Dir == "" {
		bad("no directory given")
	}
	if c.Disk != "" && c.Image != "" {
		bad("both an image and a disk given\nhint: the disk's server has the image")
	}
	if c.Network != "" && (!filepath.IsLocal(c.Network) || filepath.Base(c.Network) != c.Network) {
		bad("the network's socket %q is not in the lab's directory", c.Network)
	}
	if mac, err := net.ParseMAC(c.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		bad("%q is no MAC address of a network card", c.MAC)
	}
	if strings.ContainsFunc(c.Serial, func(r rune) bool { return !unicode.IsPrint(r) }) || len(c.Serial) > 64 {
		bad("the serial number %q has unprintable characters or more than 64", c.Serial)
	}
	if c.CPUs < 1 || c.MemoryMiB < 32 || c.DiskGiB < 1 {
		bad("%d CPUs, %d MiB of memory, %d GiB of disk are too few", c.CPUs, c.MemoryMiB, c.DiskGiB)
	}
	if c.Accel != "" && c.Accel != "kvm" && c.Accel != "tcg" {
		bad("%q is neither kvm nor tcg\nhint: leave it out to have it probed", c.Accel)
	}
	for h, g := range c.Forward {
		if h < 1 || h > 65535 || g < 1 || g > 65535 {
			bad("cannot forward port %d to %d", h, g)
		} else if c.Network == "" && !portFree(h) {
			bad("port %d of 127.0.0.1 is in use\nhint: forward another one, or end what listens there (ss -ltnp)", h)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// withAPI adds a forward to the Kubernetes API where there is none: the port
// used before if it is free, so that kubeconfigs stay good, else any.
func withAPI(forward, before map[int]int) (map[int]int, error) {
	out := map[int]int{}
	for h, g := range forward {
		out[h] = g
		if g == apiPort {
			before = nil
		}
	}
	if _, ok := portTo(out, apiPort); ok {
		return out, nil
	}
	if h, ok := portTo(before, apiPort); ok && out[h] == 0 && portFree(h) {
		out[h] = apiPort
		return out, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot find a free port: %w", err)
	}
	defer l.Close()
	out[l.Addr().(*net.TCPAddr).Port] = apiPort
	return out, nil
}

// portTo is the lowest host port that leads to the guest's.
func portTo(forward map[int]int, guest int) (int, bool) {
	best := 0
	for h, g := range forward {
		if g == guest && (best == 0 || h < best) {
			best = h
		}
	}
	return best, best != 0
}

func readState(dir string) (state, error) {
	var s state
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

func identifyImage(name string) (imageID, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return imageID{}, err
	}
	fi, err := os.Stat(abs)
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	if err != nil {
		return imageID{}, fmt.Errorf("cannot find the image %q: %w\nhint: build the release first (holdfast build), or name another image", name, err)
	}
	return imageID{abs, fi.Size(), fi.ModTime().UnixNano()}, nil
}

// maxSocket is the length of a unix socket's address without its final NUL.
const maxSocket = 107

// findDisk checks that the socket is there and returns its name as QEMU, which
// runs in dir, is given it.
func findDisk(dir, socket string) (string, error) {
	abs, err := filepath.Abs(socket)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	fi, err := os.Stat(abs)
	if err == nil && fi.Mode().Type() != os.ModeSocket {
		err = errors.New("not a socket")
	}
	if err != nil {
		return "", fmt.Errorf("cannot find the disk %q: %w\nhint: its server must listen before the lab starts", socket, err)
	}
	name := abs
	if rel, err := filepath.Rel(dir, abs); err == nil && filepath.IsLocal(rel) {
		name = rel
	}
	if len(name) > maxSocket {
		return "", fmt.Errorf("cannot use the disk %q: its path has more than %d bytes\nhint: put the socket into the lab's directory", socket, maxSocket)
	}
	return name, nil
}

// checkImage returns the image's format, if it fits a disk of gib.
func checkImage(name string, gib int) (format string, err error) {
	format, size, err := imageSize(name)
	if err == nil && size > int64(gib)<<30 {
		err = fmt.Errorf("cannot make the lab's disk: the image has %d MiB, more than %d GiB\nhint: ask for a disk of %d GiB", size>>20, gib, (size+(1<<30)-1)>>30)
	}
	return format, err
}

// imageSize returns the format and the size of the disk in an image file.
func imageSize(name string) (format string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var head [32]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return "", 0, fmt.Errorf("cannot read the image %s: %w", name, err)
	}
	if string(head[:4]) == "QFI\xfb" {
		return "qcow2", int64(binary.BigEndian.Uint64(head[24:])), nil
	}
	fi, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	return "raw", fi.Size(), nil
}

// makeDisk makes the overlay; disk.qcow2 is there whole or not at all.
func makeDisk(ctx context.Context, qemuImg, dir, image, format string, gib int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuImg, "create", "-q", "-f", "qcow2", "-F", format, "-b", image, "disk.new", fmt.Sprintf("%dG", gib))
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the lab's disk: %w: %s", err, lastLine(out))
	}
	return os.Rename(filepath.Join(dir, "disk.new"), filepath.Join(dir, "disk.qcow2"))
}
