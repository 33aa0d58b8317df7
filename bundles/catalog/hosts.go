package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// OneAName refuses components that answer for the same public name, as two
// registries would: each is asked by that name, and nothing says which.
func OneAName(components []Component) error {
	owners := map[string][]string{}
	var hosts []string
	var errs []error
	for _, c := range components {
		objects, err := Read(c)
		errs = append(errs, err)
		for _, o := range objects {
			for _, h := range o.hosts() {
				if len(owners[h]) == 0 {
					hosts = append(hosts, h)
				}
				if !slices.Contains(owners[h], c.Name) {
					owners[h] = append(owners[h], c.Name)
				}
			}
		}
	}
	for _, h := range hosts {
		if all := owners[h]; len(all) > 1 {
			errs = append(errs, fmt.Errorf("cannot have components %s in one site: each answers at %s\nhint: leave one of them in components of site.yaml", strings.Join(all, " and "), h))
		}
	}
	return errors.Join(errs...)
}

// hosts are those of an Ingress.
func (o Object) hosts() []string {
	if o.Kind != "Ingress" {
		return nil
	}
	spec, _ := o.Data["spec"].(map[string]any)
	rules, _ := spec["rules"].([]any)
	var out []string
	for _, r := range rules {
		if r, ok := r.(map[string]any); ok {
			if host, ok := r["host"].(string); ok {
				out = append(out, host)
			}
		}
	}
	return out
}
