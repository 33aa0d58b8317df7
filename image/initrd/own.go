package initrd

import (
	"fmt"
	"io"
	"strings"

	"holdfast.dev/holdfast/image/kmod"
	"holdfast.dev/holdfast/image/rootfs"
)

// emergency takes the place of the shell that nobody could log in to: without
// it a machine on a rack would wait for ever.
const emergency = `[Unit]
Description=Print why the start failed, and start again
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
SuccessAction=reboot-force
FailureAction=reboot-force

[Service]
Type=oneshot
Environment=SYSTEMD_COLORS=0
StandardInput=data
StandardInputText=\n\n\
  ==== holdfast: the operating system could not be entered ====\n\
  What failed comes below; the machine starts again in 15 seconds.\n
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
ExecStart=-/usr/bin/cat
ExecStart=-/usr/bin/systemctl list-units --failed --plain --no-legend --no-pager --full
ExecStart=-/usr/bin/systemctl list-jobs --plain --no-legend --no-pager --full
ExecStart=-/usr/bin/journalctl --boot --facility=daemon --priority=warning --lines=30 --output=cat --no-pager
ExecStart=-/usr/bin/journalctl --boot --dmesg --priority=err --lines=20 --output=cat --no-pager
ExecStart=-/usr/bin/sleep 15
TimeoutStartSec=60
`

// manager makes a crash of PID 1 a restart as well, and gives disks that are
// slow to come up longer than the usual 90 seconds.
const manager = `[Manager]
CrashAction=reboot
DefaultDeviceTimeoutSec=180
DefaultEnvironment=PATH=/usr/bin:/usr/sbin
`

// modulesLoad names what is loaded without a device asking for it; the quicker
// hash comes first, so that dm-verity finds it.
const modulesLoad = "sha256_ssse3\ndm_verity\nerofs\n"

// groups are those that udev's rules and device nodes name, with Debian's fixed
// numbers; the root's own file takes their place where it has one.
const groups = `root:x:0:
adm:x:4:
tty:x:5:
disk:x:6:
lp:x:7:
dialout:x:20:
cdrom:x:24:
tape:x:26:
audio:x:29:
video:x:44:
users:x:100:
nogroup:x:65534:
kmem:x:15:
input:x:995:
sgx:x:994:
kvm:x:993:
render:x:992:
clock:x:991:
systemd-journal:x:999:
`

const users = `root:x:0:0:root:/root:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`

// ownFiles are the files of the initrd that are not those of the root.
func ownFiles(root *rootfs.Tree, kernelVersion string, mtime int64) (*rootfs.Tree, error) {
	t := rootfs.New(mtime)
	release, err := readText(root, "usr/lib/os-release")
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"etc/hostname":                                   "",
		"etc/machine-id":                                 "",
		"etc/modules-load.d/holdfast.conf":               present(root, kernelVersion, modulesLoad),
		"etc/systemd/system.conf.d/holdfast.conf":        manager,
		"etc/systemd/system/emergency.service":           emergency,
		"etc/systemd/journald.conf.d/holdfast.conf":      "[Journal]\nStorage=volatile\n",
		"usr/lib/initrd-release":                         release,
		"usr/lib/os-release":                             release,
		"etc/nsswitch.conf":                              "passwd: files\ngroup: files\nshadow: files\n",
		"etc/passwd":                                     users,
		"etc/group":                                      groups,
		"usr/lib/modprobe.d/holdfast-initrd-verity.conf": "softdep dm_verity pre: sha256_ssse3\n",
	}
	for _, n := range []string{"etc/passwd", "etc/group"} {
		if _, ok := root.Stat(n); ok {
			if files[n], err = readText(root, n); err != nil {
				return nil, err
			}
		}
	}
	for name, text := range files {
		if err := t.WriteFile(name, []byte(text), 0o644, mtime); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"dev", "proc", "root", "run", "sys", "sysroot", "tmp", "var"} {
		if err := t.Mkdir(d, 0o755, mtime); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]string{
		"init":                                   "usr/lib/systemd/systemd",
		"etc/initrd-release":                     "../usr/lib/initrd-release",
		"etc/os-release":                         "../usr/lib/os-release",
		"etc/systemd/system/rescue.service":      "emergency.service",
		"etc/systemd/system/debug-shell.service": "/dev/null",
		"var/run":                                "/run",
	} {
		if err := t.Symlink(target, name, mtime); err != nil {
			return nil, err
		}
	}
	// The kernel gives init this as its output, before there is a /dev.
	return t, t.Put(rootfs.File{Path: "dev/console", Mode: rootfs.TypeChar | 0o600, Major: 5, Minor: 1, MTime: mtime})
}

// present drops from a list of modules those that the kernel does not have.
func present(root *rootfs.Tree, kernelVersion, list string) string {
	deps, err := kmod.ReadDeps(root, kernelVersion)
	if err != nil {
		return "" // Make says so, with all else that is missing
	}
	var out strings.Builder
	for name := range strings.Lines(list) {
		if deps.Has(strings.TrimSpace(name)) {
			out.WriteString(name)
		}
	}
	return out.String()
}

// readText reads a small file of the root.
func readText(root *rootfs.Tree, name string) (string, error) {
	f, ok := root.Stat(name)
	if !ok {
		return "", fmt.Errorf("cannot find /%s", name)
	}
	if f.Size() > 1<<20 {
		return "", fmt.Errorf("cannot read /%s: %d bytes", name, f.Size())
	}
	r, err := f.Open()
	if err != nil {
		return "", fmt.Errorf("cannot read /%s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("cannot read /%s: %w", name, err)
	}
	return string(b), nil
}
