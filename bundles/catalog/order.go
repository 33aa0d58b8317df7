package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Order returns the named components and all that they need, each after what
// it needs, and with what it has with others of them. Where that leaves a choice,
// the one that stands on most comes first, as it takes longest, and then the name
// decides. What is provided, by the engine, is left out.
func Order(names []string, provided ...string) ([]Component, error) {
	all, err := Load()
	if err != nil {
		return nil, err
	}
	return order(all, names, provided...)
}

func order(all []Component, names []string, provided ...string) ([]Component, error) {
	named := byName(all)
	known := slices.Sorted(maps.Keys(named))
	var out []Component
	var errs []error
	there := map[string]bool{}
	for _, n := range names {
		gather(n, named, there)
	}
	for _, n := range provided {
		there[n] = false
	}
	errs = append(errs, together(named, there))
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, way []string)
	visit = func(name string, way []string) {
		c, ok := named[name]
		switch {
		case slices.Contains(provided, name):
			return
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
		for _, n := range byWeight(slices.Concat(c.AllNeeds(), c.After), named) {
			visit(n, append(slices.Clone(way), name))
		}
		state[name] = done
		out = append(out, c)
	}
	for _, n := range byWeight(names, named) {
		visit(n, nil)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// byWeight sorts names by the number of components that each stands on, most
// first, and by name.
func byWeight(names []string, all map[string]Component) []string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	weight := map[string]int{}
	for _, n := range names {
		on := map[string]bool{}
		gather(n, all, on)
		weight[n] = len(on)
	}
	slices.SortStableFunc(names, func(a, b string) int { return weight[b] - weight[a] })
	return names
}

// gather adds name and all that it stands on.
func gather(name string, all map[string]Component, to map[string]bool) {
	if to[name] {
		return
	}
	to[name] = true
	for _, n := range slices.Concat(all[name].AllNeeds(), all[name].After) {
		gather(n, all, to)
	}
}

func byName(all []Component) map[string]Component {
	m := map[string]Component{}
	for _, c := range all {
		m[c.Name] = c
	}
	return m
}
