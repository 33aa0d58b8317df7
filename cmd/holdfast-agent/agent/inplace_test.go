package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// A release whose images and components alone are others needs no reboot.
func TestReadAtStart(t *testing.T) {
	site := func(change func(c *node.Config)) node.Config {
		c := node.Config{
			Name: "demo", Release: 1, Domain: "demo.example",
			Engine: node.Engine{Name: "kubeadm", Version: "v1.36.3", Pause: "registry.example/pause:1"},
			Nodes:  []node.Node{{Name: "node1", Address: "10.0.2.15/24"}},
		}
		for _, name := range []string{"pause", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "db"} {
			c.Images = append(c.Images, node.Image{Name: "registry.example/" + name + ":1", Digest: "sha256:1"})
		}
		change(&c)
		return c
	}
	k3s := func(change func(c *node.Config)) node.Config {
		return site(func(c *node.Config) {
			c.Engine = node.Engine{Name: "k3s", Version: "v1.36.3+k3s1"}
			change(c)
		})
	}
	none := func(*node.Config) {}
	app := func(registry string) func(c *node.Config) {
		return func(c *node.Config) {
			c.Release, c.Updates.HealthyWithin = 2, 5
			c.Images[5].Digest = "sha256:2"
			c.Images = append(c.Images, node.Image{Name: registry + "/app:1", Digest: "sha256:1"})
			c.Components = append(c.Components, node.Component{Name: "app"})
		}
	}
	for _, c := range []struct {
		name     string
		from, to node.Config
		want     string // "" is no reboot
	}{
		{"images and components", site(none), site(app("other.example")), ""},
		{"an appliance", node.Config{Release: 1, Engine: node.Engine{Name: node.NoEngine}, Nodes: site(none).Nodes},
			node.Config{Release: 2, Engine: node.Engine{Name: node.NoEngine}, Nodes: site(none).Nodes}, ""},
		{"etcd", site(none), site(func(c *node.Config) { c.Images[1].Digest = "sha256:2" }), "etcd"},
		{"pause", site(none), site(func(c *node.Config) { c.Images[0].Digest = "sha256:2" }), containerdConfig},
		{"version", site(none), site(func(c *node.Config) { c.Engine.Version = "v1.36.4" }), "engine"},
		{"address", site(none), site(func(c *node.Config) { c.Nodes[0].Address = "10.0.2.16/24" }), "nodes"},
		{"domain", site(none), site(func(c *node.Config) { c.Domain = "other.example" }), "domain"},
		{"lab", site(none), site(func(c *node.Config) { c.LabAccess = true }), "lab"},
		{"registry", site(none), site(func(c *node.Config) { c.Services.Registry = "registry.demo.example" }), "services"},
		{"k3s, a registry that it knows", k3s(none), k3s(app("registry.example")), ""},
		{"k3s, another registry", k3s(none), k3s(app("other.example")), "registries.yaml"},
	} {
		got, err := readAtStart(c.from, c.to, c.from.Nodes[0])
		if err != nil || (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

// The release that took over is the running one, until a reboot empties /run.
func TestTakeOver(t *testing.T) {
	h := Host{Root: t.TempDir()}
	for name, text := range map[string]string{
		"proc/cmdline": "roothash=" + strings.Repeat("a", 64) + " holdfast.release=7 quiet\n",
		"proc/uptime":  "86400.5 1.0\n",
	} {
		if err := os.MkdirAll(filepath.Join(h.Root, "proc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.Root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want uint64) {
		t.Helper()
		if b, err := h.booted(); err != nil || b.release != want || b.rootHash != strings.Repeat("a", 64) {
			t.Errorf("%+v runs, %v, want %d", b, err, want)
		}
	}
	is(7)
	if err := h.takeOver(install.Ref{Release: 8}); err != nil {
		t.Fatal(err)
	}
	is(8)
	// A trial's time begins there, and not with the machine.
	if at, err := h.readTakenOver(); err != nil || at.At.Round(time.Second) != 24*time.Hour+time.Second {
		t.Errorf("it took over at %v, %v", at.At, err)
	}
	if err := os.WriteFile(h.path(takenOverFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.booted(); err == nil {
		t.Error("half a file says which release runs")
	}
	if err := os.RemoveAll(h.path("/run")); err != nil {
		t.Fatal(err)
	}
	is(7)
}
