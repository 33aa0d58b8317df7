package overlays

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	chartNameForm    = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,249}$`)
	chartVersionForm = regexp.MustCompile(`^v?[0-9][0-9A-Za-z.+_-]{0,127}$`)
	apiVersionForm   = regexp.MustCompile(`^[a-z0-9.-]{1,253}/v[0-9][a-z0-9]{0,62}(/[A-Z][A-Za-z0-9]{0,62})?$`)
	secretKeyForm    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`)
)

// checkReleaseName is Helm's rule; what a chart is rendered to as well may have
// -before and -after behind its name.
func checkReleaseName(s string) error {
	if checkLabel(s) != nil || len(s) > 53 {
		return errors.New("want a DNS label of at most 53 of a-z, 0-9 and -, with no - at its ends")
	}
	return nil
}

func checkSitePath(s string) error {
	if !fs.ValidPath(s) || s == "." || len(s) > 1000 || strings.ContainsAny(s, "\\\x00") {
		return errors.New("want a path in the site's directory, as in charts/web, without . and .. in it")
	}
	return nil
}

func checkChartName(s string) error {
	if !chartNameForm.MatchString(s) {
		return errors.New("want the name of a chart as its repository has it, as in web")
	}
	return nil
}

func checkChartVersion(s string) error {
	if !chartVersionForm.MatchString(s) {
		return errors.New("want one version, as in 1.2.3, and no range")
	}
	return nil
}

func checkAPIVersion(s string) error {
	if !apiVersionForm.MatchString(s) {
		return errors.New("want group/version or group/version/Kind, as in monitoring.coreos.com/v1")
	}
	return nil
}

// checkCharts returns what is wrong between charts, kustomizations and the
// components of the site.
func (s Site) checkCharts() []*Fault {
	var faults []*Fault
	add := func(ptr, message, hint string) { faults = append(faults, s.fault(ptr, message, hint)) }
	names := map[string]string{"site": ""}
	for i, c := range s.Components {
		names[c.Name] = fmt.Sprintf("/components/%d/name", i)
	}
	name := func(n, ptr string) {
		first, ok := names[n]
		switch {
		case n == "":
			return
		case ok && first == "":
			add(ptr, fmt.Sprintf("%q is what the site's own manifests are called", n), "")
			return
		case ok:
			add(ptr, fmt.Sprintf("%q is also %s", n, display(first)), "")
		}
		names[n] = ptr
	}
	for i, c := range s.Charts {
		at := fmt.Sprintf("/charts/%d", i)
		name(c.Name, at+"/name")
		origins := slices.DeleteFunc([]string{c.Path, c.OCI, c.Repo}, func(o string) bool { return o == "" })
		switch {
		case len(origins) != 1:
			add(at, "want one of path, oci and repo", "path is in the site's directory, oci in a registry, repo a chart repository")
		case c.Repo != "" && (c.Chart == "" || c.Version == ""):
			add(at, "a chart of a repository needs chart and version", "")
		case c.Repo == "" && (c.Chart != "" || c.Version != ""):
			add(at, "chart and version go with repo", "")
		}
		secrets := map[string]string{}
		for j, sec := range c.Secrets {
			ptr := fmt.Sprintf("%s/secrets/%d", at, j)
			if first, ok := secrets[sec.Name]; ok {
				add(ptr+"/name", fmt.Sprintf("%q is also %s", sec.Name, display(first)), "")
			}
			secrets[sec.Name] = ptr + "/name"
			for _, k := range slices.Sorted(maps.Keys(sec.Generate)) {
				if !secretKeyForm.MatchString(k) {
					add(ptr+"/generate", fmt.Sprintf("%q is no key of a Secret", k), "letters, digits, -, _ and .")
				} else if n := sec.Generate[k]; n < 8 || n > 256 {
					add(ptr+"/generate", fmt.Sprintf("%q: want 8 to 256 characters", k), "")
				}
			}
		}
	}
	for i, k := range s.Kustomizations {
		name(k.Name, fmt.Sprintf("/kustomizations/%d/name", i))
	}
	for i, c := range s.Charts {
		for _, hooks := range []string{c.Name + "-before", c.Name + "-after"} {
			if first, ok := names[hooks]; ok {
				add(fmt.Sprintf("/charts/%d/name", i), fmt.Sprintf("its hooks are called %q, as is %s", hooks, display(first)), "")
			}
		}
	}
	return faults
}

// CheckManifest returns what is wrong with a file of objects, as Load does for
// those of the site's manifests.
func CheckManifest(name string, data []byte) error { return joinFaults(checkManifest(name, data)) }

// mayHoldKeys are the files and folders of the site that are part of a release.
func (s Site) mayHoldKeys(dir string) []string {
	out := []string{filepath.Join(dir, "manifests"), filepath.Join(dir, "trust")}
	for _, c := range s.Charts {
		for _, p := range slices.Concat([]string{c.Path}, c.Values) {
			if checkSitePath(p) == nil {
				out = append(out, filepath.Join(dir, p))
			}
		}
	}
	for _, k := range s.Kustomizations {
		if checkSitePath(k.Path) == nil {
			out = append(out, filepath.Join(dir, k.Path))
		}
	}
	return out
}
