package check

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/holdfast/bundles/catalog"
)

// value is one text of an object.
type value struct {
	text  string
	name  string // what it is called: its key, its variable, its flag
	field string
	line  int
	block bool // its lines are lines of the file, from line+1 on
	runs  bool // a program reads it: an argument, a variable, a ConfigMap's text
}

// found is what was recognised in a value.
type found struct {
	text string
	line int
}

// each calls f for every text of o. What only people read, the descriptions in
// the schema of a CustomResourceDefinition, is left out.
func each(o catalog.Object, f func(value)) {
	w := walker{o: o, visit: f}
	for _, key := range slices.Sorted(maps.Keys(o.Data)) {
		if key != "apiVersion" && key != "kind" {
			runs := (key == "data" || key == "stringData") && (o.Kind == "ConfigMap" || o.Kind == "Secret")
			w.walk(o.Data[key], key, key, []any{key}, runs)
		}
	}
}

type walker struct {
	o     catalog.Object
	visit func(value)
}

func (w walker) walk(v any, name, field string, at []any, runs bool) {
	switch v := v.(type) {
	case map[string]any:
		w.mapping(v, field, at, runs)
	case []any:
		for i, item := range v {
			called := name
			if flag, ok := previous(v, i); ok {
				called = flag
			}
			w.walk(item, called, catalog.Field(field, i), append(slices.Clone(at), i), runs || slices.Contains(programLists, name))
		}
	case string:
		line, block := w.o.Line(at...)
		w.visit(value{text: v, name: name, field: field, line: line, block: block, runs: runs})
	}
}

func (w walker) mapping(m map[string]any, field string, at []any, runs bool) {
	image := split(m)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key == "description" && w.o.Kind == "CustomResourceDefinition" || key == "registry" && image != "" {
			continue
		}
		name := key
		if called, ok := m["name"].(string); ok && key == "value" { // an environment variable, or the like
			name, runs = called, true
		}
		w.walk(m[key], name, catalog.Field(field, key), append(slices.Clone(at), key), runs)
	}
	if image != "" {
		line, _ := w.o.Line(append(slices.Clone(at), "repository")...)
		w.visit(value{text: image, name: "image", field: catalog.Field(field, "repository"), line: line})
	}
}

// split is the image that many custom resources have in parts, in fields called
// registry, repository, tag and digest; empty if m is none.
func split(m map[string]any) string {
	image := text(m["repository"])
	if r := text(m["registry"]); r != "" {
		image = r + "/" + image
	}
	if t := text(m["tag"]); t != "" {
		image += ":" + t
	}
	if d := text(m["digest"]); isDigest(d) {
		image += "@" + d
	}
	if !isImage(image) {
		return ""
	}
	return image
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// programLists hold what programs are called with.
var programLists = []string{"args", "command", "cmd", "entrypoint", "env"}

// previous is the flag that takes the i-th element as its value.
func previous(list []any, i int) (string, bool) {
	if i == 0 {
		return "", false
	}
	s, _ := list[i-1].(string)
	flag := strings.TrimLeft(s, "-")
	return flag, flag != s && flag != "" && !strings.Contains(flag, "=")
}

// assigned is a line that gives a value to a name: a flag, a variable, a line
// of YAML, JSON or properties.
var assigned = regexp.MustCompile(`^\s*(?:- )?["']?-{0,2}([A-Za-z_][A-Za-z0-9_.-]*)["']?\s*[:=]\s*["']?([^"'\s]+)["']?,?\s*$`)

// eachLine calls f for the lines of v that are no comments, with what each
// gives a value to.
func (v value) eachLine(f func(line, name, text string, at int)) {
	several := strings.Contains(strings.TrimRight(v.text, "\n"), "\n")
	at := v.line
	if v.block {
		at++
	}
	for line := range strings.Lines(v.text) {
		trimmed := strings.TrimSpace(line)
		if comment := strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, "//"); !several || !comment {
			name, text := v.name, trimmed
			if len(trimmed) <= maxWord && (several || v.name == "env" || strings.HasPrefix(trimmed, "-")) {
				if m := assigned.FindStringSubmatch(trimmed); m != nil {
					name, text = m[1], m[2]
				}
			}
			f(trimmed, name, text, at)
		}
		if v.block {
			at++
		}
	}
}

// delimiters end a word.
const delimiters = " \t\r\n\"'`,;=<>(){}[]|\\"

func words(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(delimiters, r) })
}

// images are the names of images in v: all words with an image's full form,
// and what is called an image and lacks either its registry or its tag.
func (v value) images() (out []found) {
	v.eachLine(func(line, name, text string, at int) {
		_, rest := inURLs(line)
		for _, word := range words(rest) {
			if word = strings.TrimRight(word, ".:"); isImage(word) {
				out = append(out, found{word, at})
			}
		}
		if called(name, "image", "images") && !isImage(text) && (isShortImage(text) || isUntagged(text)) {
			out = append(out, found{text, at})
		}
	})
	return out
}

// hosts are the hosts in v: those of all URLs, all names with a port, and what
// is called a host and is a name. In what a program reads, an IP address needs
// no port.
func (v value) hosts() (out []found) {
	v.eachLine(func(line, name, text string, at int) {
		inURL, rest := inURLs(line)
		for _, h := range inURL {
			out = append(out, found{h, at})
		}
		for _, word := range words(rest) {
			if isImage(word) {
				continue
			}
			h, ok := withPort(word)
			if a, isIP := address(word); !ok && isIP && v.runs && a.Is4() && !called(name, "version") {
				h, ok = word, true
			}
			if ok {
				out = append(out, found{h, at})
			}
		}
		if !called(name, hostKeys...) && name != "ip" || called(name, "no_proxy") || strings.Contains(text, "://") {
			return
		}
		for _, word := range words(text) {
			if h, ok := hostOf(word[:until(word, "/?#")]); ok && !isImage(word) {
				out = append(out, found{h, at})
			}
		}
	})
	slices.SortFunc(out, func(a, b found) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return strings.Compare(a.text, b.text)
	})
	return slices.Compact(out)
}

// hostKeys end the names of what holds hosts.
var hostKeys = []string{
	"host", "hosts", "hostname", "hostnames", "server", "servers", "endpoint", "endpoints", "url", "urls", "uri",
	"addr", "address", "addresses", "peer", "peers", "broker", "brokers", "proxy", "upstream", "upstreams",
	"registry", "mirror", "mirrors", "domain", "domains", "nameservers", "relay", "externalname", "externalips", "loadbalancerip",
}

// called reports whether a name ends in one of the words, however its words are
// put together: SMTP_HOST, smtp-host, smtpHost.
func called(name string, ends ...string) bool {
	plain := strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(name))
	return slices.ContainsFunc(ends, func(e string) bool { return strings.HasSuffix(plain, strings.ReplaceAll(e, "_", "")) })
}
