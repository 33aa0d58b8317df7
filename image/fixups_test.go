package image

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/rootfs"
)

const epoch = int64(1700000000)

// tree has regular files, and links where the content begins with "-> ".
func tree(t *testing.T, files map[string]string) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New(epoch)
	for name, body := range files {
		var err error
		if target, ok := strings.CutPrefix(body, "-> "); ok {
			err = tr.Symlink(target, name, epoch)
		} else {
			err = tr.WriteFile(name, []byte(body), 0o644, epoch)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func content(t *testing.T, tr *rootfs.Tree, name string) string {
	t.Helper()
	if _, ok := tr.Stat(name); !ok {
		t.Errorf("/%s is not there", name)
		return ""
	}
	b, err := tr.ReadFile(name, 1<<20)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func wantLink(t *testing.T, tr *rootfs.Tree, name, target string) {
	t.Helper()
	if f, ok := tr.Get(name); !ok || f.Type() != rootfs.TypeSymlink || f.Target != target {
		t.Errorf("/%s is %#o -> %q, want a link to %s", name, f.Mode, f.Target, target)
	}
}

const sysusers = `
# a comment
u! tss 104:ssl "TPM software" /var/lib/tpm
g  ssl -
g  shadow 42
u  alpha - "Alpha, first" /var/lib/alpha /bin/sh
u  gamma -:beta
g  beta -
u  delta 998
m  alpha beta
r  - 500-999
`

var accountFiles = map[string]string{
	"usr/share/base-passwd/passwd.master": "root:*:0:0:root:/root:/bin/bash\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n",
	"usr/share/base-passwd/group.master":  "root:*:0:\ndaemon:*:1:\nshadow:*:42:\n",
	"usr/lib/sysusers.d/test.conf":        sysusers,
	"usr/lib/sysusers.d/README":           "not read",
}

func TestAccounts(t *testing.T) {
	tr := tree(t, accountFiles)
	if err := accounts(tr, epoch); err != nil {
		t.Fatal(err)
	}
	// 998 is delta's: the dynamic ids go round it.
	for name, want := range map[string]string{
		"etc/passwd": `root:x:0:0:root:/root:/usr/sbin/nologin
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
tss:x:104:996:TPM software:/var/lib/tpm:/usr/sbin/nologin
gamma:x:995:997::/:/usr/sbin/nologin
delta:x:998:998::/:/usr/sbin/nologin
alpha:x:999:999:Alpha, first:/var/lib/alpha:/bin/sh
`,
		"etc/group": `root:x:0:
daemon:x:1:
shadow:x:42:
ssl:x:996:
beta:x:997:alpha
delta:x:998:
alpha:x:999:
`,
	} {
		if got := content(t, tr, name); got != want {
			t.Errorf("/%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	for line := range strings.Lines(content(t, tr, "etc/shadow")) {
		if f := strings.Split(line, ":"); f[1] != "!*" {
			t.Errorf("a password can match: %s", line)
		}
	}
	for name, perm := range map[string]uint32{"etc/passwd": 0o644, "etc/group": 0o644, "etc/shadow": 0o640, "etc/gshadow": 0o640} {
		f, _ := tr.Get(name)
		gid := 0
		if perm == 0o640 {
			gid = 42
		}
		if f.Mode&0o7777 != perm || f.UID != 0 || f.GID != gid {
			t.Errorf("/%s has mode %o, owner %d:%d", name, f.Mode&0o7777, f.UID, f.GID)
		}
	}
}

// The ids do not depend on which file says what, nor on the order of lines.
func TestAccountsAreStable(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(sysusers), "\n")
	var want string
	for i := range 3 {
		files := map[string]string{}
		for n, b := range accountFiles {
			files[n] = b
		}
		slices.Reverse(lines)
		files["usr/lib/sysusers.d/test.conf"] = strings.Join(lines[:i*2], "\n")
		files["usr/lib/sysusers.d/a.conf"] = strings.Join(lines[i*2:], "\n")
		tr := tree(t, files)
		if err := accounts(tr, epoch); err != nil {
			t.Fatal(err)
		}
		got := content(t, tr, "etc/passwd") + content(t, tr, "etc/group")
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("with %d lines in another file:\n%s\nwant\n%s", i*2, got, want)
		}
	}
}

func TestAccountsRefuse(t *testing.T) {
	for line, want := range map[string]string{
		"x nobody -":              "not known here",
		`u demo - "no end`:        "a quote is not closed",
		"u":                       "too short",
		"g demo /some/path":       "not a number",
		"u demo 5:nosuch":         `no group "nosuch"`,
		"m root nosuch":           "no such group",
		"u demo five - /var/demo": "not a number",
	} {
		tr := tree(t, map[string]string{"usr/lib/sysusers.d/test.conf": "\n" + line + "\n"})
		if err := accounts(tr, epoch); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
}

func TestDropped(t *testing.T) {
	for _, name := range []string{"usr/share/doc/bash/README", "usr/share/man/man1/ls.1.gz", "etc/init.d/udev", "etc/apt/sources.list", "boot/System.map-6.12", "boot/config-6.12"} {
		if !Dropped(name) {
			t.Errorf("%s stays", name)
		}
	}
	for _, name := range []string{"usr/share/doc/bash/copyright", "boot/vmlinuz-6.12", "usr/bin/bash", "usr/share/manual", "boot", "etc/init.d"} {
		if Dropped(name) {
			t.Errorf("%s is left out", name)
		}
	}
}

// fixedUp is a small tree with all fix-ups applied.
func fixedUp(t *testing.T) *rootfs.Tree {
	t.Helper()
	tr := tree(t, map[string]string{
		"usr/bin/mawk": "mawk", "usr/bin/bash": "bash", "usr/bin/which.debianutils": "which",
		"usr/sbin/xtables-nft-multi": "iptables", "etc/hostname": "debian", "etc/machine-id": "uninitialized\n",
		"etc/nsswitch.conf":                       "-> ../usr/share/base-files/nsswitch.conf",
		"usr/share/ca-certificates/mozilla/b.crt": "B\n\n", "usr/share/ca-certificates/mozilla/a.crt": "A",
		"usr/share/man/man1/ls.1": "page", "usr/share/doc/bash/copyright": "GPL", "boot/vmlinuz-6.12": "kernel",
		"var/lib/dpkg/status": "Package: bash\n", "etc/init.d/udev": "script",
	})
	if err := applyFixups(tr, epoch); err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestFixups(t *testing.T) {
	tr := fixedUp(t)
	for name, target := range map[string]string{
		"usr/bin/awk": "mawk", "usr/bin/which": "which.debianutils", "usr/bin/sh": "bash",
		"usr/sbin/iptables": "xtables-nft-multi", "usr/sbin/ip6tables-restore": "xtables-nft-multi",
		"etc/mtab":                                                              "../proc/self/mounts",
		"usr/lib/systemd/system/dbus.service":                                   "dbus-broker.service",
		"usr/lib/systemd/system/default.target":                                 "multi-user.target",
		"etc/systemd/system/debug-shell.service":                                "/dev/null",
		"etc/systemd/system/ctrl-alt-del.target":                                "/dev/null",
		"etc/systemd/system-generators/systemd-getty-generator":                 "/dev/null",
		"usr/lib/systemd/system/multi-user.target.wants/holdfast-agent.service": "../holdfast-agent.service",
		"usr/lib/systemd/system/local-fs.target.wants/run-holdfast-seed.mount":  "../run-holdfast-seed.mount",
		"usr/lib/systemd/system/timers.target.wants/fstrim.timer":               "../fstrim.timer",
	} {
		wantLink(t, tr, name, target)
	}
	for _, name := range []string{"usr/share/man", "etc/hostname", "etc/init.d", "boot/vmlinuz-6.12", "var/lib/dpkg"} {
		if _, ok := tr.Get(name); ok {
			t.Errorf("/%s is there", name)
		}
	}
	if got := content(t, tr, "etc/machine-id"); got != "" {
		t.Errorf("the machine has the identity %q", got)
	}
	if got := content(t, tr, "etc/ssl/certs/ca-certificates.crt"); got != "A\nB\n" {
		t.Errorf("certificates %q", got)
	}
	if got := content(t, tr, "usr/share/doc/bash/copyright"); got != "GPL" {
		t.Error("a licence is gone")
	}
	if f, _ := tr.Get("etc/nsswitch.conf"); !f.IsRegular() {
		t.Error("our nsswitch.conf did not replace the link")
	}
	for name, perm := range map[string]uint32{"tmp": 0o1777, "root": 0o700, "etc/kubernetes": 0o755, "boot": 0o755, "usr/libexec/kubernetes/kubelet-plugins/volume/exec": 0o755} {
		if f, ok := tr.Get(name); !ok || !f.IsDir() || f.Mode&0o7777 != perm {
			t.Errorf("/%s has mode %o", name, f.Mode)
		}
	}
	for _, f := range tr.Files() {
		if f.MTime != epoch {
			t.Errorf("/%s has the time %d", f.Path, f.MTime)
		}
	}
}

// An alternative that a package ships already is left alone.
func TestAlternativesKeep(t *testing.T) {
	tr := tree(t, map[string]string{"usr/bin/sh": "-> dash", "usr/bin/bash": "bash", "usr/bin/dash": "dash"})
	if err := alternatives(tr, epoch); err != nil {
		t.Fatal(err)
	}
	wantLink(t, tr, "usr/bin/sh", "dash")
	if _, ok := tr.Get("usr/bin/awk"); ok {
		t.Error("awk leads nowhere")
	}
}

// What the presets enable is what the links enable, and what is masked is
// enabled by neither; our own units are all there.
func TestUnitsAgree(t *testing.T) {
	b, err := fs.ReadFile(osFiles, "files/usr/lib/systemd/system-preset/00-holdfast.preset")
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{}
	for _, e := range enabled {
		linked[e.unit] = true
		if slices.Contains(masked, e.unit) {
			t.Errorf("%s is enabled and masked", e.unit)
		}
		if strings.Contains(e.unit, "holdfast") {
			if _, err := fs.Stat(osFiles, "files/usr/lib/systemd/system/"+e.unit); err != nil {
				t.Error(err)
			}
		}
	}
	for line := range strings.Lines(string(b)) {
		if u, ok := strings.CutPrefix(strings.TrimSpace(line), "enable "); ok && !linked[u] {
			t.Errorf("%s is enabled by the preset alone", u)
		}
	}
	if names := slices.Sorted(slices.Values(masked)); len(slices.Compact(names)) != len(masked) {
		t.Error("a unit is masked twice")
	}
}
