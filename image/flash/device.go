// Package flash writes a disk image onto a whole block device: finds out what
// the device is and whether it may be overwritten, writes, and reads back. A
// device that was not written to its end does not boot.
//
// It is for Linux: devices are described by sysfs and procfs.
package flash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// sectorSize is that of the images' partition tables.
const sectorSize = 512

// maxAttribute bounds what is read from a file of sysfs or procfs.
const maxAttribute = 4 << 20

// System is where the kernel describes itself; the zero value is this machine.
type System struct {
	Sys, Proc, Dev, Run string // default /sys, /proc, /dev, /run
}

// Device is a whole disk.
type Device struct {
	Path      string   `json:"path"`
	Model     string   `json:"model,omitempty"`
	Serial    string   `json:"serial,omitempty"`
	Size      int64    `json:"size"` // bytes
	Removable bool     `json:"removable"`
	Content   Content  `json:"content"`
	Refusals  []string `json:"refusals,omitempty"` // why it may not be written; none: it may

	number uint64 // major and minor, as in Stat_t.Rdev
}

// Need is what a device must be to be written.
type Need struct {
	Size   int64  // bytes that it must have at least
	Serial string // if not empty, the only serial accepted
	Image  string // the file to be written, which the device must not lie in
}

// Usable reports whether the device may be written.
func (d Device) Usable() bool { return len(d.Refusals) == 0 }

// String names the device for people.
func (d Device) String() string {
	s := d.Path
	if d.Model != "" {
		s += ", " + d.Model
	}
	if d.Serial != "" {
		s += ", serial " + d.Serial
	}
	return s
}

// List describes all disks, in order of their names, and says of each why it
// may not be written. Disks in memory, optical drives and what is made of
// other disks are left out, as are loop devices without a file.
func (s System) List(need Need) ([]Device, error) {
	g, err := s.graph()
	if err != nil {
		return nil, err
	}
	var out []Device
	for _, n := range g.disks() {
		if skipped(n) {
			continue
		}
		d, err := s.describe(g, n, need)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func skipped(n *node) bool {
	for _, p := range []string{"ram", "zram", "sr", "fd", "dm-", "md"} {
		if rest, ok := strings.CutPrefix(n.name, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	return n.size == 0 && strings.HasPrefix(n.name, "loop")
}

// Find describes the disk behind a device node or a link to one. That it may
// not be written is no error, but in its Refusals.
func (s System) Find(path string, need Need) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, fmt.Errorf("cannot find device: %w", &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Device{}, fmt.Errorf("cannot use %s: it is no block device\nhint: \"holdfast flash --list\" shows the devices there are", path)
	}
	g, err := s.graph()
	if err != nil {
		return Device{}, err
	}
	n := g.byNumber[st.Rdev]
	switch {
	case n == nil:
		return Device{}, fmt.Errorf("cannot use %s: the kernel describes no device %d:%d", path, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case n.parent != nil:
		return Device{}, fmt.Errorf("cannot use %s: it is a partition\nhint: name the whole disk, %s", path, s.devPath(n.parent.name))
	}
	return s.describe(g, n, need)
}

func (s System) devPath(name string) string {
	return filepath.Join(or(s.Dev, "/dev"), strings.ReplaceAll(name, "!", "/"))
}

// describe reads all about a disk.
func (s System) describe(g *graph, n *node, need Need) (Device, error) {
	d := Device{
		Path: s.devPath(n.name), Size: n.size, number: n.number,
		Removable: s.attr(n.dir, "removable") == "1",
		Model:     s.model(n), Serial: s.serial(n),
	}
	uses, err := s.uses(g, n)
	if err != nil {
		return d, err
	}
	d.Refusals = uses
	no := func(format string, args ...any) { d.Refusals = append(d.Refusals, fmt.Sprintf(format, args...)) }
	if s.attr(n.dir, "ro") == "1" {
		no("is read-only")
	}
	switch sector := s.attr(n.dir, "queue/logical_block_size"); {
	case d.Size == 0:
		no("has no medium")
	case sector != "" && sector != strconv.Itoa(sectorSize):
		no("has sectors of %s bytes, where images are made for %d", sector, sectorSize)
	case d.Size < need.Size:
		no("has %d bytes, where %d are needed", d.Size, need.Size)
	}
	if need.Serial != "" && d.Serial != need.Serial {
		no("has the serial %q, not %q", d.Serial, need.Serial)
	}
	if n.file != "" && sameFile(n.file, need.Image) {
		no("lies in the image itself")
	}
	if d.Size > 0 {
		busy, content, err := probe(d.Path, d.Size)
		switch {
		case err != nil:
			d.Content.Fault = err.Error()
		case busy && len(uses) == 0:
			no("is in use, by another mount namespace or another program")
		}
		if err == nil {
			d.Content = content
		}
	}
	return d, nil
}

// probe reads what a disk contains, and whether somebody holds it.
func probe(path string, size int64) (busy bool, c Content, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EBUSY) {
		busy = true
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return busy, c, err
	}
	defer f.Close()
	return busy, ReadContent(f, size), nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}

// model is the maker's name of a disk, or the file of a loop device.
func (s System) model(n *node) string {
	if n.file != "" {
		return "file " + clean(n.file)
	}
	model := or(s.attr(n.dir, "device/model"), s.attr(n.dir, "device/name"))
	if vendor := s.attr(n.dir, "device/vendor"); vendor != "" && vendor != "ATA" && !strings.HasPrefix(vendor, "0x") {
		model = strings.TrimSpace(vendor + " " + model)
	}
	return model
}

// serial looks where the kinds of disks have it: virtio in its own folder,
// NVMe and MMC in their device's, SCSI and ATA in page 0x80 of the vital product
// data, USB in a device above; and last in what udev knows.
func (s System) serial(n *node) string {
	if v := or(s.attr(n.dir, "serial"), s.attr(n.dir, "device/serial")); v != "" {
		return v
	}
	// A page is a header of 4 bytes, of which the last two are its length.
	if b := s.read(n.dir, "device/vpd_pg80"); len(b) > 4 && b[1] == 0x80 {
		if v := printable(b[4:]); v != "" {
			return v
		}
	}
	if dir, err := filepath.EvalSymlinks(filepath.Join(n.dir, "device")); err == nil {
		for range 8 {
			dir = filepath.Dir(dir)
			if s.attr(dir, "idVendor") != "" {
				return s.attr(dir, "serial")
			}
		}
	}
	name := fmt.Sprintf("udev/data/b%d:%d", unix.Major(n.number), unix.Minor(n.number))
	for line := range strings.Lines(string(s.read(or(s.Run, "/run"), name))) {
		if v, ok := strings.CutPrefix(line, "E:ID_SERIAL_SHORT="); ok {
			return printable([]byte(v))
		}
	}
	return ""
}

// attr is a one-line file below dir, cleaned of what a terminal would obey.
func (s System) attr(dir, name string) string { return printable(s.read(dir, name)) }

func (s System) read(dir, name string) []byte {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAttribute))
	if err != nil {
		return nil
	}
	return b
}

// printable keeps the ASCII of an identification, which a device may have
// padded with zeros and blanks.
func printable(b []byte) string {
	b = bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, b)
	return strings.Join(strings.Fields(string(b)), " ")
}

// clean takes from a name what a terminal would obey.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// names lists a folder; one that is not there is empty.
func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}
