package bundles

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// maxRead bounds the files that are read whole, such as one YAML file.
const maxRead = 16 << 20

// Verified is a release whose signatures were accepted. Only Open, OpenAt and
// OpenLayout make one.
type Verified struct {
	contents contents
	signed   signed
	accepted signing.Accepted
	blobs    []Blob // of a bundle
	source   source
	base     *Verified // of a difference
	root     Opener    // root.erofs decompressed, from elsewhere; may be nil
}

// Blob is a blob of a release and where its bytes begin in the bundle; -1 if
// it came from a layout on disk, or comes from the base of a difference.
type Blob struct {
	store.Content
	Offset int64 `json:"offset"`
}

// source is where blobs are read from; it promises nothing about their bytes.
type source interface {
	open(c store.Content) ([]io.ReadCloser, error)
}

// Facts is what the release says of itself.
func (v *Verified) Facts() Facts { return v.contents.facts }

// Index is the digest and size of the release index.
func (v *Verified) Index() store.Content { return v.signed.index }

// RootHash is the dm-verity root hash of the release's root.
func (v *Verified) RootHash() string { return v.contents.facts.RootHash }

// Accepted says which keys the release was accepted for.
func (v *Verified) Accepted() signing.Accepted { return v.accepted }

// Signatures returns all signatures that the release carries.
func (v *Verified) Signatures() []signing.Signature { return slices.Clone(v.contents.sigs) }

// Images returns the container images in the order of the index.
func (v *Verified) Images() []Image {
	var out []Image
	for _, p := range v.contents.parts {
		if p.kind == PartImage {
			out = append(out, Image{p.name, p.component, p.mediaType, p.manifest})
		}
	}
	return out
}

// Files returns the files of a part; component is empty except for manifests.
func (v *Verified) Files(kind, component string) []File {
	for _, p := range v.contents.parts {
		if p.kind == kind && p.component == component {
			return slices.Clone(v.contents.files[p.manifest.Digest])
		}
	}
	return nil
}

// File finds a file of a part by its title.
func (v *Verified) File(kind, title string) (File, bool) {
	for _, f := range v.Files(kind, "") {
		if f.Title == title {
			return f, true
		}
	}
	return File{}, false
}

// OSFiles returns the OS part's files: root.erofs, root.verity, uki.efi, ….
func (v *Verified) OSFiles() []File { return v.Files(PartOS, "") }

// Components returns the components that have manifests, in their order.
func (v *Verified) Components() []string {
	var out []string
	for _, p := range v.contents.parts {
		if p.kind == PartManifests {
			out = append(out, p.component)
		}
	}
	return out
}

// Manifest is a YAML file.
type Manifest struct {
	Title string
	Data  []byte
}

// Manifests reads a component's YAML files in the order of application.
func (v *Verified) Manifests(component string) ([]Manifest, error) {
	if !slices.Contains(v.Components(), component) {
		return nil, fmt.Errorf("cannot read manifests: the release has no component %q", component)
	}
	var out []Manifest
	for _, f := range v.Files(PartManifests, component) {
		b, err := v.ReadBlob(f.Content)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", f.Title, component, err)
		}
		out = append(out, Manifest{f.Title, b})
	}
	return out, nil
}

// NodeJSON reads node.json.
func (v *Verified) NodeJSON() ([]byte, error) { return v.readFile(PartSite, NodeJSON) }

// SiteJSON reads site.json.
func (v *Verified) SiteJSON() ([]byte, error) { return v.readFile(PartSite, SiteJSON) }

func (v *Verified) readFile(kind, title string) ([]byte, error) {
	f, ok := v.File(kind, title)
	if !ok {
		return nil, fmt.Errorf("cannot read %s: the release has none", title)
	}
	b, err := v.ReadBlob(f.Content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", title, err)
	}
	return b, nil
}

