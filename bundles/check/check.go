// Package check looks at everything that a release will apply, before anything
// is composed: each image that is named anywhere must be one of the release,
// each host must be of the site, and what the zone asks for must be there. It
// takes objects as values and does not ask where they were rendered from.
package check

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
)

// Kinds of findings.
const (
	Image     = "image"     // named, and not in the release
	Host      = "host"      // outside the site, and not allowed
	Allowance = "allowance" // for a host that nothing names
	Zone      = "zone"      // a rule of the zone that is not kept
	Lock      = "lock"      // site and lock do not agree
	Manifest  = "manifest"  // cannot be rendered
)

// Finding is one thing that must not go into a release.
type Finding struct {
	Kind    string `json:"kind"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`   // from 1; 0 for the whole file
	Object  string `json:"object,omitempty"` // KIND NAMESPACE/NAME
	Field   string `json:"field,omitempty"`
	Value   string `json:"value,omitempty"` // the image, the host
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Digests are those by which an image may be named; none are known of one that
// is not locked.
type Digests struct {
	Composed bool // from source, by build: there is no digest before
	Manifest store.Digest
	Index    store.Digest // that the manifest was chosen from; Render puts the manifest's in its place
}

// Site is what objects are held against.
type Site struct {
	Images   map[string]Digests // of the release, by full name
	Domain   string
	Networks []netip.Prefix // of the nodes
	Allow    []Allowed
}

// Allowed is a host outside that may be named.
type Allowed struct {
	catalog.Allowance
	Component string // in whose objects; empty: in all
	File      string // where it is written
	Line      int
}

// Use is one place that names a host outside which is allowed.
type Use struct {
	Host   string `json:"host"`
	Reason string `json:"reason"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Object string `json:"object"`
	Field  string `json:"field"`
}

// Place is where it is named: file:line, or the file alone where that has no
// lines that a reader could look up.
func (u Use) Place() string { return Finding{File: u.File, Line: u.Line}.place() }

// Report is all that Run has to say.
type Report struct {
	Findings []Finding
	Allowed  []Use
	Images   int // places that name an image of the release
}

// Run looks at every object. Its findings are in order of their places, each
// once.
func Run(site Site, objects []catalog.Object) Report {
	c := checker{site: site, services: services(objects), used: map[int]bool{}}
	for _, o := range objects {
		c.object(o)
	}
	for i, a := range site.Allow {
		if !c.used[i] {
			c.report.Findings = append(c.report.Findings, Finding{Kind: Allowance, File: a.File, Line: a.Line, Value: a.Name,
				Message: fmt.Sprintf("host %q is allowed, and nothing names it", a.Name), Hint: "remove it: what is allowed should be what is needed"})
		}
	}
	c.report.Findings = ordered(c.report.Findings)
	return c.report
}

// ordered sorts by place, and drops what is said twice about one line.
func ordered(fs []Finding) []Finding {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
	})
	return slices.CompactFunc(fs, func(a, b Finding) bool {
		return a.Kind == b.Kind && a.File == b.File && a.Line == b.Line && a.Object == b.Object && a.Value == b.Value && (a.Value != "" || a.Field == b.Field)
	})
}

type checker struct {
	site     Site
	services map[string]bool // NAME.NAMESPACE
	used     map[int]bool    // allowances
	report   Report
}

func (c *checker) object(o catalog.Object) {
	object := o.Kind + " " + strings.TrimPrefix(o.Namespace+"/"+o.Name, "/")
	add := func(f Finding) {
		f.File, f.Object = o.File, object
		c.report.Findings = append(c.report.Findings, f)
	}
	fields, lines := map[string]bool{}, map[found]bool{} // that Render pins
	for _, u := range o.Images() {
		fields[u.Path], lines[found{u.Name, u.Line}] = true, true
		message, hint := c.site.pinned(u.Name)
		if message == "" {
			c.report.Images++
			continue
		}
		add(Finding{Kind: Image, Line: u.Line, Field: u.Path, Value: u.Name, Message: message, Hint: hint})
	}
	each(o, func(v value) {
		if fields[v.field] {
			return
		}
		for _, ref := range v.images() {
			if lines[ref] { // the text of a pod in a ConfigMap
				continue
			}
			if message, hint := c.site.named(ref.text); message != "" {
				add(Finding{Kind: Image, Line: ref.line, Field: v.field, Value: ref.text, Message: message, Hint: hint})
			} else {
				c.report.Images++
			}
		}
		for _, h := range v.hosts() {
			if !c.site.outside(h.text) || c.service(h.text, o.Namespace) {
				continue
			}
			if i := c.allowed(h.text, o.Component); i >= 0 {
				c.used[i] = true
				c.report.Allowed = append(c.report.Allowed, Use{h.text, c.site.Allow[i].Reason, o.File, h.line, object, v.field})
				continue
			}
			add(Finding{Kind: Host, Line: h.line, Field: v.field, Value: h.text,
				Message: fmt.Sprintf("host %q is outside the site", h.text),
				Hint:    "point it to something of the site; if it must stay, allow it by name, with a reason, under allow.hosts of site.yaml"})
		}
	})
}

// allowed is the index of the allowance for a host, the exact one first; -1 if
// there is none.
func (c *checker) allowed(host, component string) int {
	best := -1
	for i, a := range c.site.Allow {
		if a.Component != "" && a.Component != component {
			continue
		}
		below, wild := strings.CutPrefix(a.Name, "*")
		if a.Name == host {
			return i
		}
		if wild && best < 0 && strings.HasSuffix(host, below) {
			best = i
		}
	}
	return best
}
