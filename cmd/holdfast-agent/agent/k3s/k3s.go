// Package k3s writes the files that k3s reads on a node. Its functions are
// pure: from what the release says of site and node to the files' bytes. What
// they rely on is k3s's documentation: no k3s was ever booted with them.
package k3s

import (
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/kubeadm"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Where things are on a node.
const (
	Unit       = "k3s.service"
	Dir        = "/etc/rancher/k3s"
	ConfigFile = Dir + "/config.yaml"
	ConfigDir  = ConfigFile + ".d" // read after it, in the order of names
	Registries = Dir + "/registries.yaml"
	AdminConf  = Dir + "/k3s.yaml" // k3s writes it
	Socket     = "/run/k3s/containerd/containerd.sock"

	data      = "/var/lib/rancher/k3s"
	Datastore = data + "/server/db"
	auditLog  = data + "/server/logs/audit.log"

	auditFile   = Dir + "/audit.yaml"
	podSecurity = Dir + "/pod-security.yaml"
	kubeletFile = Dir + "/kubelet.yaml"
	volumes     = "/var/lib/holdfast/volumes"
)

// What k3s takes for pods and services where nothing else is said.
const (
	PodSubnet  = "10.42.0.0/16"
	ServiceNet = "10.43.0.0/16"
)

// State is what a node must have for k3s to take up the control plane that it
// was part of, on another disk too: datastore, authorities and token, and the
// password by which the server knows its node.
func State() []string {
	return []string{data + "/server", "/etc/rancher/node"}
}

// DatastoreFiles are files without which a copy of Datastore cannot be used:
// the token that k3s wants beside it, and the keys of the secrets in it.
func DatastoreFiles() []string {
	return []string{
		data + "/server/token",
		data + "/server/cred/encryption-config.json",
		data + "/server/cred/encryption-state.json",
	}
}

// Pods stopped by a reboot stay in the list as failed ones; the oldest beyond
// this many are removed.
const terminatedPods = "20"

type m = map[string]any

// Files gives what k3s finds below Dir on node n, by path. endpoint is where
// the node's own store answers, authority the file of the certificate that the
// site's services are trusted by. What the version does not know is left out.
func Files(c node.Config, n node.Node, endpoint, authority string) (map[string][]byte, error) {
	v, err := parseVersion(c.Engine.Version)
	if err != nil {
		return nil, fmt.Errorf("cannot write the configuration of k3s: %w", err)
	}
	docs := map[string]m{
		ConfigFile:                       nodeSettings(c, n),
		ConfigDir + "/10-hardening.yaml": hardening(v),
		Registries:                       registries(c, endpoint, authority),
		auditFile:                        auditPolicy(),
		podSecurity:                      podSecurityConfig(),
		kubeletFile:                      kubeletConfig(),
	}
	if v.knows("disable-default-registry-endpoint") {
		docs[ConfigDir+"/20-registries.yaml"] = m{"disable-default-registry-endpoint": true}
	}
	if len(c.Engine.Disable) > 0 {
		docs[ConfigDir+"/30-addons.yaml"] = m{"disable": slices.Sorted(slices.Values(c.Engine.Disable))}
	}
	if c.Services.SignIn != nil && v.knows("authentication-config") {
		docs[ConfigDir+"/40-sign-in.yaml"] = m{"kube-apiserver-arg+": []string{"authentication-config=" + kubeadm.SignInFile}}
	}
	files := map[string][]byte{}
	for name, d := range docs {
		if files[name], err = yaml.Marshal(d); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", name, err)
		}
	}
	return files, nil
}

func nodeSettings(c node.Config, n node.Node) m {
	sans := []string{n.IP(), n.Name}
	if c.Domain != "" {
		sans = append(sans, "api."+c.Domain)
	}
	return m{
		"node-name":                  n.Name,
		"node-ip":                    n.IP(),
		"advertise-address":          n.IP(),
		"tls-san":                    sans,
		"cluster-cidr":               kubeadm.PodSubnet,
		"service-cidr":               kubeadm.ServiceNet,
		"cluster-dns":                kubeadm.ClusterDNS,
		"cluster-domain":             "cluster.local",
		"resolv-conf":                kubeadm.ResolvConf,
		"default-local-storage-path": volumes,
		"write-kubeconfig-mode":      "0600",
	}
}

