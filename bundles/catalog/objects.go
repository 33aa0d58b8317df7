package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Object is one object of a component's manifests as it is written there,
// before its images are pinned.
type Object struct {
	Component        string
	File             string // as in Component.Manifests
	APIVersion, Kind string
	Namespace, Name  string
	Data             map[string]any
	images           []imageField
	document         document
}

// ImageUse is the name of an image in a field that Render pins.
type ImageUse struct {
	Name string
	Path string // the field, as in spec.containers[0].image
	Line int
}

// imageField is a field that holds the name of an image.
type imageField struct {
	in   map[string]any
	key  string
	path string
	line int
}

func (f imageField) name() string { return text(f.in[f.key]) }

// Read returns the objects of c's manifests in the order in which they are
// written. What is no object, and a declaration of c that is about nothing in
// them, are errors; with them it returns the objects that could be read.
func Read(c Component) ([]Object, error) {
	var errs []error
	var out []Object
	used := map[ImageField]bool{}
	for _, f := range c.Manifests {
		docs, err := parse(f)
		errs = append(errs, err)
		for _, d := range docs {
			o, err := d.object(c, used)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			out = append(out, o)
		}
	}
	for _, f := range c.ImageFields {
		if !used[f] {
			errs = append(errs, fmt.Errorf("cannot render %s: no %s of group %q has an image in %s\nhint: change or remove it under imageFields", c.Name, f.Kind, f.Group, f.Path))
		}
	}
	return out, errors.Join(errs...)
}

// Images are the fields of o that Render pins.
func (o Object) Images() []ImageUse {
	var out []ImageUse
	for _, f := range o.images {
		out = append(out, ImageUse{f.name(), f.path, f.line})
	}
	return out
}

// Line is the line in o's file of the value at path, whose elements are keys
// (string) and indices (int); where aliases and the like hide it, that of the
// nearest value around it. Block tells whether the value's text begins on the
// line after, each of its lines on one of the file's.
func (o Object) Line(path ...any) (line int, block bool) { return o.document.place(path...) }

func (d document) place(path ...any) (int, bool) {
	n, at := d.node, lineOf(d.node)
	for _, p := range path {
		switch p := p.(type) {
		case string:
			n = value(n, p)
		case int:
			n = item(n, p)
		}
		if l := lineOf(n); l > 0 {
			at = l
		}
	}
	lit, ok := n.(*ast.LiteralNode)
	return d.before + at, ok && lit.Start != nil && lit.Start.Type == token.LiteralType
}

// object finds the images in d.
func (d document) object(c Component, used map[ImageField]bool) (Object, error) {
	meta, _ := d.data["metadata"].(map[string]any)
	o := Object{Component: c.Name, File: d.file, APIVersion: text(d.data["apiVersion"]), Kind: text(d.data["kind"]),
		Namespace: text(meta["namespace"]), Name: text(meta["name"]), Data: d.data, document: d}
	if o.Kind == "" || o.Name == "" || o.APIVersion == "" {
		return o, fmt.Errorf("cannot use %s:%d: an object needs apiVersion, kind and metadata.name", d.file, d.before+lineOf(d.node))
	}
	o.images = d.pods("", d.data, nil, nil)
	group, _, ok := strings.Cut(o.APIVersion, "/")
	if !ok {
		group = ""
	}
	for _, f := range c.ImageFields {
		if f.Group == group && f.Kind == o.Kind {
			found := d.declared(strings.Split(f.Path, "."), "", d.data, nil)
			used[f] = used[f] || len(found) > 0
			for _, i := range found { // in a pod it is there already
				if !slices.ContainsFunc(o.images, func(f imageField) bool { return f.path == i.path }) {
					o.images = append(o.images, i)
				}
			}
		}
	}
	return o, nil
}

// pods finds the images of pods at any depth of v: of workloads and of custom
// resources alike, in lists called containers, initContainers or
// ephemeralContainers, and in volumes that are images. A container without one
// has the empty name.
func (d document) pods(path string, v any, at []any, out []imageField) []imageField {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			list, _ := v[key].([]any)
			switch key {
			case "containers", "initContainers", "ephemeralContainers":
				for i, c := range list {
					if m, ok := c.(map[string]any); ok {
						out = append(out, d.field(Field(path, key, i), m, "image", extend(at, key, i)))
					}
				}
			case "volumes":
				for i, c := range list {
					vol, _ := c.(map[string]any)
					if m, ok := vol["image"].(map[string]any); ok && m["reference"] != nil {
						out = append(out, d.field(Field(path, key, i, "image"), m, "reference", extend(at, key, i, "image")))
					}
				}
			}
			out = d.pods(Field(path, key), v[key], extend(at, key), out)
		}
	case []any:
		for i := range v {
			out = d.pods(Field(path, i), v[i], extend(at, i), out)
		}
	}
	return out
}

// declared finds the images at a declared path, whose elements are keys; one
// that ends in [] goes through a list, or through all values of a mapping.
func (d document) declared(keys []string, path string, v any, at []any) []imageField {
	key, each := strings.CutSuffix(keys[0], "[]")
	m, _ := v.(map[string]any)
	child, ok := m[key]
	if !ok {
		return nil
	}
	if len(keys) == 1 && !each {
		if text(child) == "" {
			return nil
		}
		return []imageField{d.field(path, m, key, at)}
	}
	path, at = Field(path, key), extend(at, key)
	if !each {
		return d.declared(keys[1:], path, child, at)
	}
	if len(keys) == 1 {
		return nil // a list of bare names; the declaration is refused
	}
	var out []imageField
	switch child := child.(type) {
	case []any:
		for i, c := range child {
			out = append(out, d.declared(keys[1:], Field(path, i), c, extend(at, i))...)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(child)) {
			out = append(out, d.declared(keys[1:], Field(path, k), child[k], extend(at, k))...)
		}
	}
	return out
}

func (d document) field(path string, in map[string]any, key string, at []any) imageField {
	line, _ := d.place(extend(at, key)...)
	return imageField{in, key, Field(path, key), line}
}

func extend(at []any, further ...any) []any { return slices.Concat(at, further) }

// Field writes the path of a value below another: keys after dots, indices and
// keys with dots or slashes in brackets.
func Field(path string, further ...any) string {
	var b strings.Builder
	b.WriteString(path)
	for _, f := range further {
		switch f := f.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", f)
		case string:
			switch {
			case f == "" || strings.ContainsAny(f, "./[] \""):
				fmt.Fprintf(&b, "[%q]", f)
			case b.Len() == 0:
				b.WriteString(f)
			default:
				b.WriteString("." + f)
			}
		}
	}
	return b.String()
}

// HasImageField reports whether an object of c's manifests has an image in a
// field.
func HasImageField(c Component, f ImageField) bool {
	c.ImageFields = []ImageField{f}
	var docs []document
	for _, m := range c.Manifests {
		read, _ := parse(m) // what is wrong, Read tells
		docs = append(docs, read...)
	}
	used := map[ImageField]bool{}
	for _, d := range docs {
		_, _ = d.object(c, used)
	}
	return used[f]
}
