package install

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

// maxWindow bounds what a decompressor may keep in memory.
const maxWindow = 128 << 20

// Raw is a file of a release's OS part as it is written to a slot or the ESP:
// its digest and size, and a function that opens it, decompressed. Reading to
// its end gives exactly those bytes, or an error that wraps store.ErrMismatch.
func Raw(v *bundles.Verified, title string) (c store.Content, open func() (io.ReadCloser, error), err error) {
	f, ok := v.File(bundles.PartOS, title)
	if !ok {
		return c, nil, fmt.Errorf("cannot open %s: release %d has none", title, v.Facts().Release)
	}
	if f.Raw == (store.Content{}) {
		return f.Content, func() (io.ReadCloser, error) { return v.OpenBlob(f.Content) }, nil
	}
	return f.Raw, func() (io.ReadCloser, error) {
		r, err := v.OpenBlob(f.Content)
		if err != nil {
			return nil, err
		}
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot open %s: %w", title, err), r.Close())
		}
		return &raw{title: title, want: f.Raw, packed: r, z: z, h: sha256.New()}, nil
	}, nil
}

// raw gives what the decompressor does, as long as it is what the release says.
type raw struct {
	title  string
	want   store.Content
	packed io.ReadCloser
	z      *zstd.Decoder
	h      hash.Hash
	done   int64
}

func (r *raw) Close() error {
	r.z.Close()
	return r.packed.Close()
}

func (r *raw) Read(b []byte) (int, error) {
	n, err := r.z.Read(b)
	r.h.Write(b[:n])
	r.done += int64(n)
	switch {
	case r.done > r.want.Size:
		return 0, r.mismatch(fmt.Sprintf("more than its %d bytes", r.want.Size))
	case err == io.EOF:
		if got := store.SHA256(r.h.Sum(nil)); got != r.want.Digest || r.done != r.want.Size {
			return 0, r.mismatch(fmt.Sprintf("its %d bytes are %s", r.done, got))
		}
	case err != nil:
		err = fmt.Errorf("cannot decompress %s: %w", r.title, err)
	}
	return n, err
}

func (r *raw) mismatch(what string) error {
	return fmt.Errorf("cannot decompress %s: %w: %s", r.title, store.ErrMismatch, what)
}
