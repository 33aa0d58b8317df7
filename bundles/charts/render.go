// Package charts renders Helm charts with Helm's own engine, as a function of
// the chart, its values and nothing else: no cluster is asked, no clock, no
// source of chance and no network. A chart is rendered twice; where the two
// differ, or where a template would ask a cluster, the error names template,
// line and the value that a user can set instead.
package charts

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	values "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/chart/v2/util"
)

// maxRendered bounds what all templates of a chart give, in bytes.
const maxRendered = 32 << 20

// Release is what a chart is rendered as: always its first revision, installed.
type Release struct {
	Name, Namespace string
	Kubernetes      string // its version, as in v1.36.3
	// Defined are kinds that other parts of the release define, APIVersions what
	// is served besides: group/version or group/version/Kind.
	Defined     []Definition
	APIVersions []string
	Values      []File // YAML; the later ones win
}

// Chart is a chart that was read.
type Chart struct {
	Name, Version string
	files         []File
}

// Load reads what a chart says of itself.
func Load(files []File) (Chart, error) {
	c, err := load(files)
	if err != nil {
		return Chart{}, err
	}
	return Chart{c.Metadata.Name, c.Metadata.Version, files}, nil
}

func load(files []File) (c *chart.Chart, err error) {
	defer func() { // Helm's loader is given what anybody may have written
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot read the chart: %v", r)
		}
	}()
	var in []*archive.BufferedFile
	for _, f := range files {
		in = append(in, &archive.BufferedFile{Name: f.Name, Data: f.Data})
	}
	if c, err = loader.LoadFiles(in); err != nil {
		return nil, fmt.Errorf("cannot read the chart: %w", err)
	}
	if c.Metadata.Type == "library" {
		return nil, fmt.Errorf("cannot read the chart: %s is a library, which has nothing to install", c.Name())
	}
	return c, nil
}

// Render gives the objects of a release. Its error joins all that is wrong.
func (c Chart) Render(r Release) (Rendered, error) {
	set, err := r.values()
	if err != nil {
		return Rendered{}, err
	}
	a, err := c.prepare(r, set)
	if err != nil {
		return Rendered{}, err
	}
	ts, err := parseAll(sources(a.chart))
	if err != nil {
		return Rendered{}, err
	}
	if err := reachesOut(ts); err != nil {
		return Rendered{}, err
	}
	first, err := a.pass(1)
	if err != nil {
		return Rendered{}, err
	}
	// The second pass has a chart of its own: templates may change values.
	b, err := c.prepare(r, set)
	if err != nil {
		return Rendered{}, err
	}
	second, err := b.pass(2)
	if err != nil {
		return Rendered{}, err
	}
	if err := same(ts, first, second); err != nil {
		return Rendered{}, err
	}
	return a.objects(r, first)
}

func (r Release) values() (map[string]any, error) {
	all := map[string]any{}
	var errs []error
	for _, f := range r.Values {
		v, err := common.ReadValues(f.Data)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read %s: %w", f.Name, err))
			continue
		}
		all = loader.MergeMaps(all, v)
	}
	return all, errors.Join(errs...)
}

// prepared is a chart with the dependencies that its values ask for.
type prepared struct {
	chart  *chart.Chart
	values common.Values
}

func (c Chart) prepare(r Release, set map[string]any) (prepared, error) {
	ch, err := load(c.files)
	if err != nil {
		return prepared{}, err
	}
	version, err := common.ParseKubeVersion(r.Kubernetes)
	if err != nil {
		return prepared{}, fmt.Errorf("cannot render: %w", err)
	}
	if want := ch.Metadata.KubeVersion; want != "" && !util.IsCompatibleRange(want, version.String()) {
		return prepared{}, fmt.Errorf("cannot render: the chart wants Kubernetes %s, and the site has %s", want, r.Kubernetes)
	}
	if err := complete(ch); err != nil {
		return prepared{}, err
	}
	set = common.Values(clone(set).(map[string]any))
	if err := util.ProcessDependencies(ch, set); err != nil {
		return prepared{}, fmt.Errorf("cannot choose the chart's dependencies: %w", err)
	}
	caps := &common.Capabilities{KubeVersion: *version, APIVersions: served(r, ch), HelmVersion: common.DefaultCapabilities.HelmVersion}
	options := common.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	// Helm's own check would fetch schemas that one refers to.
	v, err := values.ToRenderValuesWithSchemaValidation(ch, set, options, caps, true)
	if err != nil {
		return prepared{}, fmt.Errorf("cannot use the values: %w", err)
	}
	table, err := v.Table("Values")
	if err != nil {
		table = common.Values{}
	}
	return prepared{ch, v}, fitting(ch, table, "")
}

