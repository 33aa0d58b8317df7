package overlays

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of one file. Depth is checked before parsing, because the parser
// recurses; values are counted with aliases written out.
const (
	maxDepth  = 64
	maxKeys   = 5000
	maxValues = 200_000
)

// document is one YAML document as plain values, with their positions.
type document struct {
	file  string
	lines []string
	value any // of map[string]any, []any, string, json.Number, float64, bool, nil
	at    map[string]place
}

// place says where a value and its key stand.
type place struct{ key, value *token.Token }

// pointer is the JSON pointer (RFC 6901) of a value.
func pointer(parent, name string) string {
	return parent + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// display writes a pointer as a user would: nodes[0].match.mac.
func display(ptr string) string {
	var b strings.Builder
	for _, e := range strings.Split(ptr, "/")[1:] {
		e = strings.NewReplacer("~1", "/", "~0", "~").Replace(e)
		switch {
		case e != "" && strings.Trim(e, "0123456789") == "":
			fmt.Fprintf(&b, "[%s]", e)
		case b.Len() > 0:
			b.WriteString("." + e)
		default:
			b.WriteString(e)
		}
	}
	return b.String()
}

// fault is about the value at ptr, or the nearest parent that the file has;
// onKey puts it on the key, where that is what is wrong.
func (d *document) fault(ptr string, onKey bool, message, hint string) *Fault {
	var at place
	for p := ptr; ; p = p[:strings.LastIndexByte(p, '/')] {
		var ok bool
		if at, ok = d.at[p]; ok || p == "" {
			break
		}
	}
	t := at.value
	if (onKey || t == nil) && at.key != nil {
		t = at.key
	}
	f := tokenFault(d.file, d.lines, t, message, hint)
	f.about = []string{ptr}
	return f
}

func tokenFault(file string, lines []string, t *token.Token, message, hint string) *Fault {
	f := &Fault{File: file, Message: message, Hint: hint}
	if t != nil && t.Position != nil {
		f.Line, f.Column = max(1, t.Position.Line), max(1, t.Position.Column)
		f.Excerpt = excerpt(lines, f.Line, f.Column)
	}
	return f
}

// parseYAML reads every document of data; empty ones are left out. Of
// documents with faults, what could be read is returned too.
func parseYAML(file string, data []byte) ([]*document, []*Fault) {
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	if !utf8.Valid(data) || strings.ContainsRune(string(data), 0) {
		return nil, []*Fault{{File: file, Message: "not text in UTF-8"}}
	}
	tokens := lexer.Tokenize(string(data))
	if t, what := tooMuch(tokens); t != nil {
		return nil, []*Fault{tokenFault(file, lines, t, what, "")}
	}
	// Duplicate keys are found by the converter, all of them.
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at yaml.Error
		if errors.As(err, &at) {
			return nil, []*Fault{syntaxFault(file, lines, at)}
		}
		return nil, []*Fault{{File: file, Message: err.Error()}}
	}
	var docs []*document
	var faults []*Fault
	left := maxValues
	for _, p := range parsed.Docs {
		if p.Body == nil {
			continue
		}
		d := &document{file: file, lines: lines, at: map[string]place{}}
		c := converter{doc: d, anchors: map[string]ast.Node{}, left: left}
		d.value = c.convert(p.Body, "", nil, 0)
		if left = c.left; left == 0 { // cut off: nothing more to say about it
			return nil, c.faults[len(c.faults)-1:]
		}
		docs = append(docs, d)
		faults = append(faults, c.faults...)
	}
	return docs, faults
}

func syntaxFault(file string, lines []string, e yaml.Error) *Fault {
	message, hint := e.GetMessage(), ""
	if strings.Contains(message, "\t") || strings.Contains(message, "tab character") {
		message, hint = "a tab where only spaces may indent", "use spaces"
	}
	return tokenFault(file, lines, e.GetToken(), message, hint)
}

// tooMuch returns the first token beyond a bound, and which. Depth comes from
// brackets, or from dashes and the like in one line; indentation needs no check
// here, as depth costs bytes there and the converter bounds it. Keys are
// bounded because the parser's time grows with the square of their number.
func tooMuch(tokens token.Tokens) (*token.Token, string) {
	type mapping struct{ column, keys int }
	var open []mapping // block mappings around t, the innermost last
	closeTo := func(column int) {
		for len(open) > 0 && open[len(open)-1].column > column {
			open = open[:len(open)-1]
		}
	}
	flow, line, nested := 0, 0, 0
	for _, t := range tokens {
		if t.Position == nil {
			continue
		}
		if t.Position.Line != line {
			line, nested = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType, token.TagType, token.AnchorType:
			if flow == 0 {
				nested++
			}
		}
		if flow > maxDepth || nested > maxDepth {
			return t, fmt.Sprintf("nested more than %d deep", maxDepth)
		}
		if flow > 0 {
			continue
		}
		switch t.Type {
		case token.SequenceEntryType:
			closeTo(t.Position.Column)
		case token.MappingValueType:
			column := t.Position.Column
			if t.Prev != nil && t.Prev.Position != nil && t.Prev.Position.Line == line {
				column = t.Prev.Position.Column
			}
			closeTo(column)
			if len(open) == 0 || open[len(open)-1].column < column {
				open = append(open, mapping{column: column})
			}
			if open[len(open)-1].keys++; open[len(open)-1].keys > maxKeys {
				return t, fmt.Sprintf("more than %d keys in one mapping", maxKeys)
			}
		}
	}
	return nil, ""
}

