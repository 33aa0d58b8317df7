package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Small is the size of the manifests as they stand: for two processors and 8 GiB.
const Small = "small"

// Sizes are those that a site can have.
func Sizes() []string { return []string{Small, "large"} }

// Sized gives components the size of a site. What a component has no file for
// stays as it is.
func Sized(all []Component, size string) ([]Component, error) {
	var errs []error
	out := slices.Clone(all)
	for i, c := range out {
		patch, ok := c.Sizes[size]
		if !ok {
			continue
		}
		files, err := patched(c.Manifests, patch)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot make component %s %s: %w", c.Name, size, err))
		}
		out[i].Manifests = files
	}
	return out, errors.Join(errs...)
}

// sizable are the fields of a container that a size may change: nothing that
// becomes of data, or of what may be done, hangs on the size.
var sizable = []string{"name", "resources", "env", "args"}

// patched merges the objects of a size into those of the same kind and name.
func patched(files []File, patch File) ([]File, error) {
	out, added, err := merged(files, patch, checkSize)
	for _, o := range added {
		err = errors.Join(err, fmt.Errorf("%s: there is no %s", patch.Name, identity(o)))
	}
	return out, err
}

// checkSize refuses what is none of a size's business.
func checkSize(p *yaml.RNode) error {
	only := func(n *yaml.RNode, what string, allowed ...string) error {
		fields, err := n.Fields()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for _, f := range fields {
			if !slices.Contains(allowed, f) {
				return fmt.Errorf("%s has %s, and a size has none of that", what, f)
			}
		}
		return nil
	}
	if err := only(p, "it", "apiVersion", "kind", "metadata", "spec"); err != nil {
		return err
	}
	at := p
	for _, step := range []struct{ field, allowed string }{{"metadata", "name namespace"}, {"spec", "template"}} {
		n, err := p.Pipe(yaml.Lookup(step.field))
		if err != nil || n == nil {
			return fmt.Errorf("it has no %s", step.field)
		}
		if err := only(n, step.field, strings.Fields(step.allowed)...); err != nil {
			return err
		}
		at = n
	}
	for _, step := range []struct{ field, allowed string }{{"template", "spec"}, {"spec", "containers"}} {
		n, err := at.Pipe(yaml.Lookup(step.field))
		if err != nil || n == nil {
			return fmt.Errorf("it has no %s", step.field)
		}
		if err := only(n, step.field, step.allowed); err != nil {
			return err
		}
		at = n
	}
	containers, err := at.Pipe(yaml.Lookup("containers"))
	if err != nil || containers == nil {
		return errors.New("it has no containers")
	}
	return containers.VisitElements(func(c *yaml.RNode) error { return only(c, "a container", sizable...) })
}
