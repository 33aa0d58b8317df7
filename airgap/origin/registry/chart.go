package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// What Helm pushes.
const (
	chartConfig = "application/vnd.cncf.helm.config.v1+json"
	chartLayer  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	oldLayer    = "application/tar+gzip" // before Helm 3.8
)

// Chart is a Helm chart in a registry.
type Chart struct {
	Manifest store.Digest
	Archive  store.Content // the .tgz
}

// ResolveChart finds the chart that r names now, or the one of r's digest. What
// is no chart, or larger than limit bytes, is an error.
func (c *Client) ResolveChart(ctx context.Context, r Ref, limit int64) (Chart, error) {
	places, err := c.places(r)
	if err != nil {
		return Chart{}, err
	}
	ref := r.Tag
	if r.Digest != "" {
		ref = string(r.Digest)
	}
	var errs []error
	for _, p := range places {
		b, mediaType, err := c.document(ctx, p, ref)
		if err == nil {
			var ch Chart
			if ch, err = readChart(b, mediaType, limit); err == nil {
				return ch, nil
			}
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return Chart{}, errors.Join(errs...)
}

func readChart(b []byte, mediaType string, limit int64) (Chart, error) {
	if isIndex(mediaType) {
		return Chart{}, errors.New("it is no chart but an index of images")
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return Chart{}, fmt.Errorf("its manifest is not JSON: %w", err)
	}
	if m.Config.MediaType != chartConfig {
		return Chart{}, fmt.Errorf("it is no chart: its configuration is of type %.80q\nhint: an image goes under images in site.yaml", m.Config.MediaType)
	}
	for _, l := range m.Layers {
		if l.MediaType != chartLayer && l.MediaType != oldLayer {
			continue // what signs it
		}
		d, err := store.ParseDigest(string(l.Digest))
		switch {
		case err != nil:
			return Chart{}, err
		case l.Size < 0 || l.Size > limit:
			return Chart{}, fmt.Errorf("a chart of %d bytes, more than the %d allowed", l.Size, limit)
		}
		return Chart{store.FromBytes(b), store.Content{Digest: d, Size: l.Size}}, nil
	}
	return Chart{}, errors.New("it is a chart without an archive")
}

// ChartItem is the archive of a chart as something to fetch.
func (c *Client) ChartItem(r Ref, name string, archive store.Content) (fetch.Item, error) {
	it := fetch.Item{Content: archive, Name: name}
	places, err := c.places(r)
	for _, p := range places {
		it.Sources = append(it.Sources, p.source("blobs", string(archive.Digest)))
	}
	return it, err
}
