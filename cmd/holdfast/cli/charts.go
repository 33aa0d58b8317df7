package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/charts"
	"holdfast.dev/holdfast/bundles/kustomize"
	"holdfast.dev/holdfast/overlays"
)

// maxValues bounds a file with values, in bytes.
const maxValues = 4 << 20

// chartInput is a chart of the site, before it is rendered.
type chartInput struct {
	overlays.Chart
	files  []charts.File // of the site's directory; none of a chart that is fetched
	values []charts.File
}

// askCharts reads the site's own charts, values and kustomizations, and asks
// for the charts of others. All that is wrong is told together.
func (in *inputs) askCharts(dir string) error {
	if len(in.site.Charts)+len(in.site.Kustomizations) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot read the site: %w", err)
	}
	defer root.Close()
	var errs []error
	for i, c := range in.site.Charts {
		ci, err := in.chart(root.FS(), c)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot use charts[%d] of site.yaml, %s: %w", i, c.Name, err))
		}
		in.charts = append(in.charts, ci)
	}
	for i, k := range in.site.Kustomizations {
		src, err := kustomize.Load(root.FS(), k.Path)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot use kustomizations[%d] of site.yaml, %s: %w", i, k.Name, err))
		}
		for _, f := range src.Files {
			in.addFile(f.Name, f.Data)
		}
		in.kustomizations = append(in.kustomizations, src)
	}
	return errors.Join(errs...)
}

func (in *inputs) chart(site fs.FS, c overlays.Chart) (chartInput, error) {
	ci := chartInput{Chart: c}
	var errs []error
	for _, v := range c.Values {
		b, err := readSiteFile(site, v, maxValues)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		in.addFile(v, b)
		ci.values = append(ci.values, charts.File{Name: v, Data: b})
	}
	if len(c.Set) > 0 {
		b, err := json.Marshal(c.Set) // which is YAML too
		errs = append(errs, err)
		ci.values = append(ci.values, charts.File{Name: "set in site.yaml", Data: b})
	}
	w := airgap.WantChart{Name: c.Name, Repository: c.Repo, Chart: c.Chart, Version: c.Version}
	var err error
	switch {
	case c.Path != "":
		ci.files, err = in.siteChart(site, c.Path)
	case c.OCI != "":
		w.Ref, err = registry.ParseRef(c.OCI)
		fallthrough
	default:
		in.request.Charts = append(in.request.Charts, w)
	}
	return ci, errors.Join(append(errs, err)...)
}

// siteChart reads a chart of the site's directory; its files are inputs as they
// stand there.
func (in *inputs) siteChart(site fs.FS, name string) ([]charts.File, error) {
	fi, err := fs.Stat(site, name)
	switch {
	case err != nil:
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("nothing is there\nhint: path is relative to the site's directory: a chart's directory, or its .tgz")
		}
		return nil, fmt.Errorf("cannot read the chart: %w", err)
	case !fi.IsDir():
		b, err := readSiteFile(site, name, charts.MaxArchive)
		if err != nil {
			return nil, err
		}
		in.addFile(name, b)
		return charts.ReadArchive(bytes.NewReader(b))
	}
	sub, err := fs.Sub(site, name)
	if err != nil {
		return nil, err
	}
	files, err := charts.ReadDir(sub)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		in.addFile(path.Join(name, f.Name), f.Data)
	}
	return charts.Unpack(files)
}

// addFile makes a file of the site's directory an input.
func (in *inputs) addFile(name string, data []byte) {
	f := airgap.File{Name: name, Content: store.Content{Digest: store.FromBytes(data), Size: int64(len(data))}}
	if !slices.Contains(in.request.Files, f) {
		in.request.Files = append(in.request.Files, f)
	}
}

func readSiteFile(site fs.FS, name string, limit int64) ([]byte, error) {
	f, err := site.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read %s: it is not a regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("cannot read %s: more than the %d bytes allowed", name, limit)
	}
	return b, nil
}

// read gives the chart itself, from the site's directory or the store.
func (c chartInput) read(l airgap.Lock, s *store.Store) (charts.Chart, error) {
	files := c.files
	if c.Path == "" {
		locked, ok := l.Chart(c.Name)
		if !ok {
			return charts.Chart{}, errors.New("it is not locked\nhint: run \"holdfast lock\"")
		}
		if s == nil || s.Check(locked.Content) != nil {
			return charts.Chart{}, fmt.Errorf("its archive %s is not in the store\nhint: run \"holdfast collect\"", locked.Digest)
		}
		b, err := s.ReadFile(locked.Content, charts.MaxArchive)
		if err != nil {
			return charts.Chart{}, err
		}
		if files, err = charts.ReadArchive(bytes.NewReader(b)); err != nil {
			return charts.Chart{}, err
		}
	}
	ch, err := charts.Load(files)
	if err == nil && c.Repo != "" && (ch.Name != c.Chart.Chart || strings.TrimPrefix(ch.Version, "v") != strings.TrimPrefix(c.Version, "v")) {
		err = fmt.Errorf("the repository gave the chart %s %s for %s %s", ch.Name, ch.Version, c.Chart.Chart, c.Version)
	}
	return ch, err
}
