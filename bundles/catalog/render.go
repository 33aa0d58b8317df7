package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/airgap/store"
)

// Render returns the manifests of c as they are applied: every image of a pod
// by the digest that digests has for it as it is written there
// ("registry/repository:tag", or with a digest that digests knows too), as
// name:tag@digest; one document after another in canonical YAML, in one file
// for each step, the files in order of application. An image that digests
// lacks is an error that names file and line; all are reported together.
func Render(c Component, digests map[string]store.Digest) ([]File, error) {
	objects, err := pin(c, digests)
	if err != nil {
		return nil, err
	}
	return files(objects), nil
}

// pin reads the objects of c and pins their images.
func pin(c Component, digests map[string]store.Digest) ([]object, error) {
	var errs []error
	var objects []object
	used := map[PodTemplate]bool{}
	for _, f := range c.Manifests {
		docs, err := parse(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, d := range docs {
			o, err := d.object(c.PodTemplates, used, digests)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			objects = append(objects, o)
		}
	}
	for _, t := range c.PodTemplates {
		if !used[t] {
			errs = append(errs, fmt.Errorf("cannot render %s: no ConfigMap %s has a pod in %s", c.Name, t.ConfigMap, t.Key))
		}
	}
	errs = append(errs, duplicates(c.Name, objects)...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return objects, nil
}

// object is one Kubernetes object, ready to be applied.
type object struct {
	kind, namespace, name string
	yaml                  []byte
}

func (o object) key() string { return o.kind + " " + o.namespace + "/" + o.name }

// document is one YAML document of a file: as the API server would read it,
// and as nodes that know their lines.
type document struct {
	file   string
	before int // lines before it
	node   ast.Node
	data   map[string]any
}

// parse reads the documents of f, empty ones left out.
func parse(f File) ([]document, error) {
	var out []document
	var errs []error
	before := 0
	for _, text := range split(f.Data) {
		d := document{file: f.Name, before: before}
		before += bytes.Count(text, []byte("\n"))
		if err := yaml.UnmarshalStrict(text, &d.data); err != nil {
			errs = append(errs, fmt.Errorf("cannot read %s:%d: %w", f.Name, d.before+1, err))
			continue
		}
		if d.data == nil {
			continue
		}
		nodes, err := parser.ParseBytes(text, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read %s:%d: %w", f.Name, d.before+1, err))
			continue
		}
		for _, n := range nodes.Docs {
			if n.Body != nil && d.node == nil {
				d.node = n.Body
			}
		}
		out = append(out, d)
	}
	return out, errors.Join(errs...)
}

// split cuts a file before each line that starts a document.
func split(b []byte) [][]byte {
	var out [][]byte
	var at []byte
	for l := range bytes.Lines(b) {
		if marker := bytes.TrimRight(l, " \r\n"); bytes.Equal(marker, []byte("---")) || bytes.HasPrefix(l, []byte("--- ")) {
			out = append(out, at)
			at = nil
		}
		at = append(at, l...)
	}
	return append(out, at)
}

func (d document) object(templates []PodTemplate, used map[PodTemplate]bool, digests map[string]store.Digest) (object, error) {
	meta, _ := d.data["metadata"].(map[string]any)
	o := object{kind: text(d.data["kind"]), namespace: text(meta["namespace"]), name: text(meta["name"])}
	if o.kind == "" || o.name == "" || text(d.data["apiVersion"]) == "" {
		return o, fmt.Errorf("cannot use %s:%d: an object needs apiVersion, kind and metadata.name", d.file, d.before+line(d.node))
	}
	p := pinner{file: d.file, before: d.before, digests: digests}
	p.walk(d.data, d.node)
	if o.kind == "ConfigMap" {
		for _, t := range templates {
			if t.ConfigMap == o.name {
				used[t] = p.template(d, t.Key) || used[t]
			}
		}
	}
	if err := errors.Join(p.errs...); err != nil {
		return o, err
	}
	b, err := yaml.Marshal(d.data) // keys sorted
	if err != nil {
		return o, fmt.Errorf("cannot write %s: %w", o.key(), err)
	}
	o.yaml = b
	return o, nil
}

// pinner replaces image names by names with digests.
type pinner struct {
	file    string
	before  int // lines before the node's first
	digests map[string]store.Digest
	errs    []error
}

// walk goes through a value and its node together. Images are those of lists
// called containers, initContainers or ephemeralContainers, at any depth: the
// pods of workloads and of custom resources alike.
func (p *pinner) walk(v any, n ast.Node) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			child := value(n, key)
			if list, ok := v[key].([]any); ok && (key == "containers" || key == "initContainers" || key == "ephemeralContainers") {
				p.containers(list, child)
			}
			p.walk(v[key], child)
		}
	case []any:
		for i := range v {
			p.walk(v[i], item(n, i))
		}
	}
}

func (p *pinner) containers(list []any, n ast.Node) {
	for i, c := range list {
		m, ok := c.(map[string]any)
		if !ok {
			continue
		}
		at := value(item(n, i), "image")
		if at == nil {
			at = item(n, i)
		}
		name := text(m["image"])
		digest, ok := p.digests[name]
		if !ok {
			p.errs = append(p.errs, fmt.Errorf("cannot pin the image at %s:%d: %q is not an image of the release\nhint: declare it, by this full name, under images of the component or of site.yaml",
				p.file, p.before+line(at), name))
			continue
		}
		name, _, _ = strings.Cut(name, "@")
		m["image"] = name + "@" + string(digest)
	}
}

// template pins the pod in a ConfigMap's value; false if there is none.
func (p *pinner) template(d document, key string) bool {
	values, _ := d.data["data"].(map[string]any)
	pod := text(values[key])
	if pod == "" {
		return false
	}
	inner, err := parse(File{d.file, []byte(pod)})
	if err != nil || len(inner) != 1 {
		p.errs = append(p.errs, fmt.Errorf("cannot read the pod in %s of %s: want one YAML document: %w", key, d.file, err))
		return true
	}
	q := pinner{file: d.file, digests: p.digests, before: d.before + line(value(value(d.node, "data"), key))}
	q.walk(inner[0].data, inner[0].node)
	p.errs = append(p.errs, q.errs...)
	b, err := yaml.Marshal(inner[0].data)
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("cannot write the pod in %s: %w", key, err))
	}
	values[key] = string(b)
	return true
}

// value is the node of a mapping's value, nil if there is none.
func value(n ast.Node, key string) ast.Node {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if v.Key.GetToken().Value == key {
				return v.Value
			}
		}
	case *ast.MappingValueNode:
		if n.Key.GetToken().Value == key {
			return n.Value
		}
	}
	return nil
}

// item is the node of a list's element, nil if there is none.
func item(n ast.Node, i int) ast.Node {
	if s, ok := n.(*ast.SequenceNode); ok && i < len(s.Values) {
		return s.Values[i]
	}
	return nil
}

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
