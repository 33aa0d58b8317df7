package registry

import (
	"context"
	"errors"
	"fmt"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// Wanted is a locked image.
type Wanted struct {
	Ref      Ref
	Manifest store.Content
}

// Blobs are what the manifest in s refers to.
func Blobs(s *store.Store, manifest store.Content) ([]store.Content, error) {
	b, err := s.ReadFile(manifest, maxManifest)
	if err != nil {
		return nil, err
	}
	return readManifest(b)
}

// Fetch brings whole images into the store: manifests first, then all that
// they refer to, each blob once. See [fetch.Client.Fetch]: it resumes, and all
// that could not be had is told together. No registry is asked for an image
// that is there.
func (c *Client) Fetch(ctx context.Context, s *store.Store, images []Wanted, progress func(done, total int64, name string)) error {
	var errs []error
	item := func(w Wanted, kind string, what store.Content) (fetch.Item, bool) {
		it := fetch.Item{Content: what, Name: w.Ref.Name(), Gone: `the registry has moved on; run "holdfast lock --update gone"`}
		places, err := c.places(w.Ref)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot fetch %s: %w", w.Ref.Name(), err))
			return it, false
		}
		for _, p := range places {
			it.Sources = append(it.Sources, p.source(kind, string(what.Digest)))
		}
		return it, true
	}
	var manifests []fetch.Item
	for _, w := range images {
		if it, ok := item(w, "manifests", w.Manifest); ok {
			manifests = append(manifests, it)
		}
	}
	errs = append(errs, c.Transfers.Fetch(ctx, s, manifests, nil))
	var blobs []fetch.Item
	for _, w := range images {
		if s.Check(w.Manifest) != nil {
			continue // told above
		}
		cs, err := Blobs(s, w.Manifest)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot fetch %s: %w", w.Ref.Name(), err))
			continue
		}
		for _, b := range cs {
			if it, ok := item(w, "blobs", b); ok {
				blobs = append(blobs, it)
			}
		}
	}
	return errors.Join(append(errs, c.Transfers.Fetch(ctx, s, blobs, progress))...)
}
