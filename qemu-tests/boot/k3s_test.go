package boot_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/qemu-tests/k3srelease"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// k3sVar names a directory with the release files of a k3s: k3s,
// k3s-airgap-images-amd64.tar.zst and sha256sum-amd64.txt. k3sVersionVar is
// their version.
const (
	k3sVar        = "HOLDFAST_K3S_FILES"
	k3sVersionVar = "HOLDFAST_K3S_VERSION"
)

func k3sYAML(version, files, components string) string {
	return fmt.Sprintf(`apiVersion: holdfast/v1alpha1
kind: Site
name: k3s
domain: k3s.example
release: 1
zone: official
os: {suite: trixie, kernel: cloud}
kubernetes: {engine: k3s, version: %s, files: %q, disable: [traefik, servicelb]}
components: [%s]
nodes:
  - name: node1
    match: {serial: holdfast-lab}
    address: 10.0.2.15/24
    gateway: 10.0.2.2
`, version, files, components)
}

func k3sSite(t *testing.T, name, version, files, components string) string {
	t.Helper()
	dir := openDir(t, name)
	must(t, os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(k3sYAML(version, files, components)), 0o644))
	run(t, dir, "keys", "generate", "--development")
	lockSite(t, dir)
	run(t, dir, "collect")
	return dir
}

// TestK3sRoot builds a site whose k3s is none: everything but its run. What
// k3s's documentation asks of a node is in the root, and its images are in the
// bundle.
func TestK3sRoot(t *testing.T) {
	longtest.Begin(t)
	files := filepath.Join(openDir(t, "k3s-files"), "files")
	must(t, k3srelease.Write(files))
	site := k3sSite(t, "k3s-root", "v1.36.3+k3s1", files, "")
	must(t, os.RemoveAll(files)) // from here on nothing is needed but the store
	run(t, site, "build")
	r, base := result(t, site)
	run(t, site, "bundle", "verify", base+".bundle")

	raw := r.OS.Root.Raw
	s, err := store.Open(cacheDir(t))
	must(t, err)
	f, err := s.Open(raw)
	must(t, err)
	defer f.Close()
	root, err := erofs.Open(f)
	must(t, err)
	for name, want := range map[string]string{
		"usr/bin/k3s":                              "\x7fELF",
		"usr/lib/systemd/system/k3s.service":       "ExecStart=/usr/bin/k3s server",
		"usr/lib/systemd/system/etc-rancher.mount": "Where=/etc/rancher",
		"usr/lib/sysctl.d/90-holdfast.conf":        "vm.panic_on_oom = 0",
	} {
		b, err := fs.ReadFile(root, name)
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("/%s of the root lacks %q: %v", name, want, err)
		}
	}
	for _, name := range []string{"usr/bin/containerd", "usr/bin/kubelet", "usr/sbin/runc", "usr/lib/cni"} {
		if _, err := fs.Stat(root, name); err == nil {
			t.Errorf("the root has /%s beside k3s's own", name)
		}
	}
	var names []string
	for _, im := range r.Images {
		names = append(names, im.Name)
	}
	for _, name := range []string{"docker.io/rancher/mirrored-pause:3.6", "ghcr.io/k3s-io/klipper-helm:v0.9.8"} {
		if !slices.Contains(names, name) {
			t.Errorf("the release does not have image %s, but %q", name, names)
		}
	}
}

// TestK3s boots a site with k3s: node and add-ons become ready, a volume and a
// pod work, policies hold, and nothing tries to leave.
func TestK3s(t *testing.T) {
	files, version := os.Getenv(k3sVar), os.Getenv(k3sVersionVar)
	if files == "" || version == "" {
		t.Skipf("K3S WAS NOT BOOTED: no release files of k3s are to be had here. %s=DIRECTORY and %s=v1.X.Y+k3sN boot it", k3sVar, k3sVersionVar)
	}
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	files, err := filepath.Abs(files)
	must(t, err)
	site := k3sSite(t, "k3s", version, files, "{name: postgresql, origin: source}")
	run(t, site, "build")
	t.Cleanup(func() {
		if _, err := try(t, site, "lab", "down"); err != nil {
			t.Log(err)
		}
	})
	run(t, site, "lab", "up", "--wait")
	vm, err := lab.Open(filepath.Join(site, "out", "lab"))
	must(t, err)
	if got := run(t, site, "lab", "kubectl", "get", "nodes", "-o", "wide").stdout; !strings.Contains(got, "Ready") || !strings.Contains(got, version) {
		t.Errorf("the node is not ready with %s:\n%s", version, got)
	}
	if got := run(t, site, "lab", "kubectl", "get", "pods", "-A").stdout; strings.Contains(got, "ImagePull") || strings.Contains(got, "traefik") {
		t.Errorf("pods:\n%s", got)
	}
	psql(t, site, "create table kept (word text); insert into kept values ('holdfast')")
	run(t, site, "lab", "reboot", "--wait")
	if got := psql(t, site, "select word from kept"); !strings.Contains(got, "holdfast") {
		t.Errorf("after a reboot the database says %q", got)
	}
	run(t, site, "lab", "down")
	nothingLeft(t, vm)
}
