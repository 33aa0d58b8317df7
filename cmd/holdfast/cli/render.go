package cli

import (
	"errors"
	"fmt"
	"slices"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/bundles/charts"
	"holdfast.dev/holdfast/bundles/check"
	"holdfast.dev/holdfast/overlays"
)

// render makes components of the site's charts and kustomizations. What cannot
// be rendered is in the findings of what it returns.
func (a *app) render(in inputs, l airgap.Lock) (inputs, error) {
	if len(in.charts)+len(in.kustomizations) == 0 {
		return in, nil
	}
	var s *store.Store
	if len(in.request.Charts) > 0 {
		var err error
		if s, err = a.cache(); err != nil {
			return in, err
		}
	}
	r := renderer{in: in, lock: l, store: s}
	for _, c := range in.components {
		r.platform = append(r.platform, c.Name)
	}
	kustomized := r.kustomizations()
	r.defines = slices.Concat(r.defines, definitions(in.components...), definitions(in.siteComponent()), definitions(kustomized...))
	for _, c := range in.charts {
		if err := r.chart(c); errors.Is(err, charts.ErrEndless) {
			break // what does not end still takes time and memory
		}
	}
	for _, k := range kustomized {
		r.add(k)
	}
	in.own, in.broken, in.skipped = r.own, r.broken, r.skipped
	in.own, in.unusedFields = withImageFields(in.own, in.site.ImageFields)
	return in, nil
}

// renderer collects what render makes.
type renderer struct {
	in       inputs
	lock     airgap.Lock
	store    *store.Store
	platform []string
	defines  []charts.Definition
	own      []catalog.Component
	broken   []check.Finding
	skipped  []string
}

// add puts a component behind those that are there: it is applied when the
// platform is healthy, and those before it are applied.
func (r *renderer) add(c catalog.Component) {
	c.Needs = slices.Concat(r.platform, c.Needs)
	if n := len(r.own); n > 0 {
		c.After = append(c.After, r.own[n-1].Name)
	}
	r.own = append(r.own, c)
}

func (r *renderer) fail(what string, err error) {
	for _, f := range findingsOf(check.Manifest, err) {
		f.File = what
		r.broken = append(r.broken, f)
	}
}

func (r *renderer) kustomizations() []catalog.Component {
	var out []catalog.Component
	for i, src := range r.in.kustomizations {
		name := r.in.site.Kustomizations[i].Name
		b, err := src.Render()
		if err == nil {
			err = overlays.CheckManifest(src.Dir, b)
		}
		if err != nil {
			r.fail("kustomization "+name, err)
			continue
		}
		out = append(out, catalog.Component{Name: name, Manifests: []catalog.File{{Name: renderedFile("kustomization "+name, src.Dir), Data: b}}})
	}
	return out
}

// chart renders one, into up to three components: hooks that come before, the
// chart itself, hooks that come after. What it could not is told with the
// findings; the error is for the caller to see which it was.
func (r *renderer) chart(c chartInput) error {
	what := "chart " + c.Name
	ch, err := c.read(r.lock, r.store)
	if err != nil {
		r.fail(what, err)
		return err
	}
	out, err := ch.Render(charts.Release{
		Name: c.Name, Namespace: c.Namespace, Kubernetes: r.in.site.Kubernetes.Version,
		Defined: r.defines, APIVersions: c.APIVersions, Values: c.values,
	})
	if err != nil {
		r.fail(what, err)
		return err
	}
	r.defines = append(r.defines, out.Defines...)
	for _, h := range out.Skipped {
		r.skipped = append(r.skipped, fmt.Sprintf("%s: left out, as it never runs on a site: %s", what, h))
	}
	component := func(name string, s charts.Stage) catalog.Component {
		k := catalog.Component{Name: name, Namespace: c.Namespace}
		for _, f := range s.Files {
			k.Manifests = append(k.Manifests, catalog.File{Name: renderedFile(what, f.Name), Data: f.Data})
		}
		for _, o := range s.Ready {
			k.Ready = append(k.Ready, catalog.Ready(o))
		}
		return k
	}
	secrets := func(k catalog.Component) catalog.Component {
		for _, s := range c.Secrets {
			k.Secrets = append(k.Secrets, catalog.Secret{Name: s.Name, Namespace: c.Namespace, Generate: s.Generate})
		}
		return k
	}
	main := component(c.Name, out.Objects)
	if len(out.Before.Files) > 0 {
		before := component(c.Name+"-before", out.Before)
		r.add(secrets(before)) // for the hooks; and they stay
		main.Needs = []string{before.Name}
	} else {
		main = secrets(main)
	}
	r.add(main)
	if len(out.After.Files) > 0 {
		r.add(component(c.Name+"-after", out.After))
	}
	return nil
}

// renderedFile is what findings call a rendered file; it has no lines that
// anybody could look up.
func renderedFile(what, file string) string { return what + ": " + file }

// definitions are the kinds that components define.
func definitions(cs ...catalog.Component) []charts.Definition {
	var out []charts.Definition
	for _, c := range cs {
		objects, _ := catalog.Read(c) // what is wrong is told elsewhere
		for _, o := range objects {
			out = append(out, charts.Definitions(o.Data)...)
		}
	}
	return out
}

// withImageFields gives each rendered component the declared fields that it
// has; those that none has are left for the site's manifests.
func withImageFields(own []catalog.Component, fields []overlays.ImageField) ([]catalog.Component, []overlays.ImageField) {
	out := slices.Clone(own)
	var unused []overlays.ImageField
	for _, f := range fields {
		used := false
		for i, c := range out {
			if catalog.HasImageField(c, catalog.ImageField(f)) {
				out[i].ImageFields = append(slices.Clone(out[i].ImageFields), catalog.ImageField(f))
				used = true
			}
		}
		if !used {
			unused = append(unused, f)
		}
	}
	return out, unused
}

// doubles are the objects of charts and kustomizations that another component
// applies too.
func (in inputs) doubles(objects []catalog.Object) []check.Finding {
	own := map[string]bool{}
	for _, c := range in.own {
		own[c.Name] = true
	}
	var out []check.Finding
	first := map[string]catalog.Object{}
	for _, o := range objects {
		key := o.Kind + " " + o.Namespace + "/" + o.Name
		was, ok := first[key]
		if !ok {
			first[key] = o
			continue
		}
		if was.Component != o.Component && (own[o.Component] || own[was.Component]) {
			out = append(out, check.Finding{Kind: check.Manifest, File: o.File, Message: fmt.Sprintf("%s is also in %s, and each would undo the other", key, was.File),
				Hint: "leave it to one of them"})
		}
	}
	return out
}
