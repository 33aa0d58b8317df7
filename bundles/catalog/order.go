package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Order returns the named components and all that they need, each after what
// it needs; where that leaves a choice, by name.
func Order(names []string) ([]Component, error) {
	all, err := Load()
	if err != nil {
		return nil, err
	}
	return order(all, names)
}

func order(all []Component, names []string) ([]Component, error) {
	byName := map[string]Component{}
	var known []string
	for _, c := range all {
		byName[c.Name] = c
		known = append(known, c.Name)
	}
	var out []Component
	var errs []error
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, way []string)
	visit = func(name string, way []string) {
		c, ok := byName[name]
		switch {
		case !ok:
			by := ""
			if len(way) > 0 {
				by = ", which " + way[len(way)-1] + " needs"
			}
			errs = append(errs, fmt.Errorf("cannot find component %q%s\nhint: the catalog has %s", name, by, strings.Join(known, ", ")))
			return
		case state[name] == done:
			return
		case state[name] == visiting:
			i := slices.Index(way, name)
			errs = append(errs, fmt.Errorf("cannot order components: %s need each other", strings.Join(append(way[i:], name), " → ")))
			return
		}
		state[name] = visiting
		for _, n := range sorted(c.AllNeeds()) {
			visit(n, append(slices.Clone(way), name))
		}
		state[name] = done
		out = append(out, c)
	}
	for _, n := range sorted(names) {
		visit(n, nil)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}
