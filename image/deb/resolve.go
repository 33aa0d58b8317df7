package deb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Exclude names a package that is never chosen; dependencies on it are skipped.
type Exclude struct{ Name, Reason string }

// Selection is a closed set of packages.
type Selection struct {
	Packages []Selected // base-files first, then by name
	Skipped  []Skipped  // by package, then by dependency
}

// Selected is a chosen package; By is the package that first needed it, ""
// if it was asked for by name.
type Selected struct {
	Package
	By string
}

// Skipped is a dependency that an Exclude cut.
type Skipped struct {
	Package    string // whose dependency it is
	Dependency string // as written
	Exclude    Exclude
}

// resolver is the state of one call of Resolve.
type resolver struct {
	ix       *Index
	chosen   map[string]Selected
	excluded map[string]Exclude
	used     map[string]bool // excludes that cut something
	wanted   map[string]bool
	queue    []string // chosen, their dependencies not yet looked at
	choices  []need   // dependencies with alternatives, left until last
	skipped  []Skipped
	faults   []error
}

type need struct {
	by   string
	alts Alternatives
}

// Resolve chooses the packages of want ("name" or "name=version"), and what
// they need by Pre-Depends and Depends. Of alternatives, one that is chosen or
// wanted anyway is taken, else the first that can be had. A virtual package
// with several providers of which none is chosen is an error: want must name
// one. A dependency whose alternative would be an excluded package is skipped.
// Essential packages and Recommends do not come by themselves. The result
// depends only on the arguments, not on the order of want; all faults are
// reported together, each with who asked.
func Resolve(ix *Index, want []string, exclude []Exclude) (Selection, error) {
	r := &resolver{ix: ix, chosen: map[string]Selected{}, excluded: map[string]Exclude{}, used: map[string]bool{}, wanted: map[string]bool{}}
	for _, e := range exclude {
		if e.Reason == "" {
			r.fault("cannot exclude %s: no reason given", e.Name)
		}
		r.excluded[e.Name] = e
	}
	r.seed(want)
	for len(r.queue) > 0 || len(r.choices) > 0 {
		if len(r.queue) > 0 {
			name := r.queue[0]
			r.queue = r.queue[1:]
			r.expand(r.chosen[name].Package)
			continue
		}
		n := r.choices[0]
		r.choices = r.choices[1:]
		r.satisfy(n)
	}
	r.checkConflicts()
	for _, e := range exclude {
		if !r.used[e.Name] {
			r.fault("cannot exclude %s: no package here depends on it\nhint: take it out of the exclusions", e.Name)
		}
	}
	if len(r.faults) > 0 {
		return Selection{}, errors.Join(r.faults...)
	}
	return r.selection(), nil
}

func (r *resolver) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf(format, args...))
}

func (r *resolver) seed(want []string) {
	want = slices.Clone(want)
	slices.Sort(want)
	for _, w := range slices.Compact(want) {
		name, version, pinned := strings.Cut(w, "=")
		p, ok := r.ix.Get(name)
		if pinned {
			p, ok = r.ix.GetVersion(name, version)
		}
		switch old, twice := r.chosen[name]; {
		case twice && pinned && old.Version != version:
			if r.wanted[name] {
				r.fault("cannot choose %s: asked for twice, as %s and as %s", name, old.Version, version)
			}
			continue
		case r.excluded[name].Name != "":
			r.used[name] = true
			r.fault("cannot choose %s: it is excluded: %s", name, r.excluded[name].Reason)
			continue
		case !ok:
			r.fault("cannot find package %s%s", w, r.instead(name))
			continue
		}
		r.wanted[name] = true
		r.chosen[name] = Selected{Package: p}
		r.queue = append(r.queue, name)
	}
}

// instead is a hint for a name that is no package, or not in that version.
func (r *resolver) instead(name string) string {
	if p, ok := r.ix.Get(name); ok {
		return fmt.Sprintf("\nhint: the archive has %s", p)
	}
	if ps := r.providersOf(Relation{Name: name}); len(ps) > 0 {
		return fmt.Sprintf("\nhint: it is provided by %s; name one", strings.Join(names(ps), ", "))
	}
	return ""
}

func (r *resolver) expand(p Package) {
	for _, field := range []string{p.PreDepends, p.Depends} {
		all, err := ParseRelations(field, r.ix.Arch)
		if err != nil {
			r.fault("cannot use %s: %w", p, err)
		}
		for _, alts := range all {
			n := need{p.Name, alts}
			if len(alts) == 1 {
				r.satisfy(n)
			} else {
				// Later, when more is chosen that may do.
				r.choices = append(r.choices, n)
			}
		}
	}
}