type converter struct {
	doc     *document
	anchors map[string]ast.Node
	left    int // values
	faults  []*Fault
}

func (c *converter) fault(ptr string, t *token.Token, message, hint string) {
	if len(c.faults) > maxFaults {
		return
	}
	f := tokenFault(c.doc.file, c.doc.lines, t, message, hint)
	f.about = []string{ptr}
	c.faults = append(c.faults, f)
}

// convert gives the value of n and records where it stands.
func (c *converter) convert(n ast.Node, ptr string, key *token.Token, depth int) any {
	if c.left == 0 {
		return nil
	}
	if c.left--; c.left == 0 {
		c.faults = append(c.faults, tokenFault(c.doc.file, c.doc.lines, firstToken(n),
			fmt.Sprintf("more than %d values, counting what aliases stand for", maxValues), ""))
		return nil
	}
	if depth > maxDepth {
		c.fault(ptr, firstToken(n), fmt.Sprintf("nested more than %d deep", maxDepth), "")
		return nil
	}
	c.doc.at[ptr] = place{key, firstToken(n)}
	switch n := n.(type) {
	case *ast.MappingNode:
		return c.mapping(n.Values, ptr, depth)
	case *ast.MappingValueNode:
		return c.mapping([]*ast.MappingValueNode{n}, ptr, depth)
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for i, v := range n.Values {
			list = append(list, c.convert(v, fmt.Sprintf("%s/%d", ptr, i), nil, depth+1))
		}
		return list
	case *ast.AnchorNode:
		v := c.convert(n.Value, ptr, key, depth+1)
		// Known only from here on, so that no value can hold itself.
		if n.Name != nil {
			c.anchors[n.Name.String()] = n.Value
		}
		return v
	case *ast.AliasNode:
		if n.Value != nil {
			if v, ok := c.anchors[n.Value.String()]; ok {
				return c.convert(v, ptr, key, depth+1)
			}
		}
		c.fault(ptr, firstToken(n), "an alias without its anchor", "")
		return nil
	case *ast.TagNode:
		if s, ok := n.Value.(ast.ScalarNode); ok && n.Start != nil && n.Start.Value == "!!str" && s.GetToken() != nil {
			return s.GetToken().Value
		}
		c.fault(ptr, firstToken(n), "a tag, which is not supported", "write the plain value")
		return nil
	}
	return c.scalar(n, ptr)
}

func (c *converter) mapping(values []*ast.MappingValueNode, ptr string, depth int) any {
	m := make(map[string]any, len(values))
	for _, v := range values {
		t := firstToken(v.Key)
		if t == nil {
			continue
		}
		at := pointer(ptr, t.Value)
		switch v.Key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		case *ast.MergeKeyNode:
			c.fault(at, t, "a merge key, which is not supported", "write the values out")
			continue
		default:
			c.fault(at, t, "a key that is not plain text", "")
			continue
		}
		name := t.Value
		if _, ok := m[name]; ok {
			c.fault(at, t, fmt.Sprintf("%q is given twice", name), "remove one of them")
			continue
		}
		m[name] = c.convert(v.Value, at, t, depth+1)
	}
	return m
}

func (c *converter) scalar(n ast.Node, ptr string) any {
	switch n := n.(type) {
	case *ast.NullNode, nil:
		return nil
	case *ast.StringNode:
		if isLargeNumber(n) {
			return json.Number(n.Value)
		}
		return n.Value
	case *ast.LiteralNode:
		if n.Value == nil {
			return ""
		}
		return n.Value.Value
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode:
		return json.Number(fmt.Sprint(n.Value))
	case *ast.FloatNode:
		return n.Value
	}
	c.fault(ptr, firstToken(n), fmt.Sprintf("cannot use a value of the kind %s here", n.Type()), "")
	return nil
}

// isLargeNumber reports digits that the parser takes for text because they
// fit no integer of Go.
func isLargeNumber(n *ast.StringNode) bool {
	return n.Token != nil && n.Token.Type == token.StringType && len(n.Value) > 18 && len(n.Value) < 64 &&
		n.Value[0] != '0' && strings.Trim(n.Value, "0123456789") == ""
}

// firstToken is where a reader would point: the first key of a mapping in
// block style rather than its colon.
func firstToken(n ast.Node) *token.Token {
	switch n := n.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return firstToken(n.Values[0])
		}
		return n.Start
	case *ast.MappingValueNode:
		return firstToken(n.Key)
	case *ast.MappingKeyNode:
		return n.Start
	}
	return n.GetToken()
}

// keys are the names in a mapping, sorted.
func keys(m map[string]any) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
