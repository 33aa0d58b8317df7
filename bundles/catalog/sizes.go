package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/kustomize/kyaml/yaml/merge2"
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

// patched merges objects into those of the same kind and name: maps by key,
// containers and their environment by name, other lists as a whole.
func patched(files []File, patch File) ([]File, error) {
	var errs []error
	out := slices.Clone(files)
	for _, doc := range documents(patch.Data) {
		p, err := yaml.Parse(string(doc))
		if err == nil {
			err = checkSize(p)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", patch.Name, err))
			continue
		}
		found := false
		for i, f := range out {
			docs := documents(f.Data)
			for j, d := range docs {
				o, err := yaml.Parse(string(d))
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", f.Name, err))
					continue
				}
				if identity(o) != identity(p) {
					continue
				}
				found = true
				merged, err := merge2.Merge(p.Copy(), o, yaml.MergeOptions{})
				if err == nil {
					var s string
					s, err = merged.String()
					docs[j] = []byte(s)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", patch.Name, err))
				}
			}
			out[i].Data = bytes.Join(docs, []byte("---\n"))
		}
		if !found {
			errs = append(errs, fmt.Errorf("%s: there is no %s", patch.Name, identity(p)))
		}
	}
	return out, errors.Join(errs...)
}

// documents are those of a file; each ends with a line feed.
func documents(b []byte) [][]byte {
	var out [][]byte
	for _, d := range bytes.Split(append([]byte("\n"), b...), []byte("\n---\n")) {
		if d = bytes.Trim(d, "\n"); len(d) > 0 {
			out = append(out, append(bytes.Clone(d), '\n'))
		}
	}
	return out
}

func identity(o *yaml.RNode) string {
	return strings.TrimSpace(o.GetApiVersion() + " " + o.GetKind() + " " + path.Join(o.GetNamespace(), o.GetName()))
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
