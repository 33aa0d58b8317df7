// Package kubeadm writes kubeadm's configuration and brings up a control plane
// with it. Config and Patches are pure.
package kubeadm

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Where things are on a node.
const (
	ConfigFile  = "/run/holdfast/kubeadm/config.yaml"
	PatchesDir  = "/run/holdfast/kubeadm/patches"
	AdminConf   = "/etc/kubernetes/admin.conf"
	ResolvConf  = "/run/holdfast/resolv.conf"
	SignInFile  = signInDir + "/authentication.yaml"
	signInDir   = "/run/holdfast/apiserver"
	PodSubnet   = "10.244.0.0/16"
	NodeSubnet  = "10.244.0.0/24" // what the controller manager gives the first node
	ServiceNet  = "10.96.0.0/12"
	ClusterDNS  = "10.96.0.10"
	Port        = 6443
	initTimeout = "30m0s" // a slow disk, or a lab without KVM
)

// Leaf certificates are valid for five years: kubeadm's own year ends unseen
// on a site that nobody updates, and the API server is then lost with no
// operator who could renew it. The authorities last as long as the site.
const leafValidity = "43800h0m0s"

// Before a reboot the kubelet stops pods first, then those that the cluster
// stands on: systemd would stop all at once, and PostgreSQL with clients by
// SIGKILL. Thirty seconds are what a pod has that asks for nothing else. The sum
// must be within logind's InhibitDelayMaxSec in the image, as the kubelet would
// raise that in a root that is read-only, and then not do its part at all.
const (
	ShutdownPeriod         = "40s"
	ShutdownPeriodCritical = "10s" // of it
)

// Pods stopped by a reboot stay in the list as failed ones; the oldest beyond
// this many are removed.
const terminatedPods = "20"

type m = map[string]any

// Config is the file for `kubeadm init` on the only node of a site.
func Config(c node.Config, n node.Node) ([]byte, error) {
	var out []byte
	for _, doc := range []m{initConfig(n), clusterConfig(c, n), kubeletConfig()} {
		b, err := yaml.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("cannot write kubeadm's configuration: %w", err)
		}
		if out != nil {
			out = append(out, "---\n"...)
		}
		out = append(out, b...)
	}
	return out, nil
}

// The preflight checks pull images and look for tools that an appliance has not;
// CoreDNS and kube-proxy are components of the release; a join command on the
// console would be a secret in the log.
var skipPhases = []string{"preflight", "addon/coredns", "addon/kube-proxy", "show-join-command"}

func initConfig(n node.Node) m {
	return m{
		"apiVersion":       "kubeadm.k8s.io/v1beta4",
		"kind":             "InitConfiguration",
		"localAPIEndpoint": m{"advertiseAddress": n.IP(), "bindPort": Port},
		"nodeRegistration": m{
			"name":             n.Name,
			"criSocket":        "unix://" + containerd.Socket,
			"imagePullSerial":  false,
			"taints":           []any{}, // the only node runs everything
			"kubeletExtraArgs": []m{{"name": "node-ip", "value": n.IP()}},
		},
		"patches":    m{"directory": PatchesDir},
		"skipPhases": skipPhases,
		"timeouts":   m{"controlPlaneComponentHealthCheck": initTimeout, "kubeletHealthCheck": initTimeout, "kubernetesAPICall": "5m0s"},
	}
}

func clusterConfig(c node.Config, n node.Node) m {
	sans := []string{"127.0.0.1", "localhost", n.IP(), n.Name}
	if c.Domain != "" {
		sans = append(sans, "api."+c.Domain)
	}
	config := m{
		"apiVersion":                "kubeadm.k8s.io/v1beta4",
		"kind":                      "ClusterConfiguration",
		"clusterName":               c.Name,
		"kubernetesVersion":         c.Engine.Version,
		"certificateValidityPeriod": leafValidity,
		// A fraction of RSA's time to make, which a first boot waits for.
		"encryptionAlgorithm": "ECDSA-P256",
		"networking":          m{"podSubnet": PodSubnet, "serviceSubnet": ServiceNet, "dnsDomain": "cluster.local"},
		"apiServer":           apiServer(c, sans),
		"etcd":                m{"local": m{"dataDir": "/var/lib/etcd"}},
	}
	manager := []m{{"name": "terminated-pod-gc-threshold", "value": terminatedPods}}
	if servers(c) < 2 {
		// Nobody else can lead. An election costs a node that starts again the
		// dead leader's lease, and a slow one its controllers.
		alone := m{"name": "leader-elect", "value": "false"}
		manager = append(manager, alone)
		config["scheduler"] = m{"extraArgs": []m{alone}}
	}
	config["controllerManager"] = m{"extraArgs": manager}
	return config
}

