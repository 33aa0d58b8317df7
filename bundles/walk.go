package bundles

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

const (
	layoutName  = "oci-layout"
	indexName   = "index.json"
	layoutJSON  = `{"imageLayoutVersion":"1.0.0"}`
	maxIndex    = 64 << 10
	partRelease = "release"
)

// blobName is where a blob lies in an OCI image layout.
func blobName(d store.Digest) string { return "blobs/sha256/" + d.Hex() }

// signed names a release index and the manifest of its signatures.
type signed struct {
	index, sigs store.Content
}

// indexJSON writes the layout's index.json.
func indexJSON(rels ...signed) ([]byte, error) { return marshalJSON(layoutIndex(rels)) }

func layoutIndex(rels []signed) ocispec.Index {
	ix := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	ix.SchemaVersion = 2
	for _, r := range rels {
		rd, sd := descriptor(ocispec.MediaTypeImageIndex, r.index), descriptor(ocispec.MediaTypeImageManifest, r.sigs)
		rd.Annotations = map[string]string{annPart: partRelease, signing.KindAnnotation: signing.KindImageIndex}
		sd.Annotations = map[string]string{signing.KindAnnotation: signing.KindSigs}
		ix.Manifests = append(ix.Manifests, rd, sd)
	}
	return ix
}

// parseIndexJSON reads an index.json: the releases and the signature manifests
// it names, and for a difference what it is from. It is unsigned.
func parseIndexJSON(b []byte) (rels, sigs []store.Content, since *fromBase, err error) {
	fail := func(err error) ([]store.Content, []store.Content, *fromBase, error) {
		return nil, nil, nil, fmt.Errorf("cannot read index.json: %w", err)
	}
	var ix ocispec.Index
	if err := decodeJSON(b, &ix); err != nil {
		return fail(err)
	}
	for _, d := range ix.Manifests {
		c, err := content(d)
		if err != nil {
			return fail(err)
		}
		n, isSince := d.Annotations[annSince]
		switch kind := d.Annotations[signing.KindAnnotation]; {
		case kind == signing.KindImageIndex:
			rels = append(rels, c)
		case kind == signing.KindSigs:
			sigs = append(sigs, c)
		case isSince && since == nil:
			release, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				return fail(fmt.Errorf("%s is %q", annSince, n))
			}
			since = &fromBase{Since: Since{Release: release, Index: c}}
		case since != nil && len(since.patches) < len(patchTitles()) && d.MediaType == MediaPatch:
			makes, err := parsePatchOf(d.Annotations[annPatch])
			if err != nil {
				return fail(err)
			}
			since.patches = append(since.patches, filePatch{blob: c, makes: makes})
		default:
			return fail(fmt.Errorf("%s is neither a release nor its signatures", c.Digest))
		}
	}
	return rels, sigs, since, nil
}

// contents is a release with all its manifests read.
type contents struct {
	facts Facts
	parts []part
	files map[store.Digest][]File // of artifacts, by manifest
	blobs map[store.Digest][]store.Content
	sigs  []signing.Signature
}

// reader returns a blob's bytes if small is set, else it only passes over it.
type reader func(c store.Content, small bool) ([]byte, error)

// walk reads the blobs of a release in the order they have in a layout: the
// release index, its signatures, the manifests by digest, the rest by digest;
// each once. check is called with the index and its signatures before
// anything that they vouch for is looked at.
func walk(s signed, check func(index []byte, sigs []signing.Signature) error, read reader) (contents, error) {
	w := walker{read: read, sizes: map[store.Digest]int64{}}
	index, err := w.small(s.index)
	if err != nil {
		return contents{}, err
	}
	over, sigs, err := readSignatures(s.sigs, w.small)
	if err != nil {
		return contents{}, err
	}
	if over != string(s.index.Digest) {
		return contents{}, refuse(fmt.Errorf("the signatures are over %s, not over the release %s", over, s.index.Digest))
	}
	if err := check(index, sigs); err != nil {
		return contents{}, err
	}
	c, children, err := readParts(index, w.small, true)
	if err != nil {
		return contents{}, err
	}
	c.sigs = sigs
	slices.SortStableFunc(children, func(a, b store.Content) int { return cmp.Compare(a.Digest, b.Digest) })
	for _, b := range children {
		if known, err := w.enter(b); err != nil {
			return contents{}, err
		} else if known {
			continue
		}
		if _, err := read(b, false); err != nil {
			return contents{}, err
		}
	}
	return c, nil
}

