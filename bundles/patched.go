package bundles

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/airgap/store"
)

// MediaPatch is the media type of a patch from a file of the base.
const MediaPatch = "application/vnd.holdfast.patch.v1+zstd"

// annPatch names the blob that a patch makes.
const annPatch = "dev.holdfast.patch"

// Opener opens bytes at their beginning.
type Opener func() (io.ReadCloser, error)

// WithRoot is v where its root.erofs can be read, decompressed, from
// elsewhere: the slot that it was written to. A node's layout may lack the
// compressed one, which a difference is then made from all the same. What open
// gives need not be trusted; it may go on behind the root.
func (v *Verified) WithRoot(open Opener) *Verified {
	w := *v
	w.root = open
	if f, ok := v.File(PartOS, RootErofs); ok {
		made := made{f.Content, func(ctx context.Context, out io.Writer) error {
			r, err := w.openRoot(f)
			if err != nil {
				return err
			}
			defer r.Close()
			return compressRoot(out, r)
		}}
		w.source = joined{made}
		if v.source != nil {
			w.source = joined{v.source, made}
		}
	}
	return &w
}

// openRoot opens the root decompressed: from its slot, if that was named.
func (v *Verified) openRoot(f File) (io.ReadCloser, error) {
	if v.root != nil {
		r, err := v.root()
		if err != nil {
			return nil, err
		}
		return both{io.LimitReader(r, f.Raw.Size), []io.Closer{r}}, nil
	}
	r, err := v.OpenBlob(f.Content)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(patchWindow))
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return both{io.LimitReader(z, f.Raw.Size+1), []io.Closer{z.IOReadCloser(), r}}, nil
}

type both struct {
	io.Reader
	closers []io.Closer
}

