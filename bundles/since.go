package bundles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

const annSince = "dev.holdfast.since"

// Since names the release that a difference is from: its base. In a
// difference it is not signed; a base that is opened with it is checked
// against it.
type Since struct {
	Release uint64        `json:"release"`
	Index   store.Content `json:"index"`
}

func (s Since) String() string { return fmt.Sprintf("release %d (%s)", s.Release, s.Index.Digest) }

// fromBase is what index.json says of a difference.
type fromBase struct {
	Since
	patches []filePatch
}

// DifferenceError says that a bundle is a difference whose base was not there.
// What the bundle carries was verified whole if Given is empty.
type DifferenceError struct {
	Facts    Facts
	Index    store.Content // of the whole release
	Accepted signing.Accepted
	Since    Since
	Missing  []store.Content // what must come from the base
	Given    []Since         // other releases than the base
}

func (e *DifferenceError) Error() string {
	if len(e.Given) > 0 {
		var given []string
		for _, g := range e.Given {
			given = append(given, g.String())
		}
		return fmt.Sprintf("it is a difference from %s, and what it was opened with is %s\nhint: open it with that release, or carry the whole bundle", e.Since, strings.Join(given, ", "))
	}
	return fmt.Sprintf("it is a difference from %s, from which %d blobs of %d bytes must come\nhint: open it together with that release", e.Since, len(e.Missing), e.MissingSize())
}

// MissingSize is how many bytes must come from the base.
func (e *DifferenceError) MissingSize() int64 {
	var n int64
	for _, c := range e.Missing {
		n += c.Size
	}
	return n
}

// Since tells what release v is the difference from, if it was opened from a
// difference.
func (v *Verified) Since() (Since, bool) {
	if v.base == nil {
		return Since{}, false
	}
	return v.base.asBase(), true
}

func (v *Verified) asBase() Since { return Since{Release: v.Facts().Release, Index: v.Index()} }

// patched reports whether c comes as a patch.
func (s fromBase) patched(c store.Content) bool {
	return slices.ContainsFunc(s.patches, func(p filePatch) bool { return p.makes == c })
}

// sinceJSON is the index.json of a bundle: of a difference if since is set.
func sinceJSON(sg signed, since *fromBase) ([]byte, error) {
	if since == nil {
		return indexJSON(sg)
	}
	ix := layoutIndex([]signed{sg})
	d := descriptor(ocispec.MediaTypeImageIndex, since.Index)
	d.Annotations = map[string]string{annSince: strconv.FormatUint(since.Release, 10)}
	ix.Manifests = append(ix.Manifests, d)
	for _, p := range since.patches {
		d := descriptor(MediaPatch, p.blob)
		d.Annotations = map[string]string{annPatch: fmt.Sprintf("%s %d", p.makes.Digest, p.makes.Size)}
		ix.Manifests = append(ix.Manifests, d)
	}
	return marshalJSON(ix)
}

// parsePatchOf reads the annotation that says what a patch makes: digest and size.
func parsePatchOf(s string) (store.Content, error) {
	d, n, _ := strings.Cut(s, " ")
	digest, err := store.ParseDigest(d)
	if err != nil {
		return store.Content{}, err
	}
	size, err := strconv.ParseInt(n, 10, 64)
	if err != nil || size < 0 {
		return store.Content{}, fmt.Errorf("%s is %q", annPatch, s)
	}
	return store.Content{Digest: digest, Size: size}, nil
}

// reach lists what the release index refers to: manifests, and what those
// refer to. A difference from v leaves these out unless they are manifests.
func (v *Verified) reach() (map[store.Content]bool, error) {
	out := map[store.Content]bool{}
	for _, p := range v.contents.parts {
		cs, err := v.children(p)
		if err != nil {
			return nil, fmt.Errorf("cannot list the blobs of %s: %w", v.asBase(), err)
		}
		for _, c := range append(cs, p.manifest) {
			out[c] = true
		}
	}
	return out, nil
}

// checkBase refuses pairs that no difference is made of.
func checkBase(f, base Facts) error {
	var errs []error
	if f.Name != base.Name {
		errs = append(errs, fmt.Errorf("the release is of site %s, its base of site %s", f.Name, base.Name))
	}
	if f.Zone != base.Zone {
		errs = append(errs, fmt.Errorf("the release is for zone %s, its base for zone %s", f.Zone, base.Zone))
	}
	if base.Release >= f.Release {
		errs = append(errs, fmt.Errorf("the base is release %d, which is not before release %d", base.Release, f.Release))
	}
	return errors.Join(errs...)
}

// difference is what a stream knows of the base of what it reads.
type difference struct {
	since   *fromBase   // nil: the bundle is whole
	bases   []*Verified // that may be the base
	base    *Verified   // nil: none was given
	left    map[store.Content]bool
	missing []store.Content

	patchBlobs []Blob
}

// findBase looks for the base among those given, now that the index is
// trusted.
func (s *stream) findBase(index []byte, at store.Content) error {
	if s.since == nil {
		return nil
	}
	f, _, err := parseIndex(index)
	if err != nil {
		return refuse(err)
	}
	claimed := Facts{Name: f.Name, Zone: f.Zone, Release: s.since.Release}
	if err := checkBase(f, claimed); err != nil {
		return refuse(fmt.Errorf("%s: %w", indexName, err))
	}
	for _, b := range s.bases {
		if b.Index() == s.since.Index {
			s.base = b
		}
	}
	if s.base == nil && len(s.bases) > 0 {
		e := &DifferenceError{Facts: f, Index: at, Since: s.since.Since}
		for _, b := range s.bases {
			e.Given = append(e.Given, b.asBase())
		}
		return refuse(e)
	}
	if s.base == nil {
		return nil
	}
	if got := s.base.asBase(); got.Release != s.since.Release {
		return refuse(fmt.Errorf("%s calls its base %s, which is %s", indexName, s.since, got))
	}
	if err := checkBase(f, s.base.Facts()); err != nil {
		return refuse(err)
	}
	if s.left, err = s.base.reach(); err != nil {
		return err
	}
	for _, p := range s.since.patches {
		s.left[p.makes] = true
	}
	return nil
}

