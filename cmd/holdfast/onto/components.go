package onto

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// engine are the components that each cluster has in some form: nobody wants a
// second one.
var engine = []string{"kubernetes", "containerd", "kube-proxy", "coredns", "storage", "metrics-server", "traefik"}

// fits are the platform's components that need nothing of a node of holdfast.
var fits = []string{"postgresql", "loki"}

// needsNode says what the others need. Any that is not here or above is refused
// as well: nobody has looked at it.
var needsNode = map[string]string{
	"certificates": "its rules for names of certificates count in the whole cluster, and it would be a second cert-manager beside one that is there",
	"ingress":      "its address in the cluster is fixed, the node's is written by the agent, and its rules for names count in the whole cluster",
	"keycloak":     "it is reached by ingress and by names of the site's domain, which this cluster's DNS does not have",
	"registry":     "it is reached by ingress and takes Keycloak's tokens, and containerd is told of it by the agent",
	"minio":        "its certificates are of the component certificates",
	"collector":    "it reads directories of the node, and the journal that the agent writes there",
	"monitoring":   "it watches and reports by the agent of the node",
}

// chooseComponents takes what can be applied; the images are not rewritten yet.
func (p *Plan) chooseComponents(l look) error {
	v := p.options.Release
	b, err := v.NodeJSON()
	if err != nil {
		return err
	}
	config, err := node.Parse(b)
	if err != nil {
		return err
	}
	own, err := ownComponents(v)
	if err != nil {
		return err
	}
	all, have := config.Components, v.Components()
	for _, name := range have {
		if !slices.ContainsFunc(all, func(c node.Component) bool { return c.Name == name }) {
			all = append(all, node.Component{Name: name})
		}
	}
	var errs []error
	out := map[string]bool{}
	leave := func(name, reason string) {
		out[name] = true
		p.LeftOut = append(p.LeftOut, LeftOut{name, reason})
	}
	for _, name := range p.options.LeaveOut {
		if !slices.ContainsFunc(all, func(c node.Component) bool { return c.Name == name }) {
			errs = append(errs, fmt.Errorf("there is no component %s to leave out", name))
		}
	}
	for _, c := range all {
		switch {
		case slices.Contains(p.options.LeaveOut, c.Name):
			leave(c.Name, "the operator leaves it out")
			continue
		case slices.Contains(own, c.Name), slices.Contains(fits, c.Name):
		case slices.Contains(engine, c.Name):
			leave(c.Name, "the cluster has its own")
			continue
		default:
			reason := needsNode[c.Name]
			if reason == "" {
				reason = "it is a part of the platform that was not tried on a cluster of others"
			}
			errs = append(errs, fmt.Errorf("component %s does not work here: %s\nhint: take it out of the site, or leave it out with --leave-out %s", c.Name, reason, c.Name))
			continue
		}
		k, err := p.component(c, slices.Contains(have, c.Name))
		errs = append(errs, err)
		p.components = append(p.components, k)
	}
	for _, c := range p.components {
		if slices.Contains(own, c.Name) {
			continue // they need all of the platform, whatever of it there is
		}
		for _, n := range c.Needs {
			if out[n] && !slices.Contains(engine, n) {
				errs = append(errs, fmt.Errorf("component %s needs %s, which is left out\nhint: leave both out, or none", c.Name, n))
			}
		}
	}
	if len(p.components) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("nothing in the release is for a cluster of others\nhint: manifests, charts and kustomizations of the site are"))
	}
	return errors.Join(errs...)
}

// ownComponents are the names of those that the site itself declares.
func ownComponents(v *bundles.Verified) ([]string, error) {
	b, err := v.SiteJSON()
	if err != nil {
		return nil, err
	}
	type named struct {
		Name string `json:"name"`
	}
	var s struct {
		Charts         []named `json:"charts"`
		Kustomizations []named `json:"kustomizations"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("cannot read site.json: %w", err)
	}
	out := []string{"site"}
	for _, c := range s.Charts {
		out = append(out, c.Name, c.Name+"-before", c.Name+"-after")
	}
	for _, k := range s.Kustomizations {
		out = append(out, k.Name)
	}
	return out, nil
}

// component reads the manifests of c. Where nothing says when it is ready, all
// of its workloads must be rolled out.
func (p *Plan) component(c node.Component, has bool) (apply.Component, error) {
	k := apply.Component{Component: c}
	if !has {
		return k, nil
	}
	ms, err := p.options.Release.Manifests(c.Name)
	if err != nil {
		return k, err
	}
	for _, m := range ms {
		objs, err := apply.Parse(m.Data)
		if err != nil {
			return k, fmt.Errorf("%s of component %s: %w", m.Title, c.Name, err)
		}
		k.Objects = append(k.Objects, objs...)
	}
	if len(k.Ready) > 0 {
		return k, nil
	}
	for _, o := range k.Objects {
		gv, _, _ := strings.Cut(o.GetAPIVersion(), "/")
		workload := gv == "apps" && slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, o.GetKind()) || gv == "batch" && o.GetKind() == "Job"
		if workload && o.GetAnnotations()[apply.When] == "" {
			ns := o.GetNamespace()
			if ns == "" {
				ns = "default"
			}
			k.Ready = append(k.Ready, node.Ready{Kind: o.GetKind(), Namespace: ns, Name: o.GetName()})
		}
	}
	return k, nil
}

// namespaces are those that applying makes.
func (p *Plan) namespaces() []string {
	made := map[string]bool{Namespace: true}
	for _, c := range p.components {
		if c.Namespace != "" {
			made[c.Namespace] = true
		}
		for _, s := range c.Secrets {
			made[s.Namespace] = true
		}
		for _, o := range c.Objects {
			if o.GetKind() == "Namespace" && o.GetAPIVersion() == "v1" {
				made[o.GetName()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(made))
}

// objects calls f for each object that is applied.
func (p *Plan) objects(f func(c apply.Component, o *unstructured.Unstructured)) {
	for _, c := range p.components {
		for _, o := range c.Objects {
			f(c, o)
		}
	}
}
