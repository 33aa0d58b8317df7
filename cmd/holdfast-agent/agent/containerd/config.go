// Package containerd writes the configuration of containerd 2.x and of its CNI
// network. Its functions are pure.
package containerd

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Where things are on a node.
const (
	Socket   = "/run/containerd/containerd.sock"
	CertsDir = "/run/holdfast/certs.d"
	CNIBin   = "/usr/lib/cni"
	CNIConf  = "/etc/cni/net.d"
)

// Config is containerd's config.toml. Sandbox is the pause image with digest.
func Config(sandbox string) []byte {
	return fmt.Appendf(nil, `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = %q

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  # The layers are in the release's own store already: keep only what is unpacked.
  discard_unpacked_layers = true
  # A power cut after a pull must not leave empty files in an unpacked layer.
  image_pull_with_sync_fs = true
  # Both settings above need it.
  use_local_image_pull = true

  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %q

  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %q

[plugins.'io.containerd.cri.v1.runtime']
  # The kubelet counts by itself. Each second, as is its default, half of an idle
  # emulated processor goes into what nobody asks for.
  stats_collect_period = "1m"
  stats_retention_period = "3m"

  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"

    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = true

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q]
    conf_dir = %q
    use_internal_loopback = true
`, Socket, sandbox, CertsDir, CNIBin, CNIConf)
}

// Hosts gives the hosts.toml files below CertsDir: every registry that an
// image is named after leads to the agent's own at endpoint, and so does any
// other name. Nothing is looked for outside the node, but in the site's own
// registry, which is own if there is one, with a certificate of the authority;
// and what was brought into the cluster by "holdfast apply" is where its name
// says, on the node's loopback.
func Hosts(images []string, endpoint, own, authority string) map[string][]byte {
	toml := fmt.Appendf(nil, "server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", endpoint, endpoint)
	names := map[string]bool{"_default": true}
	for _, i := range images {
		names[Registry(i)] = true
	}
	files := map[string][]byte{}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		files[n+"/hosts.toml"] = toml
	}
	files[node.BroughtRegistry+"/hosts.toml"] = fmt.Appendf(nil, "server = %q\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+node.BroughtRegistry)
	if own != "" {
		url := "https://" + own
		files[own+"/hosts.toml"] = fmt.Appendf(toml, "\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n", url, authority)
	}
	return files
}

// Registry is the registry of an image's name; "docker.io" where it has none.
func Registry(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") || strings.Trim(host, ".") == "" {
		return "docker.io"
	}
	return host
}

// CNI is the network of the pods of one node, which have subnet. Each pod has a
// link of its own to the node, which routes: with pods on one bridge, a pod
// could answer for another's address, and policies go by addresses.
func CNI(subnet string) []byte {
	type m = map[string]any
	b, err := json.MarshalIndent(m{
		"cniVersion": "1.0.0",
		"name":       "holdfast",
		"plugins": []m{{
			"type": "ptp",
			// Pods keep their own address: what leaves the node goes through a
			// service of the platform, and whoever looks at the wire or at a
			// policy's log sees which pod it was.
			"ipMasq": false,
			"ipam": m{
				"type":    "host-local",
				"ranges":  [][]m{{{"subnet": subnet}}},
				"routes":  []m{{"dst": "0.0.0.0/0"}},
				"dataDir": "/var/lib/cni/networks",
			},
		}},
	}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("internal error: %v", err)) // constants and a string
	}
	return append(b, '\n')
}
