package image

import (
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/overlays"
)

func k3sSite() overlays.Site {
	s := demoSite()
	s.Kubernetes = overlays.Kubernetes{Engine: "k3s", Version: "v1.36.3+k3s1"}
	return s
}

// k3s brings its own container runtime; the root has no other.
func TestPackagesOfK3s(t *testing.T) {
	with, _, err := Packages(demoSite())
	if err != nil {
		t.Fatal(err)
	}
	without, _, err := Packages(k3sSite())
	if err != nil {
		t.Fatal(err)
	}
	left := slices.DeleteFunc(with, func(p string) bool { return slices.Contains(without, p) })
	if !slices.Equal(left, []string{"runc", "containernetworking-plugins"}) {
		t.Errorf("a root with k3s lacks %q", left)
	}
}

// The root of another engine has nothing of k3s, whose files are added last and
// leave what others wrote alone.
func TestEngineFiles(t *testing.T) {
	tr := tree(t, map[string]string{"usr/bin/k3s": "\x7fELF"})
	if err := settings(tr, epoch); err != nil {
		t.Fatal(err)
	}
	paths := func() (out []string) {
		for _, f := range tr.Files() {
			out = append(out, f.Path)
		}
		return out
	}
	before := paths()
	if err := addEngine(tr, Plan{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(paths(), before) {
		t.Error("another engine's root changed")
	}
	if err := addEngine(tr, Plan{Epoch: epoch, Engine: "k3s"}); err != nil {
		t.Fatal(err)
	}
	const units = "usr/lib/systemd/system/"
	for name, words := range map[string][]string{
		units + "k3s.service":                       {"Type=notify\n", "KillMode=process\n", "Delegate=yes\n", "ExecStart=/usr/bin/k3s server\n", "TimeoutStartSec=0\n"},
		units + "etc-rancher.mount":                 {"What=/var/lib/holdfast/rancher\n", "Where=/etc/rancher\n", "Options=bind\n"},
		units + "holdfast-var.service.d/k3s.conf":   {"/var/lib/holdfast/rancher ", "/var/lib/rancher/k3s\n", "Before=etc-rancher.mount\n"},
		units + "holdfast-agent.service.d/k3s.conf": {"RequiresMountsFor=/etc/rancher\n"},
		// It unpacks its programs there and runs them.
		"etc/systemd/system/var.mount": {"Options=rw,nodev,nosuid,errors=remount-ro\n"},
	} {
		got := content(t, tr, name)
		for _, w := range words {
			if !strings.Contains(got, w) {
				t.Errorf("/%s lacks %q:\n%s", name, w, got)
			}
		}
	}
	// What protect-kernel-defaults holds the node to, from k3s's hardening guide.
	sysctl := content(t, tr, "usr/lib/sysctl.d/90-holdfast.conf")
	for _, w := range []string{"vm.panic_on_oom = 0", "vm.overcommit_memory = 1", "kernel.panic = 10", "kernel.panic_on_oops = 1"} {
		if !strings.Contains(sysctl, w+"\n") {
			t.Errorf("sysctl.d lacks %q", w)
		}
	}
	for _, name := range []string{"kubectl", "crictl", "ctr"} {
		wantLink(t, tr, "usr/bin/"+name, "k3s")
	}
	wantLink(t, tr, units+"local-fs.target.wants/etc-rancher.mount", "../etc-rancher.mount")
	if f, ok := tr.Get("etc/rancher"); !ok || !f.IsDir() {
		t.Error("nothing to mount /etc/rancher on")
	}
}
