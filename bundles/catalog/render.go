package catalog

import (
	"bytes"
	"errors"
	"fmt"
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
	hooks, herr := renderAllHooks(c, digests)
	if err := errors.Join(err, herr); err != nil {
		return nil, err
	}
	for i := range hooks {
		hooks[i].hook = true
	}
	return files(append(objects, hooks...)), nil
}

// pin reads the objects of c and pins their images.
func pin(c Component, digests map[string]store.Digest) ([]object, error) {
	var errs []error
	var objects []object
	read, err := Read(c)
	errs = append(errs, err)
	for _, o := range read {
		ready, err := o.pin(digests)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		objects = append(objects, ready)
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
	hook                  bool // of another component, before workloads
}

func (o object) key() string { return o.kind + " " + o.namespace + "/" + o.name }

// document is one object of a file, a YAML document or in one that is a list:
// as the API server would read it, and as nodes that know their lines.
type document struct {
	file   string
	before int // lines before its YAML document
	node   ast.Node
	data   map[string]any
}

// parse reads the documents of f, empty ones left out and lists taken apart.
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
		out = append(out, d.items()...)
	}
	return out, errors.Join(errs...)
}

// items are the objects of d if it is a List, of any kind, else d itself; each
// has its own lines.
func (d document) items() []document {
	list, ok := d.data["items"].([]any)
	if !ok || !strings.HasSuffix(text(d.data["kind"]), "List") {
		return []document{d}
	}
	var out []document
	for i, v := range list {
		data, _ := v.(map[string]any)
		in := document{file: d.file, before: d.before, node: item(value(d.node, "items"), i), data: data}
		if in.node == nil { // behind an alias: the list's line
			in.before, _ = d.place("items")
		}
		out = append(out, in.items()...)
	}
	return out
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

// pin gives o its images by digest; o is changed.
func (o Object) pin(digests map[string]store.Digest) (object, error) {
	var errs []error
	for _, f := range o.images {
		name := f.name()
		digest, ok := digests[name]
		if !ok {
			errs = append(errs, fmt.Errorf("cannot pin the image at %s:%d: %q is not an image of the release\nhint: declare it, by this full name, under images of the component or of site.yaml",
				o.File, f.line, name))
			continue
		}
		name, _, _ = strings.Cut(name, "@")
		f.in[f.key] = name + "@" + string(digest)
	}
	if err := errors.Join(errs...); err != nil {
		return object{}, err
	}
	return o.canonical()
}

// canonical is o as it is applied.
func (o Object) canonical() (object, error) {
	ready := object{kind: o.Kind, namespace: o.Namespace, name: o.Name}
	b, err := yaml.Marshal(o.Data) // keys sorted
	if err != nil {
		return ready, fmt.Errorf("cannot write %s: %w", ready.key(), err)
	}
	ready.yaml = b
	return ready, nil
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

func lineOf(n ast.Node) int {
	if n == nil || n.GetToken() == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