// readSignatures reads a signature manifest and what it refers to. All of the
// signatures are over one digest; whose they are is not asked here.
func readSignatures(m store.Content, small func(store.Content) ([]byte, error)) (over string, sigs []signing.Signature, err error) {
	b, err := small(m)
	if err != nil {
		return "", nil, err
	}
	p, err := signing.ParseManifest(b)
	if err != nil {
		return "", nil, refuse(err)
	}
	config, err := small(refContent(p.Config))
	if err != nil {
		return "", nil, err
	}
	var payloads [][]byte
	for _, r := range p.Payloads {
		b, err := small(refContent(r))
		if err != nil {
			return "", nil, err
		}
		payloads = append(payloads, b)
	}
	if sigs, err = p.Signatures(config, payloads); err != nil {
		return "", nil, refuse(err)
	}
	for _, s := range sigs {
		d, err := s.Digest()
		if err != nil {
			return "", nil, refuse(err)
		}
		if over != "" && d != over {
			return "", nil, refuse(fmt.Errorf("signatures over two things, %s and %s", over, d))
		}
		over = d
	}
	return over, sigs, nil
}

// readParts reads the manifests that a release index names, by digest; those
// of images only if images is set. It returns the blobs that they refer to.
func readParts(index []byte, small func(store.Content) ([]byte, error), images bool) (contents, []store.Content, error) {
	facts, parts, err := parseIndex(index)
	if err != nil {
		return contents{}, nil, refuse(err)
	}
	c := contents{facts: facts, parts: parts, files: map[store.Digest][]File{}, blobs: map[store.Digest][]store.Content{}}
	sorted := slices.Clone(parts)
	slices.SortStableFunc(sorted, func(a, b part) int { return cmp.Compare(a.manifest.Digest, b.manifest.Digest) })
	var children []store.Content
	var raw []byte
	for i, p := range sorted {
		if p.kind == PartImage && !images {
			continue
		}
		// Two names may be of one image.
		if i == 0 || p.manifest != sorted[i-1].manifest {
			if raw, err = small(p.manifest); err != nil {
				return contents{}, nil, err
			}
		}
		blobs, files, err := parseManifest(p, raw)
		if err != nil {
			return contents{}, nil, refuse(err)
		}
		if p.kind != PartImage {
			c.files[p.manifest.Digest] = files
		}
		c.blobs[p.manifest.Digest] = blobs
		if children = append(children, blobs...); len(children) > 4*MaxBlobs {
			return contents{}, nil, refuse(fmt.Errorf("more than %d references", 4*MaxBlobs))
		}
	}
	return c, children, nil
}

type walker struct {
	read  reader
	sizes map[store.Digest]int64
	total int64 // bytes of small blobs
}

// enter notes a blob; known means that it was read already.
func (w *walker) enter(c store.Content) (known bool, err error) {
	if n, ok := w.sizes[c.Digest]; ok {
		if n != c.Size {
			return false, refuse(fmt.Errorf("%s is said to be of %d and of %d bytes", c.Digest, n, c.Size))
		}
		return true, nil
	}
	if len(w.sizes) == MaxBlobs {
		return false, refuse(fmt.Errorf("more than the %d blobs allowed", MaxBlobs))
	}
	w.sizes[c.Digest] = c.Size
	return false, nil
}

func (w *walker) small(c store.Content) ([]byte, error) {
	if c.Size > MaxManifest {
		return nil, refuse(fmt.Errorf("%s: a manifest of %d bytes, more than the %d allowed", c.Digest, c.Size, MaxManifest))
	}
	if w.total += c.Size; w.total > maxManifests {
		return nil, refuse(fmt.Errorf("manifests of more than the %d bytes allowed", maxManifests))
	}
	known, err := w.enter(c)
	if err != nil {
		return nil, err
	}
	if known {
		return nil, refuse(fmt.Errorf("%s is used in two ways", c.Digest))
	}
	return w.read(c, true)
}

// refuse makes err one that wraps ErrRefused.
func refuse(err error) error {
	if err == nil || errors.Is(err, ErrRefused) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

func refContent(r signing.Ref) store.Content {
	return store.Content{Digest: store.Digest(r.Digest), Size: r.Size}
}
