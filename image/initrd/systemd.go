package initrd

import (
	"path"
	"slices"

	"holdfast.dev/holdfast/image/rootfs"
)

// Systemd makes the initrd of our images: systemd finds the root and its verity
// partition by the roothash= of the kernel's command line, checks, mounts and
// enters it. Whatever keeps it from doing so is printed, and the machine starts
// again. root must have gone through kmod.Depmod; systemd is 257, from Debian.
func Systemd(root *rootfs.Tree, kernelVersion string, mtime int64) (*rootfs.Tree, error) {
	o, err := systemdOptions(root, kernelVersion, mtime)
	if err != nil {
		return nil, err
	}
	return Make(root, o)
}

func systemdOptions(root *rootfs.Tree, kernelVersion string, mtime int64) (Options, error) {
	extra, err := ownFiles(root, kernelVersion, mtime)
	return Options{
		KernelVersion:   kernelVersion,
		Files:           slices.Concat(programs[:], data[:], unitFiles(root)),
		Modules:         modules[:],
		OptionalModules: optionalModules[:],
		Features:        []string{"kmod"},
		Extra:           extra,
		MTime:           mtime,
	}, err
}

// unitDir is where systemd's own units lie.
const unitDir = "usr/lib/systemd/system"

// programs are what the units, the rules and PID 1 call.
var programs = [...]string{
	"usr/lib/systemd/systemd",
	"usr/lib/systemd/systemd-executor",
	"usr/lib/systemd/systemd-fsck",
	"usr/lib/systemd/systemd-journald",
	"usr/lib/systemd/systemd-modules-load",
	"usr/lib/systemd/systemd-shutdown",
	"usr/lib/systemd/systemd-sysctl",
	"usr/lib/systemd/systemd-sysroot-fstab-check",
	"usr/lib/systemd/systemd-udevd",
	"usr/lib/systemd/systemd-veritysetup",
	"usr/lib/systemd/system-generators/systemd-fstab-generator",
	"usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
	"usr/lib/systemd/system-generators/systemd-veritysetup-generator",
	"usr/lib/udev/ata_id",
	"usr/lib/udev/scsi_id",
	"usr/bin/cat",
	"usr/bin/journalctl",
	"usr/bin/kmod",
	"usr/bin/mount",
	"usr/bin/sleep",
	"usr/bin/systemctl",
	"usr/bin/systemd-tmpfiles",
	"usr/bin/udevadm",
	"usr/bin/umount",
	"usr/sbin/dmsetup",
	"usr/sbin/modprobe",
}

// data are the files that these read.
var data = [...]string{
	"usr/lib/modprobe.d/*.conf",
	"usr/lib/tmpfiles.d/static-nodes-permissions.conf",
	"usr/lib/udev/rules.d/50-udev-default.rules",
	"usr/lib/udev/rules.d/55-dm.rules",
	"usr/lib/udev/rules.d/60-block.rules",
	"usr/lib/udev/rules.d/60-persistent-storage.rules",
	"usr/lib/udev/rules.d/60-persistent-storage-dm.rules",
	"usr/lib/udev/rules.d/80-drivers.rules",
	"usr/lib/udev/rules.d/95-dm-notify.rules",
	"usr/lib/udev/rules.d/99-systemd.rules",
}

// units are what PID 1 starts, from the initrd's target to the switch of the
// root, and what stops the machine.
var units = [...]string{
	"basic.target",
	"blockdev@.target",
	"ctrl-alt-del.target",
	"cryptsetup-pre.target",
	"cryptsetup.target",
	"emergency.target",
	"final.target",
	"halt.target",
	"initrd-cleanup.service",
	"initrd-fs.target",
	"initrd-parse-etc.service",
	"initrd-root-device.target",
	"initrd-root-fs.target",
	"initrd-switch-root.service",
	"initrd-switch-root.target",
	"initrd-udevadm-cleanup-db.service",
	"initrd-usr-fs.target",
	"initrd.target",
	"kmod-static-nodes.service",
	"local-fs-pre.target",
	"local-fs.target",
	"modprobe@.service",
	"paths.target",
	"poweroff.target",
	"reboot.target",
	"remote-cryptsetup.target",
	"remote-fs-pre.target",
	"remote-fs.target",
	"remote-veritysetup.target",
	"rescue.target",
	"shutdown.target",
	"slices.target",
	"sockets.target",
	"swap.target",
	"sysinit.target",
	"system-systemd\\x2dveritysetup.slice",
	"systemd-fsck-root.service",
	"systemd-fsck@.service",
	"systemd-halt.service",
	"systemd-journald-dev-log.socket",
	"systemd-journald.service",
	"systemd-journald.socket",
	"systemd-modules-load.service",
	"systemd-poweroff.service",
	"systemd-reboot.service",
	"systemd-sysctl.service",
	"systemd-tmpfiles-setup-dev-early.service",
	"systemd-tmpfiles-setup-dev.service",
	"systemd-udev-trigger.service",
	"systemd-udevd-control.socket",
	"systemd-udevd-kernel.socket",
	"systemd-udevd.service",
	"timers.target",
	"umount.target",
	"veritysetup-pre.target",
	"veritysetup.target",
}

// modules must be there: without one of them some of our targets do not start.
var modules = [...]string{
	"dm_verity", "erofs",
	"virtio_pci", "virtio_blk", "virtio_scsi", "ahci", "nvme", "sd_mod",
}

// optionalModules are those that the small kernel for virtual machines lacks,
// or that only make the start faster or better.
var optionalModules = [...]string{
	// Hashing for dm-verity.
	"sha256_ssse3",
	// Disks of virtual machines and servers.
	"hv_storvsc", "hv_vmbus", "vmw_pvscsi", "xen_blkfront", "mptspi", "mptsas",
	"megaraid_sas", "mpt3sas", "smartpqi", "hpsa", "aacraid", "ata_piix", "vmd",
	"sdhci_pci", "sdhci_acpi", "mmc_block",
	// Disks behind USB.
	"usb_storage", "uas", "xhci_pci", "xhci_hcd", "ehci_pci",
	// What PID 1 looks at: firmware variables, the host's settings, entropy,
	// a watchdog.
	"autofs4", "efivarfs", "qemu_fw_cfg", "dmi_sysfs", "virtio_rng", "i6300esb", "iTCO_wdt", "sp5100_tco", "softdog",
}

// unitFiles are the units, their drop-ins in root, and the links by which a
// target wants one of them.
func unitFiles(root *rootfs.Tree) []string {
	var files []string
	for _, u := range units {
		files = append(files, literal(unitDir+"/"+u))
	}
	for _, f := range root.Files() {
		dir, base := path.Split(f.Path)
		dir, kind := path.Split(path.Clean(dir))
		if path.Clean(dir) != unitDir || f.IsDir() {
			continue
		}
		owner, ext := kind[:len(kind)-len(path.Ext(kind))], path.Ext(kind)
		switch {
		case ext == ".d" && slices.Contains(units[:], owner):
			files = append(files, literal(f.Path))
		case (ext == ".wants" || ext == ".requires") && slices.Contains(units[:], owner) && slices.Contains(units[:], base):
			files = append(files, literal(f.Path))
		}
	}
	return files
}
