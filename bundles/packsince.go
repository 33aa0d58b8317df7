package bundles

import (
	"context"
	"fmt"
	"io"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// PackSince writes the difference of v from an earlier release of the same
// site: the bundle of v without the blobs that base has, manifests excepted,
// so that a reader can tell what is missing. Where it is smaller, root
// and UKI are carried as patches from base's. Without a base it writes the
// whole bundle, which may have been opened from a difference: the bytes are
// those of Pack. progress counts what is read to find the patches, then what is
// written. What w has on an error is not a bundle.
func PackSince(ctx context.Context, w io.Writer, v, base *Verified, progress Progress) error {
	files, err := v.layoutSince(ctx, base, true, progress)
	if err == nil {
		err = writeFiles(ctx, w, files, progress)
	}
	if err != nil {
		return fmt.Errorf("cannot pack release %d: %w", v.Facts().Release, err)
	}
	return nil
}

// packedFile is a file of a bundle: its bytes, or where they are read from.
type packedFile struct {
	Entry
	from  *Verified
	patch filePatch // or what writes them; Content is known
}

func (f packedFile) size() int64 {
	if f.Data != nil {
		return int64(len(f.Data))
	}
	return f.Content.Size
}

// layoutSince lists the files of the bundle that PackSince writes.
func (v *Verified) layoutSince(ctx context.Context, base *Verified, patch bool, progress Progress) ([]packedFile, error) {
	var since *fromBase
	left := map[store.Content]bool{}
	if base != nil {
		if err := checkBase(v.Facts(), base.Facts()); err != nil {
			return nil, err
		}
		since = &fromBase{Since: base.asBase()}
		var err error
		if left, err = base.reach(); err != nil {
			return nil, err
		}
		if patch {
			if since.patches, err = v.patchesSince(ctx, base, progress); err != nil {
				return nil, err
			}
		}
		for _, p := range since.patches {
			left[p.makes] = true
		}
	}
	index, err := sinceJSON(v.signed, since)
	if err != nil {
		return nil, err
	}
	files := []packedFile{{Entry: Entry{Path: layoutName, Data: []byte(layoutJSON)}}, {Entry: Entry{Path: indexName, Data: index}}}
	trusted := func([]byte, []signing.Signature) error { return nil } // v is verified already
	_, err = walk(v.signed, trusted, func(c store.Content, small bool) ([]byte, error) {
		if small || !left[c] {
			files = append(files, packedFile{Entry: Entry{Path: blobName(c.Digest), Content: c}, from: v})
		}
		if !small {
			return nil, nil
		}
		return v.small(c)
	})
	if since != nil {
		for _, p := range since.patches {
			files = append(files, packedFile{Entry: Entry{Path: blobName(p.blob.Digest), Content: p.blob}, patch: p})
		}
	}
	return files, err
}

func packedSize(files []packedFile) (int64, error) {
	total := int64(2 * block)
	for _, f := range files {
		h, err := tarHeader(f.Path, f.size())
		if err != nil {
			return 0, err
		}
		total += int64(len(h)) + f.size() + int64(padding(f.size()))
	}
	return total, nil
}

func writeFiles(ctx context.Context, w io.Writer, files []packedFile, progress Progress) error {
	total, err := packedSize(files)
	if err != nil {
		return err
	}
	out := &counter{ctx: ctx, w: w, total: total, progress: progress}
	for _, f := range files {
		h, err := tarHeader(f.Path, f.size())
		if err != nil {
			return err
		}
		if _, err := out.Write(h); err != nil {
			return err
		}
		if err := f.copyTo(out); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if _, err := out.Write(make([]byte, padding(f.size()))); err != nil {
			return err
		}
	}
	_, err = out.Write(make([]byte, 2*block))
	return err
}

func (f packedFile) copyTo(w io.Writer) error {
	if f.Data != nil {
		_, err := w.Write(f.Data)
		return err
	}
	if f.patch.generate != nil {
		return f.patch.generate(w)
	}
	r, err := f.from.OpenBlob(f.Content)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return err
}
