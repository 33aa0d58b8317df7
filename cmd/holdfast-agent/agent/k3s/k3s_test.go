package k3s

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

const (
	endpoint  = "http://127.0.0.1:5001"
	authority = "/run/holdfast/authority.crt"
)

var server = node.Node{Name: "node1", Address: "10.0.2.15/24", Gateway: "10.0.2.2", Role: "server"}

func config(version string, disable ...string) node.Config {
	return node.Config{
		Name: "demo", Domain: "demo.example", Engine: node.Engine{Name: "k3s", Version: version, Disable: disable},
		Nodes: []node.Node{server},
		Images: []node.Image{
			{Name: "docker.io/rancher/mirrored-pause:3.6"}, {Name: "ghcr.io/k3s-io/klipper-helm:v0.9.8"},
			{Name: "registry.example:5000/team/app:1"},
		},
	}
}

// settings merges the configuration as k3s does: config.yaml, then the files of
// config.yaml.d in the order of their names, the last word counting.
func settings(t *testing.T, files map[string][]byte) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != ConfigFile && !strings.HasPrefix(name, ConfigDir+"/") {
			continue
		}
		var m map[string]any
		if err := yaml.Unmarshal(files[name], &m); err != nil {
			t.Fatal(name, err)
		}
		for k, v := range m {
			if _, twice := out[k]; twice {
				t.Errorf("%s sets %s again", name, k)
			}
			out[k] = v
		}
	}
	return out
}

// Settings follow the version: what an older k3s does not know is not set. The
// versions are those that k3s's documentation names, and their neighbours.
func TestSettingsOfVersions(t *testing.T) {
	const endpoint, provider = "disable-default-registry-endpoint", "secrets-encryption-provider"
	always := []string{
		"advertise-address", "cluster-cidr", "cluster-dns", "cluster-domain", "default-local-storage-path",
		"kube-apiserver-arg", "kube-controller-manager-arg", "kubelet-arg", "node-ip", "node-name", "protect-kernel-defaults",
		"resolv-conf", "secrets-encryption", "service-cidr", "tls-san", "write-kubeconfig-mode",
	}
	for version, more := range map[string][]string{
		"v1.25.0+k3s1":  nil,
		"v1.26.12+k3s1": nil,
		"v1.26.13+k3s1": {endpoint},
		"v1.27.9+k3s2":  nil,
		"v1.27.10+k3s1": {endpoint},
		"v1.28.5+k3s1":  nil,
		"v1.28.6+k3s1":  {endpoint},
		"v1.29.0+k3s1":  nil,
		"v1.29.1+k3s1":  {endpoint},
		"v1.30.0+k3s1":  {endpoint},
		"v1.30.11+k3s1": {endpoint},
		"v1.30.12+k3s1": {endpoint, provider},
		"v1.31.7+k3s1":  {endpoint},
		"v1.31.8+k3s1":  {endpoint, provider},
		"v1.32.3+k3s1":  {endpoint},
		"v1.32.4+k3s1":  {endpoint, provider},
		"v1.33.0+k3s1":  {endpoint, provider},
		"v1.36.3+k3s1":  {endpoint, provider},
		"v1.37.1+k3s12": {endpoint, provider},
	} {
		files, err := Files(config(version), server, endpoint, authority)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Sorted(maps.Keys(settings(t, files)))
		want := slices.Sorted(slices.Values(append(slices.Clone(always), more...)))
		if !slices.Equal(got, want) {
			t.Errorf("%s: set are\n%q, want\n%q", version, got, want)
		}
	}
	for _, wrong := range []string{"", "v1.36.3", "v1.36+k3s1", "v2.1.1+k3s1", "v1.36.3+k3s1 --debug"} {
		if _, err := Files(config(wrong), server, endpoint, authority); err == nil {
			t.Errorf("version %q passes", wrong)
		}
	}
}

