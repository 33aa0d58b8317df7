package charts

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Rendered is what a release of a chart applies, in the order in which it does.
type Rendered struct {
	Before  Stage // definitions that hooks need, and hooks before installation
	Objects Stage
	After   Stage // hooks after installation
	Defines []Definition
	Skipped []string // hooks that never run here, for the reader: KIND NAME (HOOK)
}

// Stage is a part that is applied as one.
type Stage struct {
	Files []File   // YAML, by the name of the template
	Ready []Object // workloads and hooks by which it is healthy
}

// Object names an object.
type Object struct{ Kind, Namespace, Name string }

// rendering sorts objects into stages.
type rendering struct {
	release Release
	chart   string
	defines []Definition
	before  []object
	main    []object
	after   []object
	skipped []string
	errs    []error
}

type object struct {
	file string
	data map[string]any
	job  bool // a hook
}

func (o object) kind() string { return text(o.data["kind"]) }
func (o object) meta() map[string]any {
	m, _ := o.data["metadata"].(map[string]any)
	return m
}
func (o object) name() string { return text(o.meta()["name"]) }

func text(v any) string {
	s, _ := v.(string)
	return s
}

// objects takes the rendered templates apart.
func (p prepared) objects(r Release, rendered map[string]string) (Rendered, error) {
	w := &rendering{release: r, chart: p.chart.Name()}
	var definitions []object
	for _, f := range p.chart.CRDObjects() {
		for _, o := range w.read(f.Filename, string(f.File.Data)) {
			w.defines = append(w.defines, Definitions(o.data)...)
			definitions = append(definitions, o)
		}
	}
	var all []object
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if path.Base(name) == "NOTES.txt" {
			continue
		}
		for _, o := range w.read(name, rendered[name]) {
			w.defines = append(w.defines, Definitions(o.data)...)
			all = append(all, o)
		}
	}
	for _, o := range all {
		w.place(o)
	}
	w.ordered()
	if len(w.before) > 0 {
		w.before = append(definitions, w.before...)
	} else {
		w.main = append(definitions, w.main...)
	}
	out := Rendered{Defines: w.defines, Skipped: w.skipped}
	out.Before, out.Objects, out.After = w.stage(w.before), w.stage(w.main), w.stage(w.after)
	return out, errors.Join(w.errs...)
}

func (w *rendering) fail(o object, format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf("template %s: %s %s: "+format, slices.Concat([]any{o.file, o.kind(), o.name()}, args)...))
}

// read takes the documents of a file apart, and lists in them.
func (w *rendering) read(file, content string) []object {
	var out []object
	for i, doc := range documents(content) {
		var data map[string]any
		if err := yaml.Unmarshal([]byte(doc), &data); err != nil {
			w.errs = append(w.errs, fmt.Errorf("template %s renders to what is no object, in document %d: %w", file, i+1, err))
			continue
		}
		if len(data) == 0 {
			continue
		}
		items, list := data["items"].([]any)
		if !list || !strings.HasSuffix(fmt.Sprint(data["kind"]), "List") {
			items = []any{data}
		}
		for _, item := range items {
			m, _ := item.(map[string]any)
			o := object{file: file, data: m}
			if o.kind() == "" || text(m["apiVersion"]) == "" || o.name() == "" {
				w.errs = append(w.errs, fmt.Errorf("template %s renders to what is no object, in document %d: it has no apiVersion, kind or metadata.name", file, i+1))
				continue
			}
			out = append(out, o)
		}
	}
	return out
}

// documents cuts text at its document marks.
func documents(text string) []string {
	var out []string
	var at strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimRight(line, " \t\r\n") == "---" || strings.HasPrefix(line, "--- ") {
			out = append(out, at.String())
			at.Reset()
			continue
		}
		at.WriteString(line)
	}
	return append(out, at.String())
}