// blobOfDifference is blob where the bundle may be without c: with a base it is
// known whether c is to be there, without one it is seen.
func (s *stream) blobOfDifference(c store.Content, small bool) ([]byte, error) {
	switch {
	case small:
	case s.base != nil && s.left[c]:
		s.blobs = append(s.blobs, Blob{c, -1})
		return nil, nil
	case s.base != nil:
		if next, err := s.isNext(c); err != nil {
			return nil, err
		} else if !next {
			return nil, s.fault(blobName(c.Digest), s.off, fmt.Errorf("it should be here, as %s does not have it: found %s", s.since, describe(s.ahead)))
		}
	default:
		if next, err := s.isNext(c); err != nil {
			return nil, err
		} else if !next {
			if !s.since.patched(c) {
				s.missing = append(s.missing, c)
			}
			s.blobs = append(s.blobs, Blob{c, -1})
			return nil, nil
		}
	}
	return s.blob(c, small)
}

// isNext looks at the next header without taking it.
func (s *stream) isNext(c store.Content) (bool, error) {
	want, err := tarHeader(blobName(c.Digest), c.Size)
	if err != nil {
		return false, err
	}
	if len(s.ahead) == 0 {
		b, err := s.take(block, blobName(c.Digest))
		if err != nil {
			return false, err
		}
		s.ahead = b
		s.off -= block
	}
	return bytes.Equal(s.ahead, want[:block]), nil
}

// readPatches reads the patches, which follow everything else, and sees that
// they are for files that the difference is without.
func (s *stream) readPatches() error {
	if s.since == nil {
		return nil
	}
	n := len(s.blobs)
	for _, p := range s.since.patches {
		if !slices.ContainsFunc(s.blobs, func(b Blob) bool { return b.Content == p.makes && b.Offset < 0 }) {
			return s.fault(indexName, s.off, fmt.Errorf("it names a patch for %s, which is not left out", p.makes.Digest))
		}
		if slices.ContainsFunc(s.blobs, func(b Blob) bool { return b.Digest == p.blob.Digest }) {
			return s.fault(indexName, s.off, fmt.Errorf("it names the patch %s, which is there already", p.blob.Digest))
		}
		if _, err := s.blob(p.blob, false); err != nil {
			return err
		}
	}
	s.patchBlobs = slices.Clone(s.blobs[n:])
	s.blobs = s.blobs[:n] // those of patches are not the release's
	return nil
}

// nothingElse tells what a difference carries that it should not, if a header
// that was looked at fitted no blob.
func (s *stream) nothingElse() error {
	if len(s.ahead) == 0 || bytes.Equal(s.ahead, make([]byte, block)) {
		return nil
	}
	return s.fault("the end", s.off, fmt.Errorf("something that the release does not have, or not in this place: found %s", describe(s.ahead)))
}

// complete says what v lacks of a difference: everything without a base, and
// with one the blobs that it should have and does not. The root has a
// partition of its own on a node: only what reads it finds it missing.
func (s *stream) complete(v *Verified) error {
	before := -1
	for _, p := range s.since.patches {
		f, ok := v.patchable(p.makes)
		at := slices.Index(patchTitles(), f.Title)
		if !ok || at <= before {
			return refuse(fmt.Errorf("%s: it names a patch for %s, which is none of %q, or not in this order", indexName, p.makes.Digest, patchTitles()))
		}
		before = at
	}
	if s.base == nil {
		return &DifferenceError{Facts: v.Facts(), Index: v.Index(), Accepted: v.accepted, Since: s.since.Since, Missing: s.missing}
	}
	if err := v.join(s.since.patches); err != nil {
		return err
	}
	var root []store.Digest
	for _, f := range s.base.OSFiles() {
		if f.Title == RootErofs || f.Title == RootVerity {
			root = append(root, f.Content.Digest)
		}
	}
	var errs []error
	for _, b := range s.blobs {
		if b.Offset >= 0 {
			continue
		}
		if s.since.patched(b.Content) {
			errs = append(errs, v.readAll(b.Content)) // the patch is not signed: what it makes is looked at
			continue
		}
		if slices.Contains(root, b.Digest) {
			continue
		}
		if err := s.base.has(b.Content); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refuse(fmt.Errorf("its base, %s, is not whole: %w\nhint: carry the whole bundle", s.since, err))
	}
	return nil
}

// join lets v read from its base, and what patches make from its base's files.
func (v *Verified) join(patches []filePatch) error {
	if v.source == nil {
		return nil
	}
	from := joined{v.source}
	carried := *v
	for _, p := range patches {
		m, err := carried.patched(p, v.base)
		if err != nil {
			return err
		}
		from = append(from, m)
	}
	if v.base.source != nil {
		from = append(from, v.base.source)
	}
	v.source = from
	return nil
}

// readAll reads a blob to where it is checked.
func (v *Verified) readAll(c store.Content) error {
	r, err := v.OpenBlob(c)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// has looks whether a blob can be read, and not at its bytes.
func (v *Verified) has(c store.Content) error {
	rs, err := v.openAll(c)
	if err != nil {
		return err
	}
	return closeAll(rs)
}
