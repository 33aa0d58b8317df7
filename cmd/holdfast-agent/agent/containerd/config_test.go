package containerd_test

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != string(got) {
		t.Errorf("%s differs (%v); got:\n%s", file, err, got)
	}
}

func TestGolden(t *testing.T) {
	golden(t, "config.toml", containerd.Config("registry.k8s.io/pause:3.10.1@sha256:aa"))
	golden(t, "cni.conflist", containerd.CNI("10.244.0.0/24"))
	hosts := containerd.Hosts([]string{"registry.k8s.io/pause:3.10.1"}, "http://127.0.0.1:5001", "", "")
	golden(t, "hosts.toml", hosts["registry.k8s.io/hosts.toml"])
	golden(t, "brought.toml", hosts["127.0.0.1:5002/hosts.toml"])
	own := containerd.Hosts(nil, "http://127.0.0.1:5001", "registry.demo.example", "/run/holdfast/authority.crt")
	golden(t, "own.toml", own["registry.demo.example/hosts.toml"])
	if string(own["_default/hosts.toml"]) != string(hosts["_default/hosts.toml"]) {
		t.Error("with a registry of its own a site asks others for what it has not")
	}
}

func TestEveryRegistry(t *testing.T) {
	hosts := containerd.Hosts([]string{"registry.k8s.io/pause:3", "a.example:5000/x:1", "library/y:1", "z", "../../etc/x:1", "./x"}, "http://127.0.0.1:5001", "", "")
	want := []string{"127.0.0.1:5002/hosts.toml", "_default/hosts.toml", "a.example:5000/hosts.toml", "docker.io/hosts.toml", "registry.k8s.io/hosts.toml"}
	if got := slices.Sorted(maps.Keys(hosts)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
