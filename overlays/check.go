package overlays

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ClusterNetworks are what Kubernetes takes for pods and services, by that word.
// Other machines never see them.
func (s Site) ClusterNetworks() map[string]netip.Prefix {
	switch s.Kubernetes.Engine {
	case "none":
		return nil
	case "k3s":
		return map[string]netip.Prefix{
			"pods":     netip.MustParsePrefix("10.42.0.0/16"),
			"services": netip.MustParsePrefix("10.43.0.0/16"),
		}
	}
	return map[string]netip.Prefix{
		"pods":     netip.MustParsePrefix("10.244.0.0/16"),
		"services": netip.MustParsePrefix("10.96.0.0/12"),
	}
}

// Validate checks what can be known only beside the site: that each component
// is one of known, the catalog's names. Its error holds every fault.
func (s Site) Validate(known []string) error {
	var faults []*Fault
	for i, c := range s.Components {
		if c.Name != "" && !slices.Contains(known, c.Name) {
			faults = append(faults, s.fault(fmt.Sprintf("/components/%d/name", i),
				fmt.Sprintf("no component %q in the catalog", c.Name), didYouMean(c.Name, known)))
		}
	}
	for i, c := range s.Charts {
		if slices.Contains(known, c.Name) {
			faults = append(faults, s.fault(fmt.Sprintf("/charts/%d/name", i), fmt.Sprintf("%q is a component of the catalog", c.Name), ""))
		}
	}
	for i, k := range s.Kustomizations {
		if slices.Contains(known, k.Name) {
			faults = append(faults, s.fault(fmt.Sprintf("/kustomizations/%d/name", i), fmt.Sprintf("%q is a component of the catalog", k.Name), ""))
		}
	}
	return joinFaults(faults)
}

// checkImages returns what is wrong between images, and between registries.
func (s Site) checkImages() []*Fault {
	var faults []*Fault
	seen, registries := map[string]string{}, map[string]string{}
	for i, im := range s.Images {
		ptr := fmt.Sprintf("/images/%d/name", i)
		name, _, _ := strings.Cut(im.Name, "@")
		if first, ok := seen[name]; ok && name != "" {
			faults = append(faults, s.fault(ptr, fmt.Sprintf("%q is also %s", name, display(first)), ""))
		}
		seen[name] = ptr
		switch at := fmt.Sprintf("/images/%d", i); {
		case im.IsURL() && im.SHA256 == "":
			faults = append(faults, s.fault(at, "a file from a server needs its sha256", ""))
		case !im.IsURL() && im.SHA256 != "":
			faults = append(faults, s.fault(at+"/sha256", "only a file from a server has one here", "an image's own digest belongs into its name, as @sha256:…"))
		}
		if im.From != "" && im.Signed != (Signed{}) {
			faults = append(faults, s.fault(fmt.Sprintf("/images/%d/signed", i), "signatures are looked for in registries, but the image is from a file",
				"check it before, and give its digest in the name"))
		}
		faults = append(faults, s.checkSigned(fmt.Sprintf("/images/%d/signed", i), im.Signed)...)
	}
	for i, r := range s.Mirrors.Registries {
		ptr := fmt.Sprintf("/mirrors/registries/%d/name", i)
		if first, ok := registries[r.Name]; ok && r.Name != "" {
			faults = append(faults, s.fault(ptr, fmt.Sprintf("%q is also %s", r.Name, display(first)), ""))
		}
		registries[r.Name] = ptr
	}
	return faults
}

// checkSigned returns what is wrong between the ways to say who signed.
func (s Site) checkSigned(ptr string, is Signed) []*Fault {
	switch {
	case is == Signed{}:
	case is.Key != "" && is != Signed{Key: is.Key}:
		return []*Fault{s.fault(ptr, "a key and an identity are two ways to sign", "leave one of them out")}
	case is.Key == "" && (is.Identity == "") == (is.IdentityPattern == ""):
		return []*Fault{s.fault(ptr, "want one of key, identity and identityPattern", "")}
	case is.Key == "" && is.Issuer == "":
		return []*Fault{s.fault(ptr, "an identity counts only with its issuer", "as in \"issuer: https://token.actions.githubusercontent.com\"")}
	}
	return nil
}

func (s Site) fault(ptr, message, hint string) *Fault {
	if s.doc == nil {
		return &Fault{File: "site", Message: named(ptr, message), Hint: hint, about: []string{ptr}}
	}
	return s.doc.fault(ptr, false, named(ptr, message), hint)
}

// check returns what is wrong between the values of s. A value that is wrong
// in itself, or missing, is the schema's business and passed over here.
func (s Site) check() []*Fault {
	var faults []*Fault
	add := func(message, hint, ptr string, args ...any) {
		faults = append(faults, s.fault(fmt.Sprintf(ptr, args...), message, hint))
	}
	unique := func(seen map[string]string, v, ptr string) {
		if v == "" {
			return
		}
		if first, ok := seen[v]; ok {
			add(fmt.Sprintf("%q is also %s", v, display(first)), "", "%s", ptr)
			return
		}
		seen[v] = ptr
	}
	faults = append(faults, s.checkEngine()...)
	components, packages := map[string]string{}, map[string]string{}
	for i, c := range s.Components {
		unique(components, c.Name, fmt.Sprintf("/components/%d/name", i))
	}
	for i, p := range s.OS.Packages {
		unique(packages, p, fmt.Sprintf("/os/packages/%d", i))
	}
	for i, e := range s.OS.Exclude {
		unique(packages, e.Name, fmt.Sprintf("/os/exclude/%d/name", i))
	}
	faults = append(faults, s.checkImages()...)
	faults = append(faults, s.checkAllowed()...)
	faults = append(faults, s.checkCharts()...)
	names, macs, serials, addresses := map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
	for i, n := range s.Nodes {
		at := fmt.Sprintf("/nodes/%d", i)
		unique(names, n.Name, at+"/name")
		unique(serials, n.Match.Serial, at+"/match/serial")
		unique(macs, n.Match.MAC, at+"/match/mac")
		if n.Match == (Match{}) {
			add("want serial, mac or both", "", "%s/match", at)
		}
		p, err := parsePrefix(n.Address)
		if err != nil {
			continue
		}
		unique(addresses, p.Addr().String(), at+"/address")
		for _, what := range []string{"pods", "services"} {
			if net, ok := s.ClusterNetworks()[what]; ok && net.Overlaps(p) {
				add(fmt.Sprintf("the network %s overlaps %s, which Kubernetes uses for %s", p.Masked(), net, what), "", "%s/address", at)
			}
		}
		gw, err := parseIP(n.Gateway)
		switch {
		case err != nil:
		case !p.Contains(gw):
			add(fmt.Sprintf("%s is outside the node's network %s", gw, p.Masked()), "", "%s/gateway", at)
		case gw == p.Addr():
			add("is the node's own address", "", "%s/gateway", at)
		}
	}
	faults = append(faults, s.checkBackups()...)
	if len(s.Nodes) > 0 && !slices.ContainsFunc(s.Nodes, func(n Node) bool { return n.Role != "agent" }) {
		add("no node is a server", `give at least one "role: server"`, "/nodes")
	}
	return faults
}
