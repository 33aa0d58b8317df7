package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/overlays"
)

// releasePrograms stands for a recipe where a program is an engine's release
// file, and compiled by its project.
const releasePrograms = "release"

// An addon is what k3s brings in place of a component of the catalog, or beside
// them, and how its health shows.
type addon struct {
	name      string // as k3s calls it
	component string // as components need it
	ready     []node.Ready
}

// addons are in the order in which they stand on each other. servicelb and
// runtimes have no workload of their own.
func addons() []addon {
	deployment := func(name string) []node.Ready {
		return []node.Ready{{Kind: "Deployment", Namespace: "kube-system", Name: name}}
	}
	return []addon{
		{"coredns", "coredns", deployment("coredns")},
		{"local-storage", "storage", deployment("local-path-provisioner")},
		{"metrics-server", "metrics-server", deployment("metrics-server")},
		{"traefik", "traefik", deployment("traefik")},
	}
}

// provided are the components that the site's engine brings itself.
func provided(k overlays.Kubernetes) []string {
	if k.Engine != "k3s" {
		return nil
	}
	out := []string{"kubernetes", "containerd", "kube-proxy"}
	for _, a := range addons() {
		if k.Has(a.name) {
			out = append(out, a.component)
		}
	}
	return out
}

// notTwice refuses components that the site names and its engine brings.
func notTwice(s overlays.Site) error {
	if s.Kubernetes.Engine != "k3s" {
		return nil
	}
	own := map[string]string{"kubernetes": "", "containerd": "", "kube-proxy": ""}
	for _, a := range addons() {
		if s.Kubernetes.Has(a.name) {
			own[a.component] = a.name
		}
	}
	var errs []error
	for _, c := range s.Components {
		switch addon, ok := own[c.Name]; {
		case ok && addon == "":
			errs = append(errs, fmt.Errorf("cannot add component %s: k3s brings it\nhint: remove it from components in site.yaml", c.Name))
		case ok:
			errs = append(errs, fmt.Errorf("cannot add component %s: k3s brings it as its add-on %s\nhint: remove it from components in site.yaml, or list %s under kubernetes.disable", c.Name, addon, addon))
		}
	}
	return errors.Join(errs...)
}

// ownNames refuses components beside parts of k3s that stand in their way. Those
// that need the catalog's CoreDNS open their policies to its port, which is
// another than that of k3s's, and the ingress wants the node's ports, and the
// site's names, for itself.
func ownNames(k overlays.Kubernetes, components []catalog.Component) error {
	var asks, both []string
	for _, c := range components {
		var wants []string
		switch {
		case c.Name == "ingress":
			wants = []string{"coredns", "servicelb", "traefik"}
		case slices.Contains(c.AllNeeds(), "coredns"):
			wants = []string{"coredns"}
		}
		if wants = slices.DeleteFunc(wants, func(addon string) bool { return !k.Has(addon) }); len(wants) > 0 {
			asks, both = append(asks, c.Name), append(both, wants...)
		}
	}
	if len(asks) == 0 {
		return nil
	}
	both = slices.Compact(slices.Sorted(slices.Values(both)))
	return fmt.Errorf("cannot have %s beside %s of k3s: names of the domain, the way to the name server, and ports 80 and 443 of the node would be k3s's\nhint: list %s under kubernetes.disable in site.yaml",
		strings.Join(asks, ", "), strings.Join(both, ", "), strings.Join(both, ", "))
}

// askEngine asks for the engine's release files.
func (in *inputs) askEngine(dir string) {
	k := in.site.Kubernetes
	if k.Engine != "k3s" {
		return
	}
	w := airgap.WantEngine{Name: k.Engine, Version: k.Version, Dir: k.Files, URLs: in.site.Mirrors.K3s}
	if w.Dir != "" && !filepath.IsAbs(w.Dir) {
		w.Dir = filepath.Join(dir, w.Dir)
	}
	if abs, err := filepath.Abs(w.Dir); err == nil && w.Dir != "" {
		w.Dir = abs
	}
	if len(w.URLs) == 0 {
		w.URLs = []string{airgap.K3sReleases}
	}
	in.request.Engine = w
	in.programs = append(in.programs, image.Program{Recipe: releasePrograms, Name: airgap.K3sProgram, Path: image.K3s})
}

// released are the engine's programs, by releasePrograms/NAME.
func (b builder) released() map[string]store.Content {
	out := map[string]store.Content{}
	if f, ok := b.lock.Engine.File(airgap.K3sProgram); ok {
		out[releasePrograms+"/"+f.Name] = f.Content
	}
	return out
}

// addonComponents are k3s's own add-ons as the agent watches them: it applies
// nothing for them.
func addonComponents(k overlays.Kubernetes) []node.Component {
	var out []node.Component
	for _, a := range addons() {
		if k.Has(a.name) {
			out = append(out, node.Component{Name: a.component, Ready: a.ready})
		}
	}
	return out
}
