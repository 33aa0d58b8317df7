package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// With is what is otherwise of a component where the site has another one too;
// its objects are in the folder with/COMPONENT: those that are among the
// component's manifests and hooks are merged by name, others are added.
type With struct {
	Component string `json:"component"`
	// After says that it is applied after that one, as with Component.After.
	After bool `json:"after,omitempty"`
	// Uses are offers that the component takes then, without waiting for them: a
	// hook's Job is applied with what offers it.
	Uses []Use `json:"uses,omitempty"`
}

// together gives each component what it has with the others that are there.
func together(all map[string]Component, there map[string]bool) error {
	var errs []error
	for name, c := range all {
		for _, w := range c.With {
			if !there[w.Component] {
				continue
			}
			joined, err := c.with(w)
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot join component %s with %s: %w", name, w.Component, err))
			}
			c = joined
		}
		all[name] = c
	}
	return errors.Join(errs...)
}

func (c Component) with(w With) (Component, error) {
	if w.After && !slices.Contains(c.After, w.Component) {
		c.After = append(slices.Clone(c.After), w.Component)
	}
	for _, u := range w.Uses {
		u.late = true
		c.Uses = append(slices.Clone(c.Uses), u)
	}
	return c.over(c.Withs[w.Component])
}

// over merges the objects of patches into those of c's manifests and hooks, by
// name, and adds the others.
func (c Component) over(patches []File) (Component, error) {
	var errs []error
	for _, f := range patches {
		names := slices.Sorted(maps.Keys(c.Hooks))
		files := slices.Clone(c.Manifests)
		for _, name := range names {
			files = append(files, c.Hooks[name])
		}
		files, added, err := merged(files, f, func(*yaml.RNode) error { return nil })
		errs = append(errs, err)
		n := len(c.Manifests)
		c.Manifests, c.Hooks = slices.Clone(files[:n]), map[string]File{}
		for i, name := range names {
			c.Hooks[name] = files[n+i]
		}
		var more []string
		for _, o := range added {
			s, err := o.String()
			errs = append(errs, err)
			more = append(more, s)
		}
		if len(more) > 0 {
			c.Manifests = append(c.Manifests, File{f.Name, []byte(strings.Join(more, "---\n"))})
		}
	}
	return c, errors.Join(errs...)
}

// checkWith reports what is wrong with what c has with others, and returns it
// with all of them.
func checkWith(c Component, all []Component, fault func(string, ...any)) Component {
	for name := range c.Withs {
		if !slices.ContainsFunc(c.With, func(w With) bool { return w.Component == name }) {
			fault("it has a folder with/%s, and nothing of that in component.yaml", name)
		}
	}
	for _, w := range c.With {
		if !slices.ContainsFunc(all, func(o Component) bool { return o.Name == w.Component }) {
			fault("with %s: it is not in the catalog", w.Component)
		}
		if len(w.Uses) == 0 && len(c.Withs[w.Component]) == 0 {
			fault("with %s: nothing is otherwise", w.Component)
		}
		stands := map[string]bool{}
		gather(w.Component, byName(all), stands)
		for _, u := range w.Uses {
			if u.Component != c.Name && !stands[u.Component] {
				fault("with %s: it uses %s of %s, which need not be there", w.Component, u.Offer, u.Component)
			}
		}
		joined, err := c.with(w)
		if err != nil {
			fault("with %s: %w", w.Component, err)
		}
		c = joined
	}
	return c
}
