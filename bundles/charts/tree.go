package charts

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"
)

// source is a template of a chart or of one of its dependencies.
type source struct {
	name string // CHART/templates/FILE, CHART/charts/DEPENDENCY/templates/FILE
	text string
}

// call is a place where a template calls a function.
type call struct {
	function string
	at       string   // FILE:LINE
	values   []string // that decide on it, or go into the same expression
}

// trees are the parse trees of all templates, by the names that they define.
type trees map[string]*parse.Tree

// parseAll reads all templates; of two of one name the last counts, as for
// Helm.
func parseAll(sources []source) (trees, error) {
	out := trees{}
	for _, s := range sources {
		t := parse.New(s.name)
		t.Mode = parse.SkipFuncCheck
		set := map[string]*parse.Tree{}
		if _, err := t.Parse(s.text, "", "", set); err != nil {
			return nil, fmt.Errorf("cannot parse template: %w", err)
		}
		for name, tree := range set {
			tree.ParseName = s.name
			out[name] = tree
		}
	}
	return out, nil
}

// calls are those of the functions that wanted names, in the template called
// name and in all that it includes by a constant name.
func (ts trees) calls(name string, wanted func(string) bool) []call {
	w := walker{trees: ts, wanted: wanted, seen: map[string]bool{}}
	w.template(name)
	return w.found
}

// every is calls of all templates there are, whether anything includes them.
func (ts trees) every(wanted func(string) bool) []call {
	w := walker{trees: ts, wanted: wanted, seen: map[string]bool{}}
	for name := range ts {
		w.template(name)
	}
	slices.SortFunc(w.found, func(a, b call) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.function, b.function)) })
	return slices.CompactFunc(w.found, func(a, b call) bool { return a.at == b.at && a.function == b.function })
}

type walker struct {
	trees  trees
	wanted func(string) bool
	seen   map[string]bool
	at     *parse.Tree
	guards []parse.Node // conditions around
	found  []call
}

func (w *walker) template(name string) {
	t, ok := w.trees[name]
	if !ok || w.seen[name] || t.Root == nil {
		return
	}
	w.seen[name] = true
	outer, guards := w.at, w.guards
	w.at, w.guards = t, nil
	w.node(t.Root, nil)
	w.at, w.guards = outer, guards
}

// node walks below n; expression is the pipeline that n stands in.
func (w *walker) node(n parse.Node, expression *parse.PipeNode) {
	if n == nil || reflect.ValueOf(n).IsNil() {
		return
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, c := range n.Nodes {
			w.node(c, expression)
		}
	case *parse.ActionNode:
		w.node(n.Pipe, n.Pipe)
	case *parse.IfNode:
		w.branch(&n.BranchNode)
	case *parse.WithNode:
		w.branch(&n.BranchNode)
	case *parse.RangeNode:
		w.branch(&n.BranchNode)
	case *parse.TemplateNode:
		w.node(n.Pipe, n.Pipe)
		w.template(n.Name)
	case *parse.PipeNode:
		if expression == nil {
			expression = n
		}
		for _, c := range n.Cmds {
			w.node(c, expression)
		}
	case *parse.CommandNode:
		w.command(n, expression)
	case *parse.ChainNode:
		w.node(n.Node, expression)
	case *parse.IdentifierNode:
		if w.wanted(n.Ident) {
			w.found = append(w.found, call{n.Ident, w.line(n), w.values(expression)})
		}
	}
}

func (w *walker) branch(b *parse.BranchNode) {
	w.node(b.Pipe, b.Pipe)
	w.guards = append(w.guards, b.Pipe)
	w.node(b.List, nil)
	w.node(b.ElseList, nil)
	w.guards = w.guards[:len(w.guards)-1]
}

func (w *walker) command(n *parse.CommandNode, expression *parse.PipeNode) {
	for _, a := range n.Args {
		w.node(a, expression)
	}
	if id, ok := n.Args[0].(*parse.IdentifierNode); ok && id.Ident == "include" && len(n.Args) > 1 {
		if name, ok := n.Args[1].(*parse.StringNode); ok {
			w.template(name.Text)
		}
	}
}

func (w *walker) line(n parse.Node) string {
	location, _ := w.at.ErrorContext(n) // NAME:LINE:COLUMN
	rest := strings.TrimPrefix(location, w.at.ParseName+":")
	line, _, _ := strings.Cut(rest, ":")
	return w.at.ParseName + ":" + line
}

// values are the chart's values that an expression and the conditions around it
// read, as a user sets them.
func (w *walker) values(expression *parse.PipeNode) []string {
	var out []string
	prefix := dependency(w.at.ParseName)
	add := func(n parse.Node) {
		for _, v := range valuesIn(n) {
			if v = prefix + v; !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	if expression != nil {
		add(expression)
	}
	for _, g := range slices.Backward(w.guards) {
		add(g)
	}
	return out
}

// dependency is the key below which a template's values stand among those of
// the chart, with its dot: none for the chart's own.
func dependency(template string) string {
	var out strings.Builder
	parts := strings.Split(template, "/")
	for i := 1; i+1 < len(parts) && parts[i] == "charts"; i += 2 {
		out.WriteString(parts[i+1] + ".")
	}
	return out.String()
}

// valuesIn are the paths below .Values and $.Values that n reads.
func valuesIn(n parse.Node) []string {
	var out []string
	add := func(ident []string) {
		if len(ident) > 1 && ident[0] == "Values" {
			out = append(out, strings.Join(ident[1:], "."))
		}
	}
	switch n := n.(type) {
	case *parse.PipeNode:
		if n == nil {
			return nil
		}
		for _, c := range n.Cmds {
			for _, a := range c.Args {
				out = append(out, valuesIn(a)...)
			}
		}
	case *parse.FieldNode:
		add(n.Ident)
	case *parse.VariableNode:
		if len(n.Ident) > 1 && n.Ident[0] == "$" {
			add(n.Ident[1:])
		}
	case *parse.ChainNode:
		out = append(out, valuesIn(n.Node)...)
	}
	return out
}
