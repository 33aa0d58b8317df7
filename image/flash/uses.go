package flash

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// node is a disk or a partition.
type node struct {
	name    string
	dir     string // in sysfs
	number  uint64
	size    int64
	parent  *node    // of a partition
	holders []string // what is made of it: device mapper, RAID, bcache
	file    string   // what a loop device lies in
}

// graph is all block devices and how they build on each other.
type graph struct {
	byName   map[string]*node
	byNumber map[uint64]*node
}

func (s System) graph() (*graph, error) {
	g := &graph{map[string]*node{}, map[uint64]*node{}}
	base := filepath.Join(or(s.Sys, "/sys"), "block")
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, fmt.Errorf("cannot list devices: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(base, e.Name())
		disk := s.addNode(g, e.Name(), dir, nil)
		for _, p := range names(dir) {
			if s.attr(filepath.Join(dir, p), "partition") != "" {
				s.addNode(g, p, filepath.Join(dir, p), disk)
			}
		}
	}
	// A loop device over another device is held by no holder.
	for _, n := range g.byName {
		var st unix.Stat_t
		if n.file == "" || unix.Stat(n.file, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue
		}
		if below := g.byNumber[st.Rdev]; below != nil && below != n {
			below.holders = append(below.holders, n.name)
		}
	}
	return g, nil
}

func (s System) addNode(g *graph, name, dir string, parent *node) *node {
	n := &node{name: name, dir: dir, parent: parent, holders: names(filepath.Join(dir, "holders"))}
	// The file is in the kernel's words: no cleaning of its name here.
	n.file = strings.TrimSuffix(string(s.read(dir, "loop/backing_file")), "\n")
	if sectors, err := strconv.ParseInt(s.attr(dir, "size"), 10, 64); err == nil && sectors > 0 && sectors < 1<<53 {
		n.size = sectors * 512 // in sysfs always of 512 bytes
	}
	g.byName[name] = n
	if number, ok := parseNumber(s.attr(dir, "dev")); ok {
		n.number = number
		g.byNumber[number] = n
	}
	return n
}

func parseNumber(s string) (uint64, bool) {
	a, b, ok := strings.Cut(s, ":")
	major, err := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return unix.Mkdev(uint32(major), uint32(minor)), ok && err == nil && err2 == nil
}

// disks are the whole disks in order of name, sda9 before sda10.
func (g *graph) disks() []*node {
	var out []*node
	for _, n := range g.byName {
		if n.parent == nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *node) int {
		if len(a.name) != len(b.name) && strings.TrimRight(a.name, "0123456789") == strings.TrimRight(b.name, "0123456789") {
			return len(a.name) - len(b.name)
		}
		return strings.Compare(a.name, b.name)
	})
	return out
}

// above is n, its partitions and all that is made of them.
func (g *graph) above(n *node) []*node {
	out := []*node{n}
	for i := 0; i < len(out); i++ {
		at := out[i]
		var next []*node
		for _, o := range g.byName {
			if o.parent == at || slices.Contains(at.holders, o.name) {
				next = append(next, o)
			}
		}
		slices.SortFunc(next, func(a, b *node) int { return strings.Compare(a.name, b.name) })
		for _, o := range next {
			if !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
	}
	return out
}

// system are the places without which a machine does not run.
var system = []string{"/", "/usr", "/boot", "/boot/efi", "/efi", "/var", "/etc", "/nix", "/sysroot"}

// uses says who uses a disk: mounts, swap, and other devices.
func (s System) uses(g *graph, disk *node) ([]string, error) {
	mounts, err := s.mounts()
	if err != nil {
		return nil, err
	}
	swaps := s.swaps()
	var out []string
	for _, below := range names(filepath.Join(disk.dir, "slaves")) {
		out = append(out, "is made of "+below)
	}
	for _, n := range g.above(disk) {
		via := ""
		if n != disk {
			via = " (" + n.name + ")"
		}
		for _, m := range mounts {
			if n.number == 0 || m.number != n.number && m.source != n.number {
				continue
			}
			if slices.Contains(system, m.point) {
				out = append(out, "holds the running system: "+m.point+via)
			} else {
				out = append(out, "is mounted at "+clean(m.point)+via)
			}
		}
		if slices.Contains(swaps, n.number) {
			out = append(out, "is swapped to"+via)
		}
		if n != disk && n.parent == nil {
			out = append(out, "is part of "+n.name)
		}
	}
	// All disks of a btrfs belong to it, of which a mount names one.
	pools := filepath.Join(or(s.Sys, "/sys"), "fs", "btrfs")
	for _, pool := range names(pools) {
		for _, member := range names(filepath.Join(pools, pool, "devices")) {
			if n := g.byName[member]; n != nil && slices.Contains(g.above(disk), n) {
				out = append(out, "is part of the mounted btrfs "+pool)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// mount is a line of mountinfo.
type mount struct {
	number, source uint64 // the file system's device, and the one that was mounted
	point          string
}

// mounts reads /proc/self/mountinfo, proc_pid_mountinfo(5).
func (s System) mounts() ([]mount, error) {
	f, err := os.Open(filepath.Join(or(s.Proc, "/proc"), "self", "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("cannot see what is mounted: %w", err)
	}
	defer f.Close()
	var out []mount
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, maxAttribute)
	for sc.Scan() {
		left, right, ok := strings.Cut(sc.Text(), " - ")
		a, b := strings.Fields(left), strings.Fields(right)
		if !ok || len(a) < 5 || len(b) < 2 {
			return nil, fmt.Errorf("cannot see what is mounted: the line %q", sc.Text())
		}
		m := mount{point: unescape(a[4])}
		m.number, _ = parseNumber(a[2])
		m.source = blockNumber(unescape(b[1]))
		if m.source != 0 || unix.Major(m.number) != 0 {
			out = append(out, m)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("cannot see what is mounted: %w", err)
	}
	return out, nil
}

// swaps are the devices that are swapped to, whole or to a file on them.
func (s System) swaps() []uint64 {
	var out []uint64
	for i, line := range strings.Split(string(s.read(or(s.Proc, "/proc"), "swaps")), "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) < 2 {
			continue
		}
		var st unix.Stat_t
		if name := unescape(fields[0]); unix.Stat(name, &st) == nil {
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				out = append(out, st.Rdev)
			} else {
				out = append(out, st.Dev)
			}
		}
	}
	return out
}

// blockNumber is the device of a node, or 0.
func blockNumber(path string) uint64 {
	var st unix.Stat_t
	if !strings.HasPrefix(path, "/") || unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0
	}
	return st.Rdev
}

// unescape resolves the octal escapes of procfs: \040 is a blank.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