func (b both) Close() error {
	var errs []error
	for _, c := range b.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// made is a source of one blob, which is made each time it is read.
type made struct {
	c    store.Content
	make func(ctx context.Context, w io.Writer) error
}

func (m made) open(c store.Content) ([]io.ReadCloser, error) {
	if c != m.c {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(m.make(ctx, w))
	}()
	return []io.ReadCloser{&making{r, cancel, done}}, nil
}

type making struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

// Close ends the making, so that nothing reads the files behind it any more.
func (m *making) Close() error {
	m.cancel()
	err := m.PipeReader.Close()
	<-m.done
	return err
}

// patchTitles are the files of the OS part that a difference may carry as
// patches: the large ones of which most stays as it was.
func patchTitles() []string { return []string{RootErofs, UKI} }

// filePatch is a patch that a difference carries in the place of a file.
type filePatch struct {
	blob     store.Content // the patch
	makes    store.Content // the file as the index names it
	generate func(io.Writer) error
}

// patchable finds the file that has these bytes, if it may come as a patch.
func (v *Verified) patchable(c store.Content) (File, bool) {
	for _, t := range patchTitles() {
		if f, ok := v.File(PartOS, t); ok && f.Content == c {
			return f, true
		}
	}
	return File{}, false
}

// plain is the file as it is patched: decompressed.
func plain(f File) store.Content {
	if f.Raw == (store.Content{}) {
		return f.Content
	}
	return f.Raw
}

func (v *Verified) openPlain(f File) (io.ReadCloser, error) {
	if f.Raw == (store.Content{}) {
		return v.OpenBlob(f.Content)
	}
	return v.openRoot(f)
}

// packFile writes a plain file as the index names it.
func packFile(f File, w io.Writer, r io.Reader) error {
	if f.Raw == (store.Content{}) {
		_, err := io.Copy(w, struct{ io.Reader }{r})
		return err
	}
	return compressRoot(w, r)
}

// patchesSince works out the patches from base's files to v's. There is none
// where the file is the same, the patch would not be smaller, or this program
// or that of the base would not compress to the same bytes again.
func (v *Verified) patchesSince(ctx context.Context, base *Verified, progress Progress) ([]filePatch, error) {
	var out []filePatch
	var total, done int64
	for _, title := range patchTitles() {
		to, _ := v.File(PartOS, title)
		from, _ := base.File(PartOS, title)
		total += 2*plain(to).Size + plain(from).Size
		if to.Raw != (store.Content{}) {
			total += to.Raw.Size
		}
	}
	watch := watched{ctx, func(n int) {
		if done += int64(n); progress != nil && done <= total {
			progress(done, total)
		}
	}}
	for _, title := range patchTitles() {
		to, ok1 := v.File(PartOS, title)
		from, ok2 := base.File(PartOS, title)
		compressed := to.Raw != (store.Content{})
		if !ok1 || !ok2 || to.Content == from.Content || to.MediaType != from.MediaType || compressed && v.Facts().Version != base.Facts().Version {
			continue
		}
		p, ok, err := v.patchSince(watch, base, to, from)
		if err := errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func (v *Verified) patchSince(watch watched, base *Verified, to, from File) (p filePatch, ok bool, err error) {
	if to.Raw != (store.Content{}) {
		again := newCounting()
		if err := v.readPlain(watch, to, func(r io.Reader) error { return compressRoot(again, r) }); err != nil || again.content() != to.Content {
			return p, false, nil
		}
	}
	var at map[blockSum][]int64
	if err := base.readPlain(watch, from, func(r io.Reader) (err error) {
		at, err = blockSums(wholeBlocks(r, plain(from).Size))
		return err
	}); err != nil {
		return p, false, nil
	}
	p = filePatch{makes: to.Content, generate: func(w io.Writer) error {
		return v.readPlain(watch, to, func(r io.Reader) error { return makePatch(w, at, wholeBlocks(r, plain(to).Size)) })
	}}
	size := newCounting()
	if err := p.generate(size); err != nil {
		return p, false, err
	}
	p.blob = size.content()
	return p, p.blob.Size < to.Content.Size, nil
}

// readPlain gives a file to use; that use took all of it is checked here.
func (v *Verified) readPlain(watch watched, f File, use func(io.Reader) error) error {
	r, err := v.openPlain(f)
	if err != nil {
		return err
	}
	defer r.Close()
	h := newCounting()
	if err := use(io.TeeReader(stoppable{watch, r}, h)); err != nil {
		return err
	}
	if h.content() != plain(f) {
		return fmt.Errorf("%s: %w: its %d bytes are %s", f.Title, store.ErrMismatch, h.n, h.content().Digest)
	}
	return nil
}

// patched is the source of the file that a patch makes from base's.
func (v *Verified) patched(p filePatch, base *Verified) (source, error) {
	to, ok := v.patchable(p.makes)
	from, ok2 := base.File(PartOS, to.Title)
	if !ok || !ok2 {
		return nil, refuse(fmt.Errorf("the patch %s is for a file that the base does not have", p.blob.Digest))
	}
	return made{p.makes, func(ctx context.Context, w io.Writer) error {
		patch, err := v.OpenBlob(p.blob)
		if err != nil {
			return err
		}
		defer patch.Close()
		old, err := base.openPlain(from)
		if err != nil {
			return err
		}
		defer old.Close()
		raw, packed := newCounting(), newCounting()
		pr, pw := io.Pipe()
		failed := make(chan error, 1)
		go func() {
			err := applyPatch(io.MultiWriter(raw, pw), wholeBlocks(stoppable{watched{ctx, nil}, old}, plain(from).Size), patch, plain(to).Size)
			pw.CloseWithError(err)
			failed <- err
		}()
		err = packFile(to, io.MultiWriter(packed, w), pr)
		pr.CloseWithError(err)
		if bad := <-failed; bad != nil && !errors.Is(bad, io.ErrClosedPipe) {
			err = bad
		}
		switch {
		case err != nil:
			return fmt.Errorf("cannot make %s from that of release %d: %w", to.Title, base.Facts().Release, err)
		case raw.content() != plain(to):
			return fmt.Errorf("cannot make %s from that of release %d: %w: what came out is %s", to.Title, base.Facts().Release, store.ErrMismatch, raw.content().Digest)
		case packed.content() != to.Content:
			return fmt.Errorf("cannot make %s again: %w: this program compresses it in another way than the one that built the release\nhint: carry the whole bundle", to.Title, store.ErrMismatch)
		}
		return nil
	}}, nil
}

// watched is a work that can be stopped, and counts what it reads.
type watched struct {
	ctx   context.Context // of one call
	count func(n int)     // may be nil
}

type stoppable struct {
	watched
	r io.Reader
}

func (s stoppable) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(b)
	if s.count != nil {
		s.count(n)
	}
	return n, err
}

// counting says what was written to it.
type counting struct {
	h hash.Hash
	n int64
}

func newCounting() *counting { return &counting{h: sha256.New()} }

func (c *counting) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.h.Write(b)
}

func (c *counting) content() store.Content {
	return store.Content{Digest: store.SHA256(c.h.Sum(nil)), Size: c.n}
}