// hardening is what k3s's own guide asks for, as far as v knows it.
func hardening(v version) m {
	out := m{
		// The image's sysctl.d sets what the kubelet wants; a difference is a fault.
		"protect-kernel-defaults": true,
		"secrets-encryption":      true,
		"kube-apiserver-arg": []string{
			"admission-control-config-file=" + podSecurity,
			"audit-policy-file=" + auditFile,
			"audit-log-path=" + auditLog,
			"audit-log-maxage=30",
			"audit-log-maxbackup=10",
			"audit-log-maxsize=100",
			"service-account-extend-token-expiration=false",
		},
		"kube-controller-manager-arg": []string{"terminated-pod-gc-threshold=" + terminatedPods},
		"kubelet-arg":                 []string{"config=" + kubeletFile},
	}
	if v.knows("secrets-encryption-provider") {
		out["secrets-encryption-provider"] = "secretbox"
	}
	return out
}

// registries leads every registry that an image is named after to endpoint, and
// every other name too. Each has an entry of its own, as "*" alone has had
// faults in several versions, and as only registries with an entry lose their
// way to the outside. The site's own is asked for what the store has not, and what
// "holdfast apply" brought is where its name says.
func registries(c node.Config, endpoint, authority string) m {
	names := map[string]bool{"*": true, "docker.io": true}
	for _, i := range c.Images {
		names[containerd.Registry(i.Name)] = true
	}
	mirrors := m{}
	for n := range maps.Keys(names) {
		mirrors[n] = m{"endpoint": []string{endpoint}}
	}
	mirrors[node.BroughtRegistry] = m{"endpoint": []string{"http://" + node.BroughtRegistry}}
	own := c.Services.Registry
	if own == "" {
		return m{"mirrors": mirrors}
	}
	mirrors[own] = m{"endpoint": []string{endpoint, "https://" + own}}
	return m{"mirrors": mirrors, "configs": m{own: m{"tls": m{"ca_file": authority}}}}
}

// auditPolicy keeps who did what to which object, never its content: secrets
// would be in the log.
func auditPolicy() m {
	none := func(rule m) m { rule["level"] = "None"; return rule }
	return m{
		"apiVersion": "audit.k8s.io/v1",
		"kind":       "Policy",
		"omitStages": []string{"RequestReceived"},
		"rules": []m{
			none(m{"nonResourceURLs": []string{"/healthz*", "/livez*", "/readyz*", "/version"}}),
			none(m{"resources": []m{{"group": "coordination.k8s.io", "resources": []string{"leases"}}}, "userGroups": []string{"system:nodes"}}),
			none(m{"resources": []m{{"group": "", "resources": []string{"events"}}, {"group": "events.k8s.io", "resources": []string{"events"}}}}),
			{"level": "Metadata"},
		},
	}
}

// podSecurityConfig holds namespaces that do not say otherwise to the strictest
// standard. What k3s itself runs is in kube-system.
func podSecurityConfig() m {
	return m{
		"apiVersion": "apiserver.config.k8s.io/v1",
		"kind":       "AdmissionConfiguration",
		"plugins": []m{{"name": "PodSecurity", "configuration": m{
			"apiVersion": "pod-security.admission.config.k8s.io/v1",
			"kind":       "PodSecurityConfiguration",
			"defaults": m{
				"enforce": "restricted", "enforce-version": "latest",
				"audit": "restricted", "audit-version": "latest",
				"warn": "restricted", "warn-version": "latest",
			},
			"exemptions": m{"usernames": []string{}, "runtimeClasses": []string{}, "namespaces": []string{"kube-system"}},
		}}},
	}
}

func kubeletConfig() m {
	return m{
		"apiVersion":                      "kubelet.config.k8s.io/v1beta1",
		"kind":                            "KubeletConfiguration",
		"serializeImagePulls":             false,
		"streamingConnectionIdleTimeout":  "5m0s",
		"shutdownGracePeriod":             kubeadm.ShutdownPeriod,
		"shutdownGracePeriodCriticalPods": kubeadm.ShutdownPeriodCritical,
	}
}