func (r *resolver) satisfy(n need) {
	for _, rel := range n.alts {
		if r.isMet(rel) {
			return
		}
	}
	var several []string
	for _, rel := range n.alts {
		if e, ok := r.excluded[rel.Name]; ok {
			r.skip(n, e)
			return
		}
		if p, ok := r.ix.Get(rel.Name); ok && r.archOK(rel, p) && rel.allows(p.Version) {
			if old, ok := r.chosen[p.Name]; ok {
				r.fault("cannot satisfy %s, needed by %s: %s is asked for", rel, r.chain(n.by), old.Package)
				return
			}
			r.choose(p, n.by)
			return
		}
		ps := r.providersOf(rel)
		free := slices.DeleteFunc(slices.Clone(ps), func(p Package) bool { return r.excluded[p.Name].Name != "" })
		switch {
		case len(free) == 1:
			r.choose(free[0], n.by)
			return
		case len(free) > 1:
			several = append(several, names(free)...)
		case len(ps) > 0:
			r.skip(n, r.excluded[ps[0].Name])
			return
		}
	}
	if len(several) > 0 {
		r.fault("cannot choose a package for %s, needed by %s: provided by %s\nhint: ask for one of them by name",
			n.alts, r.chain(n.by), strings.Join(several, ", "))
		return
	}
	have := ""
	for _, rel := range n.alts {
		if p, ok := r.ix.Get(rel.Name); ok {
			have += fmt.Sprintf("; the archive has %s", p)
		}
	}
	r.fault("cannot satisfy %s, needed by %s%s", n.alts, r.chain(n.by), have)
}

func (r *resolver) choose(p Package, by string) {
	r.chosen[p.Name] = Selected{p, by}
	r.queue = append(r.queue, p.Name)
}

func (r *resolver) skip(n need, e Exclude) {
	r.used[e.Name] = true
	r.skipped = append(r.skipped, Skipped{n.by, n.alts.String(), e})
}

// isMet reports whether a chosen package satisfies rel.
func (r *resolver) isMet(rel Relation) bool {
	if p, ok := r.chosen[rel.Name]; ok && r.archOK(rel, p.Package) && rel.allows(p.Version) {
		return true
	}
	for _, p := range r.ix.providers[rel.Name] {
		if q, ok := r.chosen[p.name]; ok && r.provides(q.Package, rel) {
			return true
		}
	}
	return false
}

// archOK reports whether p's architecture will do for rel: "any" and the
// index's own architecture are all there is.
func (r *resolver) archOK(rel Relation, p Package) bool {
	switch rel.Arch {
	case "", "any", "native", r.ix.Arch:
		return true
	}
	return rel.Arch == p.Arch
}

// providersOf returns the packages, in their highest version, that provide
// rel, by name.
func (r *resolver) providersOf(rel Relation) []Package {
	var ps []Package
	for _, pr := range r.ix.providers[rel.Name] {
		if p, ok := r.ix.Get(pr.name); ok && r.provides(p, rel) {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(ps, func(a, b Package) bool { return a.Name == b.Name })
}

func (r *resolver) provides(p Package, rel Relation) bool {
	all, err := ParseRelations(p.Provides, r.ix.Arch)
	if err != nil {
		return false // refused when the index was read
	}
	for _, alts := range all {
		for _, v := range alts {
			// A name provided without a version satisfies no versioned relation.
			if v.Name == rel.Name && (rel.Op == "" || v.Version != "" && rel.allows(v.Version)) {
				return true
			}
		}
	}
	return false
}

// chain says why a package is here: "a, needed by b, needed by c".
func (r *resolver) chain(name string) string {
	s := []string{name}
	for by := r.chosen[name].By; by != "" && len(s) < 20; by = r.chosen[by].By {
		s = append(s, by)
	}
	return strings.Join(s, ", needed by ")
}

func (r *resolver) checkConflicts() {
	for _, p := range r.selection().Packages {
		for _, f := range []struct{ verb, value string }{{"conflicts with", p.Conflicts}, {"breaks", p.Breaks}} {
			all, err := ParseRelations(f.value, r.ix.Arch)
			if err != nil {
				r.fault("cannot use %s: %w", p.Package, err)
			}
			for _, alts := range all {
				for _, rel := range alts {
					r.checkConflict(p.Package, f.verb, rel)
				}
			}
		}
	}
}

func (r *resolver) checkConflict(p Package, verb string, rel Relation) {
	hits := map[string]bool{}
	if q, ok := r.chosen[rel.Name]; ok && rel.allows(q.Version) {
		hits[q.Name] = true
	}
	for _, pr := range r.ix.providers[rel.Name] {
		if q, ok := r.chosen[pr.name]; ok && r.provides(q.Package, rel) {
			hits[q.Name] = true
		}
	}
	delete(hits, p.Name) // a package does not conflict with itself
	for _, name := range sortedKeys(hits) {
		r.fault("cannot have %s and %s together: %s %s %s", r.chain(p.Name), r.chain(name), p.Name, verb, rel)
	}
}

func (r *resolver) selection() Selection {
	var s Selection
	for _, name := range sortedKeys(r.chosen) {
		s.Packages = append(s.Packages, r.chosen[name])
	}
	// base-files brings the links of the merged /usr, through which the files
	// of all others are placed.
	slices.SortStableFunc(s.Packages, func(a, b Selected) int {
		return rank(a.Name) - rank(b.Name)
	})
	s.Skipped = slices.Clone(r.skipped)
	slices.SortFunc(s.Skipped, func(a, b Skipped) int {
		if c := strings.Compare(a.Package, b.Package); c != 0 {
			return c
		}
		return strings.Compare(a.Dependency, b.Dependency)
	})
	return s
}

func rank(name string) int {
	if name == "base-files" {
		return 0
	}
	return 1
}

func names(ps []Package) []string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.Name
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
