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

// MediaPatch is the media type of a patch from a base's root.
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

// rootPatch is the patch that a difference may carry in the place of the root.
type rootPatch struct {
	blob     store.Content // the patch
	makes    store.Content // the compressed root
	generate func(io.Writer) error
}

// patchSince works out the patch from base's root to v's; nil where there is
// none, because the root is the same, it would not be smaller, or this program
// or that of the base would not make the same bytes again.
func (v *Verified) patchSince(ctx context.Context, base *Verified) (*rootPatch, error) {
	to, ok1 := v.File(PartOS, RootErofs)
	from, ok2 := base.File(PartOS, RootErofs)
	if !ok1 || !ok2 || to.Content == from.Content || to.MediaType != MediaRoot || from.MediaType != MediaRoot ||
		to.Raw.Size%patchBlock != 0 || from.Raw.Size%patchBlock != 0 || v.Facts().Version != base.Facts().Version {
		return nil, nil
	}
	again := newCounting()
	if err := v.readRoot(ctx, to, func(r io.Reader) error { return compressRoot(again, r) }); err != nil || again.content() != to.Content {
		return nil, ctx.Err()
	}
	var at map[blockSum][]int64
	if err := base.readRoot(ctx, from, func(r io.Reader) (err error) { at, err = blockSums(r); return err }); err != nil {
		return nil, ctx.Err()
	}
	p := rootPatch{makes: to.Content, generate: func(w io.Writer) error {
		return v.readRoot(ctx, to, func(r io.Reader) error { return makePatch(w, at, r) })
	}}
	size := newCounting()
	if err := p.generate(size); err != nil {
		return nil, err
	}
	if p.blob = size.content(); p.blob.Size >= to.Content.Size {
		return nil, nil
	}
	return &p, nil
}

// readRoot gives the root to use; that use took all of it is checked here.
func (v *Verified) readRoot(ctx context.Context, f File, use func(io.Reader) error) error {
	r, err := v.openRoot(f)
	if err != nil {
		return err
	}
	defer r.Close()
	h := newCounting()
	if err := use(io.TeeReader(stoppable{ctx, r}, h)); err != nil {
		return err
	}
	if h.content() != f.Raw {
		return fmt.Errorf("%s: %w: its %d bytes are %s", f.Title, store.ErrMismatch, h.n, h.content().Digest)
	}
	return nil
}

// patched is the source of the root that a patch makes from base's root.
func (v *Verified) patched(p *rootPatch, base *Verified) (source, error) {
	to, ok1 := v.File(PartOS, RootErofs)
	from, ok2 := base.File(PartOS, RootErofs)
	if !ok1 || !ok2 || to.Raw.Size%patchBlock != 0 {
		return nil, refuse(fmt.Errorf("the patch %s is of a root that is not of whole blocks", p.blob.Digest))
	}
	return made{p.makes, func(ctx context.Context, w io.Writer) error {
		patch, err := v.OpenBlob(p.blob)
		if err != nil {
			return err
		}
		defer patch.Close()
		old, err := base.openRoot(from)
		if err != nil {
			return err
		}
		defer old.Close()
		raw, packed := newCounting(), newCounting()
		pr, pw := io.Pipe()
		failed := make(chan error, 1)
		go func() {
			err := applyPatch(io.MultiWriter(raw, pw), stoppable{ctx, old}, patch, to.Raw.Size)
			pw.CloseWithError(err)
			failed <- err
		}()
		err = compressRoot(io.MultiWriter(packed, w), pr)
		pr.CloseWithError(err)
		if bad := <-failed; bad != nil && !errors.Is(bad, io.ErrClosedPipe) {
			err = fmt.Errorf("cannot make %s from the root of release %d: %w", RootErofs, base.Facts().Release, bad)
		}
		switch {
		case err != nil:
			return err
		case raw.content() != to.Raw:
			return fmt.Errorf("cannot make %s from the root of release %d: %w: what came out is %s", RootErofs, base.Facts().Release, store.ErrMismatch, raw.content().Digest)
		case packed.content() != to.Content:
			return fmt.Errorf("cannot make %s again: %w: this program compresses it in another way than the one that built the release\nhint: carry the whole bundle", RootErofs, store.ErrMismatch)
		}
		return nil
	}}, nil
}

type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s stoppable) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(b)
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
