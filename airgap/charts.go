package airgap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"holdfast.dev/holdfast/airgap/origin/charts"
	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
)

// WantChart is a Helm chart of a registry or of a repository. One in the site's
// directory is files of the site.
type WantChart struct {
	Name           string       // of the release
	Ref            registry.Ref // in a registry
	Repository     string       // URL; then these two:
	Chart, Version string
}

// Chart is a locked Helm chart; its content is the archive.
type Chart struct {
	Name     string       `json:"name"`
	From     string       `json:"from"`               // registry/repository:version, or chart version at a repository
	URL      string       `json:"url,omitempty"`      // of the archive, relative to the repository if it is below it
	Manifest store.Digest `json:"manifest,omitempty"` // in a registry
	Stated   bool         `json:"stated,omitempty"`   // the repository gave the digest; else it is of what came first
	store.Content
}

// from is what w asks for, as the lock says it.
func (w WantChart) from() string {
	if w.Repository == "" {
		return w.Ref.Name()
	}
	return w.Chart + " " + w.Version + " " + w.Repository
}

func (w WantChart) fits(c Chart) bool {
	return c.Name == w.Name && c.From == w.from() && (w.Ref.Digest == "" || w.Ref.Digest == c.Manifest)
}

// Chart returns the locked chart of that name.
func (l Lock) Chart(name string) (Chart, bool) {
	i := slices.IndexFunc(l.Charts, func(c Chart) bool { return c.Name == name })
	if i < 0 {
		return Chart{}, false
	}
	return l.Charts[i], true
}

func (l Lock) chartsValid(digest func(string, store.Content)) []error {
	var errs []error
	seen := map[string]bool{}
	for _, c := range l.Charts {
		digest("chart "+c.Name, c.Content)
		if c.Size > charts.MaxArchive {
			errs = append(errs, fmt.Errorf("chart %s: %d bytes, more than the %d allowed", c.Name, c.Size, charts.MaxArchive))
		}
		if seen[c.Name] {
			errs = append(errs, fmt.Errorf("chart %s is there twice", c.Name))
		}
		seen[c.Name] = true
	}
	return errs
}

// chartsFit says where lock does not hold the charts that r asks for.
func (r Request) chartsFit(l Lock) []error {
	var errs []error
	for _, w := range r.Charts {
		if c, ok := l.Chart(w.Name); !ok {
			errs = append(errs, fmt.Errorf("chart %s is not locked", w.Name))
		} else if !w.fits(c) {
			errs = append(errs, fmt.Errorf("chart %s is asked for otherwise than when it was locked", w.Name))
		}
	}
	for _, c := range l.Charts {
		if !slices.ContainsFunc(r.Charts, func(w WantChart) bool { return w.Name == c.Name }) {
			errs = append(errs, fmt.Errorf("chart %s is locked, and the site does not ask for it any more", c.Name))
		}
	}
	return errs
}

// chartUpdate is what moves a chart by its name.
func chartUpdate(name string) string { return "chart/" + name }

// charts pins those of r that previous does not hold already, or that are to
// move, and brings their archives into s: what a chart needs is seen only when
// it is rendered. All that fail are told together.
func (r Request) charts(ctx context.Context, previous Lock, net Network, s *store.Store, opt Options) ([]Chart, error) {
	if len(r.Charts) == 0 {
		return nil, nil
	}
	out, errs := make([]Chart, len(r.Charts)), make([]error, len(r.Charts))
	each(len(r.Charts), func(i int) {
		w := r.Charts[i]
		old, ok := previous.Chart(w.Name)
		keep := ok && w.fits(old) && !opt.moves("charts") && !opt.moves(chartUpdate(w.Name))
		if keep && opt.moves("gone") {
			now, err := w.resolve(ctx, net, s)
			if err == nil && now.Digest == old.Digest {
				now = old
			}
			out[i], errs[i] = now, err
			return
		}
		if keep && s.Check(old.Content) == nil {
			out[i] = old
			return
		}
		if keep {
			out[i], errs[i] = old, fetchCharts(ctx, []WantChart{w}, Lock{Charts: []Chart{old}}, net, s, nil)
			return
		}
		out[i], errs[i] = w.resolve(ctx, net, s)
	})
	return out, errors.Join(errs...)
}