// ReadBlob reads a blob of at most 16 MiB whole, and checks it. Of a release
// in several layouts it takes the first good copy. Wrong bytes are an error
// wrapping store.ErrMismatch, none store.ErrMissing.
func (v *Verified) ReadBlob(c store.Content) ([]byte, error) {
	if c.Size > maxRead {
		return nil, fmt.Errorf("cannot read %s: %d bytes, more than the %d allowed", c.Digest, c.Size, maxRead)
	}
	rs, err := v.openAll(c)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, r := range rs {
		b, err := io.ReadAll(r)
		if err == nil {
			return b, closeAll(rs[i:])
		}
		errs = append(errs, err, r.Close())
	}
	return nil, errors.Join(errs...)
}

// OpenBlob opens a blob; its reader ends with an error wrapping
// store.ErrMismatch, not io.EOF, if the bytes were not those of c. Nothing
// read may be used before the end was reached.
func (v *Verified) OpenBlob(c store.Content) (io.ReadCloser, error) {
	rs, err := v.openAll(c)
	if err != nil {
		return nil, err
	}
	if err := closeAll(rs[1:]); err != nil {
		return nil, errors.Join(err, rs[0].Close())
	}
	return rs[0], nil
}

func (v *Verified) openAll(c store.Content) ([]io.ReadCloser, error) {
	if v.source == nil {
		return nil, fmt.Errorf("cannot read %s: the bundle was read as a stream\nhint: give the bundle as a file", c.Digest)
	}
	if _, err := store.ParseDigest(string(c.Digest)); err != nil {
		return nil, err
	}
	rs, err := v.source.open(c)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", c.Digest, err)
	}
	if len(rs) == 0 {
		return nil, fmt.Errorf("cannot read %s: %w", c.Digest, store.ErrMissing)
	}
	for i, r := range rs {
		rs[i] = &checked{r, c, sha256.New(), 0}
	}
	return rs, nil
}

func closeAll(rs []io.ReadCloser) error {
	var errs []error
	for _, r := range rs {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// checked is a reader whose end with other bytes than c is an error.
type checked struct {
	r    io.ReadCloser
	c    store.Content
	h    hash.Hash
	done int64
}

func (c *checked) Close() error { return c.r.Close() }

func (c *checked) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.h.Write(b[:n])
	c.done += int64(n)
	switch {
	case c.done > c.c.Size:
		return 0, fmt.Errorf("cannot read %s: %w: more than its %d bytes", c.c.Digest, store.ErrMismatch, c.c.Size)
	case err == io.EOF:
		if got := store.SHA256(c.h.Sum(nil)); got != c.c.Digest {
			return 0, fmt.Errorf("cannot read %s: %w: its %d bytes are %s", c.c.Digest, store.ErrMismatch, c.done, got)
		}
	}
	return n, err
}

// bundleSource reads from a bundle; the file may have changed meanwhile.
type bundleSource struct {
	r     io.ReaderAt
	blobs map[store.Digest]Blob
}

func (s bundleSource) open(c store.Content) ([]io.ReadCloser, error) {
	b, ok := s.blobs[c.Digest]
	if !ok || b.Size != c.Size {
		return nil, nil
	}
	return []io.ReadCloser{io.NopCloser(io.NewSectionReader(s.r, b.Offset, b.Size))}, nil
}

// joined reads from several sources, such as a difference and its base.
type joined []source

func (s joined) open(c store.Content) ([]io.ReadCloser, error) {
	var rs []io.ReadCloser
	var errs []error
	for _, one := range s {
		r, err := one.open(c)
		rs, errs = append(rs, r...), append(errs, err)
	}
	if len(rs) > 0 {
		return rs, nil
	}
	return nil, errors.Join(errs...)
}

// dirSource reads from OCI layouts on disk.
type dirSource []string

func (s dirSource) open(c store.Content) ([]io.ReadCloser, error) {
	var rs []io.ReadCloser
	var errs []error
	for _, dir := range s {
		p := filepath.Join(dir, blobName(c.Digest))
		fi, err := os.Lstat(p)
		// A file of another size or kind, a pipe even, is no copy of it.
		if err != nil || !fi.Mode().IsRegular() || fi.Size() != c.Size {
			continue
		}
		f, err := os.Open(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rs = append(rs, f)
	}
	if len(rs) > 0 {
		return rs, nil
	}
	return nil, errors.Join(errs...)
}
