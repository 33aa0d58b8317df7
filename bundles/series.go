package bundles

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"holdfast.dev/holdfast/airgap/store"
)

// A series is a file of several bundles, one behind the other: releases of one
// site, from the oldest to the newest, each whole or a difference from one
// before it. A node that cannot go to the last one at once goes there by those
// between.

// maxSeries is how many bundles a file may have.
const maxSeries = 16

// Section is where a file has a bundle, and what that bundle says of itself.
// Nothing of it is verified, but Index is the digest of what Facts is from: the
// bundle opens as that release or not at all.
type Section struct {
	Offset int64
	Size   int64
	Index  store.Content // zero where the bundle cannot be read; opening it says why
	Facts  Facts
}

// Sections finds the bundles in a file. It reads headers, and passes over the
// rest. Its error is that of r, or that there are too many.
func Sections(ctx context.Context, r io.ReaderAt, size int64) ([]Section, error) {
	var out []Section
	for at := int64(0); at < size || len(out) == 0; {
		if len(out) == maxSeries {
			return nil, fmt.Errorf("cannot read the bundles of a file: %w: more than %d", ErrRefused, maxSeries)
		}
		s, err := readSection(ctx, r, at, size)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, ErrRefused):
			return append(out, Section{Offset: at, Size: size - at}), nil
		case err != nil:
			return nil, fmt.Errorf("cannot read the bundles of a file: %w", err)
		}
		out = append(out, s)
		at += s.Size
	}
	return out, nil
}

// readSection reads the bundle that begins at that place. Its error wraps
// ErrRefused unless it is r's or ctx's.
func readSection(ctx context.Context, r io.ReaderAt, at, size int64) (Section, error) {
	s := Section{Offset: at}
	in := &failing{ReadSeeker: io.NewSectionReader(r, at, size-at)}
	t := tar.NewReader(in)
	refused := func(err error) (Section, error) {
		if in.err != nil {
			return Section{}, in.err
		}
		return Section{}, refuse(err)
	}
	read := func(name string, most int64) ([]byte, error) {
		h, err := t.Next()
		if err != nil {
			return nil, err
		}
		if h.Name != name || h.Size > most {
			return nil, fmt.Errorf("%q of %d bytes in the place of %s", h.Name, h.Size, name)
		}
		return io.ReadAll(t)
	}
	if _, err := read(layoutName, block); err != nil {
		return refused(err)
	}
	b, err := read(indexName, maxIndex)
	if err != nil {
		return refused(err)
	}
	rels, _, _, err := parseIndexJSON(b)
	if err == nil && len(rels) != 1 {
		err = fmt.Errorf("%d releases", len(rels))
	}
	if err != nil {
		return refused(err)
	}
	s.Index = rels[0]
	if b, err = read(blobName(s.Index.Digest), MaxManifest); err == nil && store.FromBytes(b) != s.Index.Digest {
		err = store.ErrMismatch
	}
	if err == nil {
		s.Facts, _, err = parseIndex(b)
	}
	if err != nil {
		return refused(err)
	}
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return Section{}, err
		}
		_, err := t.Next()
		if err == io.EOF {
			break
		}
		if err == nil && n > MaxBlobs {
			err = fmt.Errorf("more than %d files", MaxBlobs)
		}
		if err != nil {
			return refused(err)
		}
	}
	if s.Size, err = in.Seek(0, io.SeekCurrent); err != nil {
		return Section{}, err
	}
	return s, nil
}

// failing keeps the error that its reader failed with.
type failing struct {
	io.ReadSeeker
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.ReadSeeker.Read(b)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// OpenSection is OpenAt for a bundle of a file.
func OpenSection(ctx context.Context, r io.ReaderAt, s Section, trust Trust, progress Progress, bases ...*Verified) (*Verified, error) {
	return OpenAt(ctx, io.NewSectionReader(r, s.Offset, s.Size), s.Size, trust, progress, bases...)
}

// OpenSeries verifies each bundle of a file, with those before it as bases
// besides, and that they are of one site and zone, with rising numbers. trust's
// lowest number is about the last. One bundle is a series, too.
func OpenSeries(ctx context.Context, r io.ReaderAt, size int64, trust Trust, progress Progress, bases ...*Verified) ([]*Verified, error) {
	sections, err := Sections(ctx, r, size)
	if err != nil {
		return nil, err
	}
	var out []*Verified
	for i, s := range sections {
		t := trust
		if i < len(sections)-1 {
			t.MinRelease = 0
		}
		v, err := OpenSection(ctx, r, s, t, func(done, _ int64) {
			if progress != nil {
				progress(s.Offset+done, size)
			}
		}, append(out[:len(out):len(out)], bases...)...)
		if err == nil && i > 0 {
			if err = follows(out[i-1].Facts(), v.Facts()); err != nil {
				err = refuse(err)
			}
		}
		if err != nil {
			return nil, inSeries(sections, i, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// inSeries says which bundle of several an error is about.
func inSeries(sections []Section, i int, err error) error {
	if len(sections) == 1 {
		return err
	}
	var d *DifferenceError
	if errors.As(err, &d) && !errors.Is(err, ErrRefused) {
		// Whoever knows what to do with a difference alone does not with several.
		err = errors.New(err.Error())
	}
	return fmt.Errorf("bundle %d of %d, which begins at offset %d: %w", i+1, len(sections), sections[i].Offset, err)
}

// follows refuses a release that does not come after one in a series.
func follows(before, f Facts) error {
	switch {
	case f.Name != before.Name || f.Zone != before.Zone:
		return fmt.Errorf("it is of site %s in zone %s, the one before of site %s in zone %s", f.Name, f.Zone, before.Name, before.Zone)
	case f.Release <= before.Release:
		return fmt.Errorf("its number %d is not higher than %d, that of the one before", f.Release, before.Release)
	}
	return nil
}

// PackSeries writes releases as a series, each as the difference from the one
// before, and the first from base; whole if that is nil. What w has on an error
// is no series.
func PackSeries(ctx context.Context, w io.Writer, vs []*Verified, base *Verified, progress Progress) error {
	if len(vs) > maxSeries {
		return fmt.Errorf("cannot pack %d releases into one file: %d are the most", len(vs), maxSeries)
	}
	for _, v := range vs {
		if base != nil {
			if err := follows(base.Facts(), v.Facts()); err != nil {
				return fmt.Errorf("cannot pack release %d: %w\nhint: name releases of one site, from the oldest to the newest", v.Facts().Release, err)
			}
		}
		if err := PackSince(ctx, w, v, base, progress); err != nil {
			return err
		}
		base = v
	}
	return nil
}
