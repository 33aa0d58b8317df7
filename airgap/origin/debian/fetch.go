package debian

import (
	"context"
	"errors"
	"fmt"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// Item is a file to fetch.
type Item struct {
	Archive string // Main or Security
	Path    string // below the archive's base URL: pool/…
	Content store.Content
	Name    string // for messages: "bash 5.2.37-2"
}

// Fetch brings items into the store, as [fetch.Client.Fetch] does, from each
// archive's mirrors in their order.
func Fetch(ctx context.Context, c *Client, s *store.Store, items []Item, progress func(done, total int64, name string)) error {
	var files []fetch.Item
	var errs []error
	for _, it := range items {
		f := fetch.Item{Content: it.Content, Name: it.Name, Gone: `the mirror has moved on; run "holdfast lock --update gone"`}
		for _, base := range c.Mirror.URLs(it.Archive) {
			f.Sources = append(f.Sources, fetch.Source{URL: base + "/" + it.Path})
		}
		if len(f.Sources) == 0 && s.Check(it.Content) != nil {
			errs = append(errs, fmt.Errorf("cannot fetch %s: %w for archive %q", it.Name, ErrNoMirror, it.Archive))
			continue
		}
		files = append(files, f)
	}
	return errors.Join(append(errs, c.transfers().Fetch(ctx, s, files, progress))...)
}
