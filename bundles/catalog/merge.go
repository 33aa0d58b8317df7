package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/kustomize/kyaml/yaml/merge2"
)

// merged merges the objects of a file into those of the same kind and name in
// files: maps by key, containers, their environment, mounts and volumes by name,
// other lists as a whole. added are those that there are none of. Each is checked
// before.
func merged(files []File, patch File, check func(*yaml.RNode) error) (out []File, added []*yaml.RNode, err error) {
	var errs []error
	fault := func(name string, err error) { errs = append(errs, fmt.Errorf("%s: %w", name, err)) }
	out = append(out, files...)
	for _, doc := range documents(patch.Data) {
		p, err := yaml.Parse(string(doc))
		if err == nil {
			err = check(p)
		}
		if err != nil {
			fault(patch.Name, err)
			continue
		}
		found := false
		for i, f := range out {
			docs := documents(f.Data)
			for j, d := range docs {
				o, err := yaml.Parse(string(d))
				if err != nil {
					fault(f.Name, err)
					continue
				}
				if identity(o) != identity(p) {
					continue
				}
				found = true
				both, err := merge2.Merge(p.Copy(), o, yaml.MergeOptions{})
				if err == nil {
					var s string
					s, err = both.String()
					docs[j] = []byte(s)
				}
				if err != nil {
					fault(patch.Name, err)
				}
			}
			if found {
				out[i].Data = bytes.Join(docs, []byte("---\n"))
				break
			}
		}
		if !found {
			added = append(added, p)
		}
	}
	return out, added, errors.Join(errs...)
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
