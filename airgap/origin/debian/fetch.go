package debian

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"holdfast.dev/holdfast/airgap/store"
)

// Item is a file to fetch.
type Item struct {
	Archive string // Main or Security
	Path    string // below the archive's base URL: pool/…
	Content store.Content
	Name    string // for messages: "bash 5.2.37-2"
}

// Fetch brings items into the store, several at a time. What the store has is
// not fetched again. An interrupted transfer is kept in the store's directory
// "partial" and continued by the next call. Bytes with another digest are
// thrown away, the next mirror is asked, and if that has no better ones the
// error wraps store.ErrMismatch. All items are tried; the error names each that
// failed, with mirror, path and cause. progress, if not nil, gets the bytes
// had so far and in all, by one goroutine at a time.
func Fetch(ctx context.Context, c *Client, s *store.Store, items []Item, progress func(done, total int64, name string)) error {
	if err := os.MkdirAll(filepath.Join(s.Dir(), "partial"), 0o755); err != nil {
		return fmt.Errorf("cannot fetch packages: %w", err)
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
		return fmt.Errorf("cannot fetch packages: %w", context.Cause(ctx))
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
	urls := c.Mirror.URLs(it.Archive)
	if len(urls) == 0 {
		return fmt.Errorf("cannot fetch %s: %w for archive %q", it.Name, ErrNoMirror, it.Archive)
	}
	var errs []error
	bad := 0
	// One round over the mirrors; wrong bytes earn one more try, from the
	// first mirror if there is no next.
	for i := 0; i < len(urls) || i == len(urls) && bad == 1; i++ {
		base := urls[i%len(urls)]
		err := c.fetchFrom(ctx, s, it, base+"/"+it.Path, had)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("cannot fetch %s from %s/%s: %w", it.Name, base, it.Path, err)
		if errors.Is(err, errGone) {
			err = fmt.Errorf("%w\nhint: the mirror has moved on; run \"holdfast lock --update gone\"", err)
		}
		errs = append(errs, err)
		if errors.Is(err, store.ErrMismatch) {
			bad++
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (c *Client) fetchFrom(ctx context.Context, s *store.Store, it Item, u string, had func(int64)) error {
	partial := filepath.Join(s.Dir(), "partial", it.Content.Digest.Hex())
	for restarts := 0; ; restarts++ {
		resumed := false
		err := c.retry(ctx, func() error {
			r, err := c.transfer(ctx, partial, u, it.Content.Size, had)
			resumed = resumed || r
			return err
		})
		if err != nil {
			return err
		}
		if err = adopt(s, partial, it.Content); !errors.Is(err, store.ErrMismatch) {
			return err
		}
		had(0)
		if rerr := os.Remove(partial); rerr != nil {
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
func (c *Client) transfer(ctx context.Context, partial, u string, size int64, had func(int64)) (resumed bool, err error) {
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return false, &permanentError{err}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, &permanentError{err}
	}
	resumed = at > 0
	had(min(at, size))
	if at >= size && size > 0 {
		return resumed, nil // whole, or too long, as adopt will see
	}
	b, err := c.request(ctx, u, at)
	if errors.Is(err, errRange) {
		return resumed, errors.Join(err, f.Truncate(0))
	}
	if err != nil {
		return resumed, err
	}
	defer b.close()
	if at != b.start {
		at, resumed = b.start, false
		_, serr := f.Seek(at, io.SeekStart)
		if err := errors.Join(serr, f.Truncate(at)); err != nil {
			return false, &permanentError{err}
		}
	}
	return resumed, save(f, b, at, size, had)
}

// save writes r to f, whose end is at, up to one byte more than size: enough
// to know that it is too long.
func save(f *os.File, r io.Reader, at, size int64, had func(int64)) error {
	buf := make([]byte, 256<<10)
	for at <= size {
		n, err := r.Read(buf[:min(int64(len(buf)), size-at+1)])
		if _, werr := f.Write(buf[:n]); werr != nil {
			return &permanentError{werr}
		}
		at += int64(n)
		had(min(at, size))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if at < size {
		return fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, at, size)
	}
	return nil
}

// adopt moves a whole file into the store if its bytes are right.
func adopt(s *store.Store, name string, want store.Content) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if got := store.SHA256(h.Sum(nil)); got != want.Digest || n != want.Size {
		return fmt.Errorf("%w: want %s of %d bytes, got %s of %d", store.ErrMismatch, want.Digest, want.Size, got, n)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return s.Adopt(name, want)
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