func apiServer(c node.Config, sans []string) m {
	out := m{"certSANs": sans}
	if c.Services.SignIn != nil {
		out["extraArgs"] = []m{{"name": "authentication-config", "value": SignInFile}}
		out["extraVolumes"] = []m{{"name": "sign-in", "hostPath": signInDir, "mountPath": signInDir, "readOnly": true, "pathType": "Directory"}}
	}
	return out
}

// servers is how many nodes run a control plane.
func servers(c node.Config) int {
	n := 0
	for _, s := range c.Nodes {
		if s.Role != "agent" {
			n++
		}
	}
	return n
}

func kubeletConfig() m {
	return m{
		"apiVersion":            "kubelet.config.k8s.io/v1beta1",
		"kind":                  "KubeletConfiguration",
		"cgroupDriver":          "systemd",
		"clusterDNS":            []string{ClusterDNS},
		"clusterDomain":         "cluster.local",
		"failSwapOn":            false,
		"resolvConf":            ResolvConf,
		"rotateCertificates":    true,
		"serverTLSBootstrap":    false,
		"serializeImagePulls":   false,
		"maxParallelImagePulls": 4,
		// The image's sysctl.d sets what the kubelet wants; a difference is a fault.
		"protectKernelDefaults": true,

		"shutdownGracePeriod":             ShutdownPeriod,
		"shutdownGracePeriodCriticalPods": ShutdownPeriodCritical,
	}
}

// The static pods, and what they ask for on a small node.
var requests = map[string]m{
	"kube-apiserver":          {"cpu": "100m", "memory": "256Mi"},
	"kube-controller-manager": {"cpu": "25m", "memory": "64Mi"},
	"kube-scheduler":          {"cpu": "25m", "memory": "32Mi"},
	"etcd":                    {"cpu": "50m", "memory": "64Mi"},
}

// apiProbe is how often, in seconds, the kubelet asks the API server whether it
// is ready. Nothing waits for the answer, and kubeadm's every second is a TLS
// handshake a second.
const apiProbe = 10

// liveFailures is how often in a row, ten seconds apart, etcd and the API server
// may fail to say that they live before they are killed. Kubeadm's eight kill
// them on a machine that is merely slow, which makes it slower, and nobody else
// takes over.
const liveFailures = 30

// Patches gives the files of PatchesDir: each static pod runs the release's
// image by digest.
func Patches(images []node.Image) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, req := range requests {
		img, ok := Find(images, name)
		if !ok {
			return nil, fmt.Errorf("cannot patch %s: the release has no image of that name", name)
		}
		container := m{"name": name, "image": img.Ref(), "resources": m{"requests": req}}
		if name == "kube-apiserver" {
			container["readinessProbe"] = m{"periodSeconds": apiProbe}
		}
		if name == "kube-apiserver" || name == "etcd" {
			container["livenessProbe"] = m{"failureThreshold": liveFailures}
		}
		b, err := json.MarshalIndent(m{"spec": m{"containers": []m{container}}}, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("cannot patch %s: %w", name, err)
		}
		files[name+"0+strategic.json"] = append(b, '\n')
	}
	return files, nil
}

// Variables gives files of PatchesDir by which each static pod has these variables
// in its environment.
func Variables(v map[string]string) (map[string][]byte, error) {
	env := []m{}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		env = append(env, m{"name": name, "value": v[name]})
	}
	files := map[string][]byte{}
	for name := range requests {
		b, err := json.MarshalIndent(m{"spec": m{"containers": []m{{"name": name, "env": env}}}}, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("cannot patch %s: %w", name, err)
		}
		files[name+"1+strategic.json"] = append(b, '\n')
	}
	return files, nil
}

// Find returns the image whose name, without registry, path and tag, is base.
func Find(images []node.Image, base string) (node.Image, bool) {
	for _, i := range images {
		if b, _, _ := strings.Cut(path.Base(i.Name), ":"); b == base {
			return i, true
		}
	}
	return node.Image{}, false
}
