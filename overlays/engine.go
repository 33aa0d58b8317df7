package overlays

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Addons are what k3s brings besides Kubernetes, and can be told to leave out.
func Addons() []string {
	return []string{"coredns", "local-storage", "metrics-server", "runtimes", "servicelb", "traefik"}
}

// OldestK3s is the first minor version of Kubernetes whose k3s is known here:
// from it on Pod Security is configured as it is today.
const OldestK3s = 25

// Has reports whether the site's engine brings an add-on of k3s.
func (k Kubernetes) Has(addon string) bool {
	return k.Engine == "k3s" && slices.Contains(Addons(), addon) && !slices.Contains(k.Disable, addon)
}

func checkAddon(s string) error {
	if !slices.Contains(Addons(), s) {
		return errors.New("want an add-on of k3s: " + strings.Join(Addons(), ", "))
	}
	return nil
}

var minorForm = regexp.MustCompile(`^v1\.([0-9]+)\.`)

// checkEngine returns what is wrong between the engine and the rest.
func (s Site) checkEngine() []*Fault {
	var faults []*Fault
	k := s.Kubernetes
	add := func(message, hint, ptr string, args ...any) {
		faults = append(faults, s.fault(fmt.Sprintf(ptr, args...), message, hint))
	}
	if k.Engine == "none" {
		if k.Version != "" {
			add("the engine none has no version", "", "/kubernetes/version")
		}
		if len(s.Components)+len(s.Manifests)+len(s.Images)+len(s.Charts)+len(s.Kustomizations) > 0 {
			add("components, images, charts, kustomizations and manifests need Kubernetes, but the engine is none", "", "/kubernetes/engine")
		}
	} else if k.Version == "" && s.APIVersion != "" {
		add("is missing", "each engine but none has a version", "/kubernetes/version")
	}
	switch k3s := strings.Contains(k.Version, "+k3s"); {
	case k.Version == "":
	case checkKubernetesVersion(k.Version) != nil:
	case k.Engine == "kubeadm" && k3s:
		add("a version of k3s, but the engine is kubeadm", "", "/kubernetes/version")
	case k.Engine == "k3s" && !k3s:
		add("not a version of k3s, which is the engine", "k3s versions end in +k3s1 or the like", "/kubernetes/version")
	case k.Engine == "k3s":
		if n, err := strconv.Atoi(minorForm.FindStringSubmatch(k.Version)[1]); err != nil || n < OldestK3s {
			add(fmt.Sprintf("older than v1.%d, the first that holdfast knows the settings of", OldestK3s), "", "/kubernetes/version")
		}
	}
	if k.Engine == "kubeadm" || k.Engine == "none" {
		if k.Files != "" {
			add("release files are those of k3s, but the engine is "+k.Engine, "", "/kubernetes/files")
		}
		if len(k.Disable) > 0 {
			add("add-ons are those of k3s, but the engine is "+k.Engine, "", "/kubernetes/disable")
		}
	}
	if strings.Contains(k.Files, "://") {
		add("want a directory", "a server belongs into mirrors.k3s", "/kubernetes/files")
	}
	seen := map[string]int{}
	for i, a := range k.Disable {
		if first, ok := seen[a]; ok {
			add(fmt.Sprintf("%q is also kubernetes.disable[%d]", a, first), "", "/kubernetes/disable/%d", i)
			continue
		}
		seen[a] = i
	}
	return faults
}
