// Package image plans and assembles the operating system of a release, and
// writes the disk that carries it.
package image

import (
	"fmt"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/overlays"
)

// OSSet is the name of the OS root's package set in the lock.
const OSSet = "os"

// Sizes of the partitions in bytes. They are fixed for a disk's life: an
// update writes into the same slots.
const (
	ESPSize    = 512 << 20
	RootSize   = 2 << 30
	VeritySize = 32 << 20
	// Fill is how much of a slot a build may use, so that the next fits too.
	FillPercent = 80
)

// basePackages are in every OS root; what they do there is beside them.
var basePackages = []string{
	"base-files", "base-passwd", "netbase", "tzdata", // the tree, accounts, names
	"systemd", "systemd-sysv", "libnss-systemd", "libpam-systemd", "udev", "dbus-broker",
	"systemd-boot", "systemd-boot-efi", "systemd-boot-tools", // the loader and the UKI stub
	"systemd-cryptsetup", "cryptsetup-bin", "systemd-repart", "e2fsprogs", // verity, var
	"systemd-resolved", "systemd-timesyncd",
	"kmod", "liblzma5", // libkmod opens liblzma for compressed modules at run time
	"bash", "coreutils", "util-linux", "mount", "login", "passwd", "procps",
	"grep", "sed", "findutils", "debianutils", "mawk",
	"iproute2", "ethtool", "conntrack", "socat", "iptables", "nftables", "ca-certificates",
}

// baseExcludes are dependencies that an appliance has no use for.
var baseExcludes = []deb.Exclude{
	{Name: "debconf", Reason: "asks questions in maintainer scripts, which never run"},
	{Name: "init-system-helpers", Reason: "only maintainer scripts use it"},
	{Name: "linux-base", Reason: "links for kernels of a package manager; we have one kernel in the UKI"},
	{Name: "initramfs-tools", Reason: "holdfast makes the initrd"},
}

// kernelPackage is the meta package of each flavour.
var kernelPackage = map[string]string{
	"cloud":   "linux-image-cloud-amd64",
	"generic": "linux-image-amd64",
}

// Packages is what the OS root of a site asks for, before resolution.
func Packages(site overlays.Site) (want []string, exclude []deb.Exclude, err error) {
	kernel, ok := kernelPackage[site.OS.Kernel]
	if !ok {
		return nil, nil, fmt.Errorf("cannot plan the OS: no kernel %q", site.OS.Kernel)
	}
	want = append(want, basePackages...)
	if site.Kubernetes.Engine != "k3s" {
		want = append(want, enginePackages...)
	}
	want = append(want, kernel)
	exclude = append(exclude, baseExcludes...)
	if site.OS.Kernel == "generic" {
		want = append(want, hardwarePackages...)
		exclude = append(exclude, hardwareExcludes...)
	}
	want = append(want, site.OS.Packages...)
	for _, e := range site.OS.Exclude {
		exclude = append(exclude, deb.Exclude{Name: e.Name, Reason: e.Reason})
	}
	return want, exclude, nil
}

// Program is a compiled program in the OS root.
type Program struct {
	Recipe string `json:"recipe"`
	Name   string `json:"name"`
	Path   string `json:"path"` // in the root
}

// Plan says what the OS image will hold; it is a pure value of site and lock.
type Plan struct {
	Name     string           `json:"name"`
	Suite    string           `json:"suite"`
	Zone     string           `json:"zone"`   // the only one whose releases the node takes
	Kernel   string           `json:"kernel"` // flavour
	Epoch    int64            `json:"epoch"`
	Packages []airgap.Package `json:"packages"` // in order of unpacking
	Programs []Program        `json:"programs"`
	Engine   string           `json:"engine,omitempty"` // whose files are added to the root; see engines
	Cmdline  []string         `json:"cmdline"`          // without the root hash
	Dropped  []string         `json:"dropped"`
	Masked   []string         `json:"masked"`
}

// MakePlan plans the OS image. It fails where the lock does not hold what the
// site asks for.
func MakePlan(site overlays.Site, lock airgap.Lock, programs []Program) (Plan, error) {
	want, _, err := Packages(site)
	if err != nil {
		return Plan{}, err
	}
	set, ok := lock.Set(OSSet)
	if !ok || strings.Join(set.Want, " ") != strings.Join(want, " ") {
		return Plan{}, fmt.Errorf("cannot plan the OS: %s does not hold the packages that site.yaml asks for\nhint: run \"holdfast lock\"", airgap.LockName)
	}
	ps, err := lock.PackagesOf(OSSet)
	if err != nil {
		return Plan{}, err
	}
	engine := ""
	if site.Kubernetes.Engine == "k3s" {
		engine = "k3s"
	}
	return Plan{
		Name:     site.Name,
		Suite:    site.OS.Suite,
		Zone:     site.Zone,
		Kernel:   site.OS.Kernel,
		Epoch:    lock.Epoch,
		Packages: ps,
		Programs: programs,
		Engine:   engine,
		Cmdline: []string{
			"systemd.verity_root_options=panic-on-corruption",
			// Long enough to be read, and at most a minute from boot to boot.
			"panic=20",
			// A partition table that an interrupted update tore: take the backup.
			"gpt",
			"systemd.machine_id=firmware",
			"systemd.getty_auto=no",
			// Firmware tables, hypervisor and ESP are not signed.
			"systemd.import_credentials=no",
			"console=tty0",
			"console=ttyS0,115200",
			"quiet",
			"loglevel=4",
			"lockdown=integrity",
			"holdfast.epoch=" + strconv.FormatInt(lock.Epoch, 10),
		},
		Dropped: dropped,
		Masked:  masked,
	}, nil
}

// CommandLine is the kernel's, for a release whose root has that hash.
func (p Plan) CommandLine(rootHash string, release int64) string {
	return fmt.Sprintf("roothash=%s holdfast.release=%d %s", rootHash, release, strings.Join(p.Cmdline, " "))
}
