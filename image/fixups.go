package image

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// osFiles is laid out as on the node: our units and settings.
//
//go:embed all:files
var osFiles embed.FS

// A fix-up does to the tree what an appliance needs of the maintainer scripts
// that holdfast never runs. The lock's verdicts name them.
type fixup struct {
	name string
	why  string
	do   func(t *rootfs.Tree, mtime int64) error
}

// fixups run in this order over the unpacked packages.
var fixups = []fixup{
	{"drop", "manuals, other languages, init scripts and package managers' state have no reader on a node", drop},
	{"accounts", "base-passwd and sysusers.d make the accounts; the root is read-only at boot", accounts},
	{"alternatives", "update-alternatives names one of several programs", alternatives},
	{"ca-bundle", "update-ca-certificates concatenates the certificates", caBundle},
	{"identity", "the machine's identity comes from the firmware, its name from the site", identity},
	{"units", "what presets enable and what a read-only node must not start", units},
	{"settings", "the files under image/files", settings},
	{"directories", "mount points and directories that no package ships", directories},
}

func applyFixups(t *rootfs.Tree, mtime int64) error {
	for _, f := range fixups {
		if err := f.do(t, mtime); err != nil {
			return fmt.Errorf("cannot apply fix-up %s: %w", f.name, err)
		}
	}
	return nil
}

// dropped are directories whose content is left out of the OS root.
var dropped = []string{
	"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale",
	"usr/share/lintian", "usr/share/bash-completion", "usr/share/zsh", "usr/share/fish",
	"usr/share/perl5", "usr/share/bug", "usr/share/initramfs-tools", "usr/share/gdb",
	"usr/share/common-licenses", "usr/share/doc-base", "usr/share/menu",
	"etc/init.d", "etc/rc0.d", "etc/rc1.d", "etc/rc2.d", "etc/rc3.d", "etc/rc4.d",
	"etc/rc5.d", "etc/rc6.d", "etc/rcS.d", "etc/initramfs-tools", "etc/initramfs",
	"etc/kernel", "etc/apt", "etc/dpkg", "etc/cron.d", "etc/cron.daily",
	"usr/lib/systemd/catalog", "boot",
}

// Dropped reports whether a package's file at path is left out of the OS
// root. Copyright files stay: the licences ask for it.
func Dropped(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") && path.Base(name) == "copyright" {
		return false
	}
	// The kernel is taken for the UKI before the rest of /boot goes.
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		return false
	}
	for _, d := range dropped {
		if strings.HasPrefix(name, d+"/") {
			return true
		}
	}
	return false
}

func drop(t *rootfs.Tree, _ int64) error {
	for _, d := range dropped {
		if f, ok := t.Get(d); ok && f.IsDir() && d != "usr/share/doc" { // licences
			t.Remove(d)
		}
	}
	// Everything below /var is made by tmpfiles.d on the writable partition.
	for _, f := range t.Files() {
		if path.Dir(f.Path) == "var" {
			t.Remove(f.Path)
		}
	}
	return nil
}

func alternatives(t *rootfs.Tree, mtime int64) error {
	links := []struct{ name, target string }{
		{"usr/bin/awk", "mawk"},
		{"usr/bin/which", "which.debianutils"},
		{"usr/bin/sh", "bash"},
	}
	for _, p := range []string{"iptables", "ip6tables"} {
		for _, s := range []string{"", "-save", "-restore"} {
			links = append(links, struct{ name, target string }{"usr/sbin/" + p + s, "xtables-nft-multi"})
		}
	}
	for _, l := range links {
		if _, there := t.Get(l.name); there {
			continue
		}
		if _, ok := t.Get(path.Join(path.Dir(l.name), l.target)); !ok {
			continue
		}
		if err := t.Symlink(l.target, l.name, mtime); err != nil {
			return err
		}
	}
	return nil
}

func caBundle(t *rootfs.Tree, mtime int64) error {
	var bundle bytes.Buffer
	for _, f := range t.Files() {
		if !strings.HasPrefix(f.Path, "usr/share/ca-certificates/") || path.Ext(f.Path) != ".crt" {
			continue
		}
		b, err := t.ReadFile(f.Path, 1<<20)
		if err != nil {
			return err
		}
		bundle.Write(bytes.TrimRight(b, "\n"))
		bundle.WriteByte('\n')
	}
	if bundle.Len() == 0 {
		return nil
	}
	return t.WriteFile("etc/ssl/certs/ca-certificates.crt", bundle.Bytes(), 0o644, mtime)
}

