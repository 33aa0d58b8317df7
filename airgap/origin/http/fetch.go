package http

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"holdfast.dev/holdfast/airgap/store"
)

// Item is a file to fetch.
type Item struct {
	Content store.Content
	Name    string   // for messages: "bash 5.2.37-2"
	Sources []Source // in the order in which they are tried
	Gone    string   // the remedy where a source does not have it; may be empty
}

// Fetch brings items into the store, several at a time. What the store has is
// not fetched again. An interrupted transfer is kept in the store's directory
// "partial" and continued by the next call. Bytes with another digest are
// thrown away, the next source is asked, and if that has no better ones the
// error wraps store.ErrMismatch. All items are tried; the error names each that
// failed, with source and cause. progress, if not nil, gets the bytes had so
// far and in all, by one goroutine at a time.
func (c *Client) Fetch(ctx context.Context, s *store.Store, items []Item, progress func(done, total int64, name string)) error {
	if err := os.MkdirAll(filepath.Join(s.Dir(), "partial"), 0o755); err != nil {
		return fmt.Errorf("cannot fetch: %w", err)
	}
	items = distinct(items)
	m := newMeter(items, progress)
	workers := c.Workers
	if workers == 0 {
		workers = 6
	}
	work := make(chan int)
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range work {
				errs[i] = c.fetch(ctx, s, items[i], func(n int64) { m.set(i, n) })
			}
		})
	}
	for i := range items {
		if ctx.Err() != nil {
			break
		}
		select {
		case work <- i:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("cannot fetch: %w", context.Cause(ctx))
	}
	return errors.Join(errs...)
}

// distinct drops items with the bytes of an earlier one.
func distinct(items []Item) []Item {
	seen := map[store.Digest]bool{}
	return slices.DeleteFunc(slices.Clone(items), func(it Item) bool {
		twice := seen[it.Content.Digest]
		seen[it.Content.Digest] = true
		return twice
	})
}

func (c *Client) fetch(ctx context.Context, s *store.Store, it Item, had func(int64)) error {
	if s.Check(it.Content) == nil {
		had(it.Content.Size)
		return nil
	}
	p, err := openPartial(ctx, s, it.Content)
	if err != nil {
		return fmt.Errorf("cannot fetch %s: %w", it.Name, err)
	}
	defer p.close()
	if s.Check(it.Content) == nil { // another process had it meanwhile
		had(it.Content.Size)
		return nil
	}
	var errs []error
	bad := 0
	// One round over the sources; wrong bytes earn one more try, from the
	// first source if there is no next.
	for i, n := 0, len(it.Sources); i < n || i == n && bad == 1; i++ {
		src := it.Sources[i%n]
		err := c.fetchFrom(ctx, p, it, src, had)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("cannot fetch %s from %s: %w", it.Name, src.URL, err)
		if errors.Is(err, ErrGone) && it.Gone != "" {
			err = fmt.Errorf("%w\nhint: %s", err, it.Gone)
		}
		errs = append(errs, err)
		if errors.Is(err, store.ErrMismatch) {
			bad++
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(it.Sources) == 0 {
		errs = append(errs, fmt.Errorf("cannot fetch %s: nowhere to fetch it from", it.Name))
	}
	return errors.Join(errs...)
}

func (c *Client) fetchFrom(ctx context.Context, p *partial, it Item, src Source, had func(int64)) error {
	for restarts := 0; ; restarts++ {
		resumed, most := false, p.at
		err := c.retry(ctx, func() (bool, error) {
			r, err := c.transfer(ctx, p, src, had)
			resumed = resumed || r
			further := p.at > most
			most = max(most, p.at)
			return further, err
		})
		if err != nil {
			return err
		}
		if err = p.adopt(); !errors.Is(err, store.ErrMismatch) {
			return err
		}
		had(0)
		if rerr := p.reset(); rerr != nil {
			return errors.Join(err, rerr)
		}
		if !resumed || restarts == 1 {
			return err
		}
		// What was kept from before may be what is wrong: once more, afresh.
	}
}

// transfer appends to the partial file what it lacks. It reports whether the
// file had a beginning from before.
func (c *Client) transfer(ctx context.Context, p *partial, src Source, had func(int64)) (resumed bool, err error) {
	resumed = p.at > 0
	had(min(p.at, p.want.Size))
	if p.at >= p.want.Size && p.want.Size > 0 {
		return resumed, nil // whole, or too long, as adopt will see
	}
	b, err := c.request(ctx, src, p.at)
	if errors.Is(err, errRange) {
		return resumed, errors.Join(err, p.reset())
	}
	if err != nil {
		return resumed, err
	}
	defer b.close()
	if p.at != b.start { // from the start, then
		resumed = false
		if err := p.reset(); err != nil {
			return false, err
		}
	}
	return resumed, p.save(b, had)
}

// meter adds up the progress of all items.
type meter struct {
	mu          sync.Mutex
	items       []Item
	had         []int64
	done, total int64
	report      func(done, total int64, name string)
}

func newMeter(items []Item, report func(done, total int64, name string)) *meter {
	m := &meter{items: items, had: make([]int64, len(items)), report: report}
	for _, it := range items {
		m.total += it.Content.Size
	}
	return m
}

func (m *meter) set(i int, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n - m.had[i]
	m.had[i] = n
	if m.report != nil {
		m.report(m.done, m.total, m.items[i].Name)
	}
}