// clone copies what templates may change.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

// complete wants every dependency that a chart declares in its archive.
func complete(c *chart.Chart) error {
	var errs []error
	for _, d := range c.Metadata.Dependencies {
		if d != nil && !slices.ContainsFunc(c.Dependencies(), func(in *chart.Chart) bool { return in.Name() == d.Name }) {
			errs = append(errs, fmt.Errorf("the chart %s needs the chart %s, and does not hold it\nhint: run \"helm dependency build\" on it, and take what is then in its folder charts", c.Name(), d.Name))
		}
	}
	for _, in := range c.Dependencies() {
		errs = append(errs, complete(in))
	}
	return errors.Join(errs...)
}

// sources are the templates in the order in which Helm reads them: the deeper
// first, so that what a chart defines counts before its dependencies' own.
func sources(c *chart.Chart) []source {
	var out []source
	var add func(c *chart.Chart)
	add = func(c *chart.Chart) {
		for _, in := range c.Dependencies() {
			add(in)
		}
		for _, t := range c.Templates {
			if c.Metadata.Type == "library" && !strings.HasPrefix(path.Base(t.Name), "_") {
				continue
			}
			out = append(out, source{path.Join(c.ChartFullPath(), t.Name), string(t.Data)})
		}
	}
	add(c)
	slices.SortStableFunc(out, func(a, b source) int {
		if n := strings.Count(b.name, "/") - strings.Count(a.name, "/"); n != 0 {
			return n
		}
		return strings.Compare(b.name, a.name)
	})
	return out
}

// pass renders all templates once.
func (p prepared) pass(n int) (map[string]string, error) {
	out, err := p.within(mostOfPass, functions(n))
	if err != nil {
		return nil, fmt.Errorf("cannot render: %w", err)
	}
	size := 0
	for _, text := range out {
		size += len(text)
	}
	if size > maxRendered {
		return nil, fmt.Errorf("cannot render: its templates give %d bytes, more than the %d allowed", size, maxRendered)
	}
	return out, nil
}

// reachesOut refuses templates that would ask something outside, used or not:
// what they render to would not be what Helm installs.
func reachesOut(ts trees) error {
	var errs []error
	for _, c := range ts.every(func(f string) bool { return outside[f] != "" }) {
		hint := "take a version of the chart without it, or copy the chart into the site's directory and remove the call"
		if len(c.values) > 0 {
			hint += "; the template goes by " + strings.Join(c.values, ", ") + ", which the copy can take as given once it is set under values"
		}
		errs = append(errs, fmt.Errorf("template %s calls %s, which %s: build has none, and the node gets what was rendered here\nhint: %s", c.at, c.function, outside[c.function], hint))
	}
	return errors.Join(errs...)
}

// same refuses templates that the two passes rendered differently.
func same(ts trees, first, second map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(first)) {
		if first[name] == second[name] || path.Base(name) == "NOTES.txt" {
			continue
		}
		errs = append(errs, differs(ts, name, first[name], second[name]))
	}
	return errors.Join(errs...)
}

func differs(ts trees, name, first, second string) error {
	calls := ts.calls(name, func(f string) bool { return changing[f] != "" })
	line := firstDifference(first, second)
	if len(calls) == 0 {
		return fmt.Errorf("template %s gives something else each time, first in line %d of what it renders to\nhint: set the value that it would otherwise make up", name, line)
	}
	var places, settings []string
	for _, c := range calls {
		places = append(places, fmt.Sprintf("%s at %s (%s)", c.function, c.at, changing[c.function]))
		for _, v := range c.values {
			if !slices.Contains(settings, v) {
				settings = append(settings, v)
			}
		}
	}
	hint := "set the value that the template takes instead of making one up"
	if len(settings) > 0 {
		hint = "set " + strings.Join(settings, " or ") + " under values, so that nothing is made up"
	}
	return fmt.Errorf("template %s gives something else each time, first in line %d of what it renders to: it calls %s\nhint: %s; a password belongs into a secret that the node makes", name, line, strings.Join(slices.Compact(places), ", "), hint)
}

func firstDifference(a, b string) int {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range x {
		if i >= len(y) || x[i] != y[i] {
			return i + 1
		}
	}
	return len(x) + 1
}