func identity(t *rootfs.Tree, mtime int64) error {
	t.Remove("etc/hostname")
	t.Remove("etc/resolv.conf")
	return errors.Join(
		// Empty, and systemd.machine_id=firmware on the command line. The word
		// "uninitialized" would make every boot of a read-only /etc a first one.
		t.WriteFile("etc/machine-id", nil, 0o444, mtime),
		t.Symlink("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf", mtime),
		// The agent writes it; until then "myhostname" knows localhost.
		t.Symlink("../run/holdfast/hosts", "etc/hosts", mtime),
		t.Symlink("/usr/share/zoneinfo/Etc/UTC", "etc/localtime", mtime),
		t.Symlink("../proc/self/mounts", "etc/mtab", mtime),
	)
}

// masked units either write to the read-only root, ask a person at the
// console, or could harm the signed boot chain.
var masked = []string{
	"ldconfig.service", "systemd-firstboot.service", "systemd-machine-id-commit.service",
	"systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
	"systemd-update-done.service", "systemd-sysusers.service", "systemd-boot-update.service",
	"systemd-bless-boot.service", "getty.target", "getty-static.service", "console-getty.service",
	"systemd-ask-password-console.path", "systemd-ask-password-wall.path",
	"systemd-homed.service", "systemd-userdbd.socket", "systemd-nsresourced.socket",
	"systemd-mountfsd.socket", "e2scrub_reap.service", "nftables.service",
	"proc-sys-fs-binfmt_misc.automount", "systemd-hibernate-clear.service",
	"debug-shell.service", "ctrl-alt-del.target",
}

// enabled are the links that presets would make.
var enabled = []struct{ unit, wantedBy string }{
	{"holdfast-serve.service", "multi-user.target"},
	{"holdfast-agent.service", "multi-user.target"},
	{"systemd-networkd.service", "multi-user.target"},
	{"systemd-networkd.socket", "sockets.target"},
	{"systemd-resolved.service", "sysinit.target"},
	{"systemd-timesyncd.service", "sysinit.target"},
	{"systemd-pstore.service", "sysinit.target"},
	{"fstrim.timer", "timers.target"},
	{"run-holdfast-seed.mount", "local-fs.target"},
	{"etc-kubernetes.mount", "local-fs.target"},
	{"etc-kubernetes-manifests.mount", "local-fs.target"},
	{"etc-cni-net.d.mount", "local-fs.target"},
}

func units(t *rootfs.Tree, mtime int64) error {
	for _, u := range masked {
		if err := t.Symlink("/dev/null", "etc/systemd/system/"+u, mtime); err != nil {
			return err
		}
	}
	for _, e := range enabled {
		if err := t.Symlink("../"+e.unit, "usr/lib/systemd/system/"+e.wantedBy+".wants/"+e.unit, mtime); err != nil {
			return err
		}
	}
	return errors.Join(
		t.Symlink("../../../etc/systemd/system/var.mount", "usr/lib/systemd/system/local-fs.target.requires/var.mount", mtime),
		t.Symlink("../holdfast-verdict.service", "usr/lib/systemd/system/boot-complete.target.requires/holdfast-verdict.service", mtime),
		t.Symlink("dbus-broker.service", "usr/lib/systemd/system/dbus.service", mtime),
		t.Symlink("multi-user.target", "usr/lib/systemd/system/default.target", mtime),
		t.Symlink("/dev/null", "etc/systemd/system-generators/systemd-getty-generator", mtime),
	)
}

func settings(t *rootfs.Tree, mtime int64) error {
	return fs.WalkDir(osFiles, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := osFiles.ReadFile(name)
		if err != nil {
			return err
		}
		target := strings.TrimPrefix(name, "files/")
		if f, ok := t.Get(target); ok && f.Type() == rootfs.TypeSymlink {
			t.Remove(target)
		}
		return t.WriteFile(target, b, 0o644, mtime)
	})
}

func directories(t *rootfs.Tree, mtime int64) error {
	for _, d := range []struct {
		name string
		perm uint32
	}{
		{"boot", 0o755}, {"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755},
		{"tmp", 0o1777}, {"var", 0o755}, {"root", 0o700}, {"home", 0o755}, {"mnt", 0o755},
		{"opt", 0o755}, {"srv", 0o755}, {"media", 0o755},
		// systemd-resolved and others use it before /var is mounted.
		{"var/tmp", 0o1777}, {"var/lib", 0o755}, {"var/log", 0o755}, {"var/cache", 0o755},
		{"etc/kubernetes", 0o755}, {"etc/cni/net.d", 0o755},
		{"etc/credstore", 0o700}, {"etc/credstore.encrypted", 0o700},
		{"usr/libexec/kubernetes/kubelet-plugins/volume/exec", 0o755},
		{"opt/cni/bin", 0o755},
	} {
		if err := t.Mkdir(d.name, d.perm, mtime); err != nil {
			return err
		}
	}
	return nil
}