func TestSettings(t *testing.T) {
	files, err := Files(config("v1.36.3+k3s1", "traefik", "servicelb"), server, endpoint, authority)
	if err != nil {
		t.Fatal(err)
	}
	got := settings(t, files)
	for name, want := range map[string]any{
		"node-name": "node1", "node-ip": "10.0.2.15", "cluster-cidr": "10.244.0.0/16", "service-cidr": "10.96.0.0/12", "cluster-dns": "10.96.0.10",
		"tls-san": "[10.0.2.15 node1 api.demo.example]", "write-kubeconfig-mode": "0600", "protect-kernel-defaults": true, "secrets-encryption": true,
		"secrets-encryption-provider": "secretbox", "disable-default-registry-endpoint": true, "disable": "[servicelb traefik]",
		"kubelet-arg": "[config=/etc/rancher/k3s/kubelet.yaml]",
	} {
		if fmt.Sprint(got[name]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	// Each file that an argument names is among the files, or of the audit log.
	for _, list := range []string{"kube-apiserver-arg", "kubelet-arg"} {
		for _, a := range got[list].([]any) {
			_, file, _ := strings.Cut(a.(string), "=")
			if _, ok := files[file]; strings.HasPrefix(file, "/") && !ok && file != auditLog {
				t.Errorf("%s: nothing writes the file", a)
			}
		}
	}
}

// Every registry that an image is named after leads to the node's own store, and
// nowhere else.
func TestRegistries(t *testing.T) {
	files, err := Files(config("v1.36.3+k3s1"), server, endpoint, authority)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Mirrors map[string]struct {
			Endpoint []string `json:"endpoint"`
		} `json:"mirrors"`
		Configs any `json:"configs"`
	}
	if err := yaml.UnmarshalStrict(files[Registries], &got); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(got.Mirrors))
	if !slices.Equal(names, []string{"*", "127.0.0.1:5002", "docker.io", "ghcr.io", "registry.example:5000"}) {
		t.Errorf("mirrors are %q", names)
	}
	for n, m := range got.Mirrors {
		want := endpoint
		if n == node.BroughtRegistry { // what "holdfast apply" brings
			want = "http://127.0.0.1:5002"
		}
		if !slices.Equal(m.Endpoint, []string{want}) {
			t.Errorf("%s leads to %q", n, m.Endpoint)
		}
	}
}

// The forms are those of Kubernetes: the API server does not start with others.
func TestPolicies(t *testing.T) {
	files, err := Files(config("v1.36.3+k3s1"), server, endpoint, authority)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		auditFile:   {"apiVersion: audit.k8s.io/v1\n", "kind: Policy\n", "- level: Metadata\n", "omitStages:\n- RequestReceived\n"},
		podSecurity: {"apiVersion: apiserver.config.k8s.io/v1\n", "kind: AdmissionConfiguration\n", "name: PodSecurity\n", "apiVersion: pod-security.admission.config.k8s.io/v1\n", "enforce: restricted\n", "- kube-system\n"},
		kubeletFile: {"apiVersion: kubelet.config.k8s.io/v1beta1\n", "kind: KubeletConfiguration\n", "shutdownGracePeriod: 40s\n", "shutdownGracePeriodCriticalPods: 10s\n"},
	} {
		for _, w := range want {
			if !strings.Contains(string(files[name]), w) {
				t.Errorf("%s lacks %q:\n%s", name, w, files[name])
			}
		}
	}
	if strings.Contains(string(files[auditFile]), "level: Request") {
		t.Error("the audit log would hold secrets")
	}
}

// The site's own registry is asked for what the node's store has not, and the
// site's people are known to the API, where the version can do it.
func TestServices(t *testing.T) {
	services := node.Services{
		Authority: &node.Authority{Namespace: "certificates", Name: "site-authority", Key: "tls.crt"},
		Registry:  "registry.demo.example",
		SignIn:    &node.SignIn{Issuer: "https://id.demo.example/realms/site", Audience: "kubernetes"},
	}
	for version, knows := range map[string]bool{"v1.33.4+k3s1": false, "v1.34.0+k3s1": true} {
		c := config(version)
		c.Services = services
		files, err := Files(c, server, endpoint, authority)
		if err != nil {
			t.Fatal(err)
		}
		signIn, ok := files[ConfigDir+"/40-sign-in.yaml"]
		if ok != knows || ok && string(signIn) != "kube-apiserver-arg+:\n- authentication-config=/run/holdfast/apiserver/authentication.yaml\n" {
			t.Errorf("%s: %s", version, signIn)
		}
		for _, want := range []string{
			"configs:\n  registry.demo.example:\n    tls:\n      ca_file: /run/holdfast/authority.crt\n",
			"  registry.demo.example:\n    endpoint:\n    - http://127.0.0.1:5001\n    - https://registry.demo.example\n",
		} {
			if !strings.Contains(string(files[Registries]), want) {
				t.Errorf("registries.yaml lacks %s:\n%s", want, files[Registries])
			}
		}
	}
}
