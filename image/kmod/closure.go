package kmod

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// Deps are the text files of depmod, by normalised module name.
type Deps struct {
	version string
	path    map[string]string   // below Dir
	deps    map[string][]string // names
	soft    map[string][]string // names or aliases to load before
	aliases map[string][]string // alias to names
	builtin map[string]bool
}

// Closure returns the paths in the tree, sorted, of the named modules and of all
// that must or should be loaded before them: what modules.dep says, and the
// "pre" side of modules.softdep. A name may also be an alias without wildcards.
// What is built into the kernel needs no file. The error names every module that
// is not there; a soft dependency may be missing.
func (l Deps) Closure(names []string) ([]string, error) {
	var errs []error
	found := map[string]bool{}
	var add func(name string) bool
	add = func(name string) bool {
		name = strings.ReplaceAll(name, "-", "_")
		if found[name] || l.builtin[name] {
			return true
		}
		if _, ok := l.deps[name]; !ok {
			for _, m := range l.aliases[name] {
				add(m)
			}
			return len(l.aliases[name]) > 0
		}
		found[name] = true
		for _, d := range l.deps[name] {
			add(d)
		}
		for _, d := range l.soft[name] {
			add(d)
		}
		return true
	}
	for _, n := range names {
		if !add(n) {
			errs = append(errs, fmt.Errorf("cannot find module %s of kernel %s", n, l.version))
		}
	}
	var paths []string
	for name := range maps.Keys(found) {
		paths = append(paths, Dir(l.version)+"/"+l.path[name])
	}
	slices.Sort(paths)
	return paths, errors.Join(errs...)
}

// Has reports whether the kernel has a module of that name or alias, be it built
// in.
func (l Deps) Has(name string) bool {
	_, err := l.Closure([]string{name})
	return err == nil
}

// ReadDeps reads modules.dep, softdep, alias and builtin; Depmod must have run
// over t.
func ReadDeps(t *rootfs.Tree, version string) (Deps, error) {
	l := Deps{version, map[string]string{}, map[string][]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}}
	dir := Dir(version) + "/"
	if _, ok := t.Stat(dir + "modules.dep"); !ok {
		return l, fmt.Errorf("cannot find the modules of kernel %s: no /%smodules.dep", version, dir)
	}
	dep, err1 := readLines(t, dir+"modules.dep")
	soft, err2 := readLines(t, dir+"modules.softdep")
	alias, err3 := readLines(t, dir+"modules.alias")
	builtin, err4 := readLines(t, dir+"modules.builtin")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return l, err
	}
	for _, line := range dep {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return l, fmt.Errorf("cannot read /%smodules.dep: no colon in %q", dir, line)
		}
		name := Name(file)
		l.path[name] = file
		l.deps[name] = nil
		for _, n := range strings.Fields(needs) {
			l.deps[name] = append(l.deps[name], Name(n))
		}
	}
	for _, line := range soft {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		pre := false
		for _, w := range f[2:] {
			switch {
			case strings.HasSuffix(w, ":"):
				pre = w == "pre:"
			case pre:
				l.soft[f[1]] = append(l.soft[f[1]], w)
			}
		}
	}
	for _, line := range alias {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			if a, ok := normalAlias(f[1]); ok {
				l.aliases[a] = append(l.aliases[a], f[2])
			}
		}
	}
	for _, b := range builtin {
		l.builtin[Name(b)] = true
	}
	return l, nil
}
