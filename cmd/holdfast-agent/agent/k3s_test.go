package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// k3s is started by its unit alone, with files written anew; neither kubeadm's
// containerd nor the agent's own pod network comes into play.
func TestK3sUpToTheAPIServer(t *testing.T) {
	b := newBox(t)
	b.engine = map[string]any{"name": "k3s", "version": "v1.36.3+k3s1", "disable": []string{"traefik"}}
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	const stale = "etc/rancher/k3s/config.yaml.d/99-of-another-release.yaml"
	b.write(stale, "disable: [coredns]\n")
	b.start("waiting for k3s since 1")
	want := []string{"nft -f /run/holdfast/outside.nft", "networkctl reload", "udevadm settle --timeout=30", "systemctl --no-block start k3s.service"}
	if !slices.Equal(b.ran, want) {
		t.Errorf("ran %q, want %q", b.ran, want)
	}
	if _, err := os.Stat(filepath.Join(b.Root, stale)); err == nil {
		t.Error("another release's settings are still read")
	}
	for file, word := range map[string]string{
		"etc/rancher/k3s/config.yaml":                      "node-name: node1",
		"etc/rancher/k3s/config.yaml.d/10-hardening.yaml":  "secrets-encryption: true",
		"etc/rancher/k3s/config.yaml.d/30-addons.yaml":     "- traefik",
		"etc/rancher/k3s/registries.yaml":                  "- http://127.0.0.1:5001",
		"etc/rancher/k3s/audit.yaml":                       "level: Metadata",
		"etc/rancher/k3s/pod-security.yaml":                "enforce: restricted",
		"etc/rancher/k3s/kubelet.yaml":                     "shutdownGracePeriod",
		"etc/rancher/k3s/config.yaml.d/20-registries.yaml": "disable-default-registry-endpoint: true",
		"var/lib/holdfast/secrets/db_admin.json":           "password",
	} {
		if got := b.read(file); !strings.Contains(got, word) {
			t.Errorf("%s lacks %q:\n%s", file, word, got)
		}
	}
	if _, err := os.Stat(filepath.Join(b.Root, "run/holdfast/containerd")); err == nil {
		t.Error("containerd was configured: k3s has its own")
	}
	if s := b.status(); s.Phase != status.EngineUp || s.Engine.Name != "k3s" || s.Engine.Version != "v1.36.3+k3s1" {
		t.Errorf("%+v", s)
	}

	// Once k3s has written its kubeconfig and its runtime listens, images are
	// unpacked by way of its socket, and then the API server is waited for.
	b.write("etc/rancher/k3s/k3s.yaml", kubeconfig)
	b.write("run/k3s/containerd/containerd.sock", "")
	b.start("waiting for the API server since 1")
	if len(b.pulled) == 0 || b.pulled[0] != "/run/k3s/containerd/containerd.sock" {
		t.Errorf("images were pulled at %q", b.pulled)
	}
}

func TestUnknownEngine(t *testing.T) {
	b := newBox(t)
	b.engine = map[string]any{"name": "other", "version": "v1.36.3"}
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	b.start(`cannot start engine "other": this agent knows kubeadm and k3s`)
}