// resolve finds the chart and fetches its archive.
func (w WantChart) resolve(ctx context.Context, n Network, s *store.Store) (Chart, error) {
	c := Chart{Name: w.Name, From: w.from()}
	var err error
	if w.Repository != "" {
		err = w.fromRepository(ctx, n, s, &c)
	} else {
		err = w.fromRegistry(ctx, n, s, &c)
	}
	if err == nil {
		return c, nil
	}
	if unreached := new(net.OpError); errors.As(err, &unreached) {
		err = fmt.Errorf("%w\nhint: is it up, and the name right?", err)
	}
	return Chart{}, fmt.Errorf("cannot resolve chart %s (%s): %w", w.Name, c.From, err)
}

func (w WantChart) fromRepository(ctx context.Context, n Network, s *store.Store, c *Chart) error {
	e, err := charts.Find(ctx, n.Files, w.Repository, w.Chart, w.Version)
	if err != nil {
		return err
	}
	b, err := charts.Get(ctx, n.Files, w.Repository, e)
	if err != nil {
		return err
	}
	c.URL, c.Stated = e.URL, e.Digest != ""
	c.Content = store.Content{Digest: store.FromBytes(b), Size: int64(len(b))}
	return s.Put(c.Content, bytes.NewReader(b))
}

func (w WantChart) fromRegistry(ctx context.Context, n Network, s *store.Store, c *Chart) error {
	found, err := n.Registry.ResolveChart(ctx, w.Ref, charts.MaxArchive)
	if err != nil {
		return err
	}
	c.Manifest, c.Stated, c.Content = found.Manifest, true, found.Archive
	return fetchCharts(ctx, []WantChart{w}, Lock{Charts: []Chart{*c}}, n, s, nil)
}

// fetchCharts brings the archives of locked charts into s.
func fetchCharts(ctx context.Context, wants []WantChart, l Lock, n Network, s *store.Store, progress func(done, total int64, name string)) error {
	var errs []error
	var files, blobs []fetch.Item
	for _, w := range wants {
		c, ok := l.Chart(w.Name)
		if !ok {
			errs = append(errs, fmt.Errorf("chart %s is not locked", w.Name))
			continue
		}
		if s.Check(c.Content) == nil {
			continue
		}
		gone := fmt.Sprintf("it has moved on; run \"holdfast lock --update %s\"", chartUpdate(w.Name))
		if w.Repository == "" {
			it, err := n.Registry.ChartItem(w.Ref, "chart "+w.Name, c.Content)
			it.Gone = gone
			errs = append(errs, err)
			blobs = append(blobs, it)
			continue
		}
		u, err := charts.Resolve(w.Repository, c.URL)
		errs = append(errs, err)
		if err == nil {
			files = append(files, fetch.Item{Content: c.Content, Name: "chart " + w.Name, Gone: gone, Sources: []fetch.Source{{URL: u}}})
		}
	}
	if len(files) > 0 {
		errs = append(errs, n.Files.Fetch(ctx, s, files, progress))
	}
	if len(blobs) > 0 {
		errs = append(errs, n.Registry.Transfers.Fetch(ctx, s, blobs, progress))
	}
	return errors.Join(errs...)
}

// chartsUpstream asks what repositories and registries have now under the
// versions of locked charts.
func (r Request) chartsUpstream(ctx context.Context, l Lock, n Network) (newer, gone []string, err error) {
	var errs []error
	for _, w := range r.Charts {
		c, ok := l.Chart(w.Name)
		if !ok {
			continue
		}
		var now store.Digest
		var err error
		if w.Repository != "" {
			var e charts.Entry
			e, err = charts.Find(ctx, n.Files, w.Repository, w.Chart, w.Version)
			now = e.Digest
		} else {
			var found registry.Chart
			found, err = n.Registry.ResolveChart(ctx, w.Ref, charts.MaxArchive)
			now = found.Archive.Digest
		}
		switch {
		case errors.Is(err, charts.ErrNone) || errors.Is(err, fetch.ErrGone):
			gone = append(gone, chartUpdate(w.Name))
		case err != nil:
			errs = append(errs, fmt.Errorf("cannot ask for chart %s: %w", w.Name, err))
		case now != "" && now != c.Digest:
			newer = append(newer, fmt.Sprintf("chart %s is locked as %s, %s is there", w.Name, c.Digest, now))
		}
	}
	return newer, gone, errors.Join(errs...)
}
