package registry

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

// Import brings the image called r from a file or directory into s: an OCI
// layout, or what "docker save" writes. Layers are taken as they stand; one
// that is not what the image says is an error wrapping store.ErrMismatch. An
// archive with one image needs no name in it. progress may be nil.
func Import(ctx context.Context, s *store.Store, file string, r Ref, want Platform, progress func(done, total int64, name string)) (Image, error) {
	im, err := importImage(ctx, s, file, r, want, progress)
	if err != nil {
		return Image{}, fmt.Errorf("cannot take image %s from %s: %w", r.Name(), file, err)
	}
	if r.Digest != "" && !slices.Contains(im.Signed(), r.Digest) {
		return Image{}, fmt.Errorf("cannot take image %s from %s: %w: want %s, got %s", r.Name(), file, store.ErrMismatch, r.Digest, im.Signed()[0])
	}
	return im, nil
}

func importImage(ctx context.Context, s *store.Store, file string, r Ref, want Platform, progress func(done, total int64, name string)) (Image, error) {
	a, err := openArchive(file)
	if err != nil {
		return Image{}, err
	}
	defer a.Close()
	im := importer{ctx: ctx, archive: a, store: s, ref: r, want: want, progress: progress}
	if index, err := im.small("index.json", maxManifest); err == nil {
		return im.layout(index)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Image{}, err
	}
	manifest, err := im.small("manifest.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, errors.New("it is neither an OCI layout nor a docker archive: it has no index.json and no manifest.json")
	}
	if err != nil {
		return Image{}, err
	}
	return im.docker(manifest)
}

type importer struct {
	ctx         context.Context
	archive     archive
	store       *store.Store
	ref         Ref
	want        Platform
	progress    func(done, total int64, name string)
	done, total int64
}

// Read by way of the importer counts, and ends when the context does.
type counted struct {
	im *importer
	r  io.Reader
}

func (c counted) Read(p []byte) (int, error) {
	if err := c.im.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.im.done += int64(n)
	if c.im.progress != nil {
		c.im.progress(c.im.done, c.im.total, c.im.ref.Name())
	}
	return n, err
}

// small reads a file of at most limit bytes whole.
func (im *importer) small(name string, limit int64) ([]byte, error) {
	f, size, err := im.archive.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed", name, size, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// blob reads a small blob of a layout and checks it.
func (im *importer) blob(c store.Content, limit int64) ([]byte, error) {
	b, err := im.small("blobs/sha256/"+c.Digest.Hex(), limit)
	if err == nil && (store.FromBytes(b) != c.Digest || int64(len(b)) != c.Size) {
		err = fmt.Errorf("%s: %w", c.Digest, store.ErrMismatch)
	}
	return b, err
}

// layout takes the image out of an OCI layout.
func (im *importer) layout(index []byte) (Image, error) {
	d, err := im.inLayout(index)
	if err != nil {
		return Image{}, err
	}
	var out Image
	b, err := im.blob(d, maxManifest)
	if err != nil {
		return Image{}, err
	}
	if out.MediaType, err = readDocument(b, ""); err != nil {
		return Image{}, err
	}
	if isIndex(out.MediaType) {
		out.Index = d.Digest
		if d, err = choose(b, im.want); err != nil {
			return Image{}, err
		}
		if b, err = im.blob(d, maxManifest); err != nil {
			return Image{}, err
		}
		if out.MediaType, err = readDocument(b, ""); err != nil {
			return Image{}, err
		}
		if isIndex(out.MediaType) {
			return Image{}, errors.New("an index in an index")
		}
	}
	out.Manifest = d
	blobs, err := readManifest(b)
	if err != nil {
		return Image{}, err
	}
	config, err := im.blob(blobs[0], maxConfig)
	if err != nil {
		return Image{}, err
	}
	if _, err := checkConfig(config, im.want); err != nil {
		return Image{}, err
	}
	out.Bytes = blobs.bytes()
	im.total = out.Bytes
	for _, c := range blobs {
		if im.store.Check(c) == nil {
			im.done += c.Size
			continue
		}
		if err := im.put(c); err != nil {
			return Image{}, err
		}
	}
	return out, im.store.Put(out.Manifest, bytes.NewReader(b))
}

func (im *importer) put(c store.Content) error {
	f, _, err := im.archive.open("blobs/sha256/" + c.Digest.Hex())
	if err != nil {
		return err
	}
	defer f.Close()
	return im.store.Put(c, counted{im, f})
}

// inLayout finds the image by the names that layouts give: skopeo and docker
// write the tag, or the whole name, into annotations.
func (im *importer) inLayout(index []byte) (store.Content, error) {
	var ix ocispec.Index
	if err := json.Unmarshal(index, &ix); err != nil {
		return store.Content{}, fmt.Errorf("index.json is not JSON: %w", err)
	}
	var named, tagged, images []ocispec.Descriptor
	for _, d := range ix.Manifests {
		if !slices.Contains(manifestTypes, d.MediaType) || strings.HasSuffix(d.Annotations["kind"], "/sigs") {
			continue
		}
		images = append(images, d)
		ref := d.Annotations[ocispec.AnnotationRefName]
		switch {
		case sameName(ref, im.ref), sameName(d.Annotations["io.containerd.image.name"], im.ref):
			named = append(named, d)
		case ref != "" && ref == im.ref.Tag:
			tagged = append(tagged, d)
		}
	}
	if len(named) == 0 {
		named = tagged
	}
	if len(images) == 1 {
		named = images
	}
	if len(named) != 1 {
		return store.Content{}, fmt.Errorf("it has %d images, and %d of them have that name", len(images), len(named))
	}
	dg, err := store.ParseDigest(string(named[0].Digest))
	return store.Content{Digest: dg, Size: named[0].Size}, err
}

// sameName compares as Docker does, which leaves its own registry out.
func sameName(s string, r Ref) bool {
	a, err := name.ParseReference(s)
	if err != nil {
		return false
	}
	b, err := name.ParseReference(r.Name())
	return err == nil && a.Name() == b.Name()
}

// docker takes the image out of what "docker save" writes. It has no manifest
// of the distribution API: one is made, over the layers as they stand.
func (im *importer) docker(manifest []byte) (Image, error) {
	var all []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(manifest, &all); err != nil {
		return Image{}, fmt.Errorf("manifest.json is not JSON: %w", err)
	}
	i := 0
	if len(all) != 1 {
		i = -1
		for j, m := range all {
			if slices.ContainsFunc(m.RepoTags, func(t string) bool { return sameName(t, im.ref) }) {
				i = j
			}
		}
	}
	if i < 0 {
		return Image{}, fmt.Errorf("it has %d images, none of that name", len(all))
	}
	m := all[i]
	config, err := im.small(m.Config, maxConfig)
	if err != nil {
		return Image{}, err
	}
	diffs, err := checkConfig(config, im.want)
	if err != nil {
		return Image{}, err
	}
	if len(diffs) != len(m.Layers) {
		return Image{}, fmt.Errorf("it has %d layers, and its configuration speaks of %d", len(m.Layers), len(diffs))
	}
	for _, l := range m.Layers {
		f, size, err := im.archive.open(l)
		if err != nil {
			return Image{}, err
		}
		im.total += size
		f.Close()
	}
	c, err := im.store.WriteBytes(config)
	if err != nil {
		return Image{}, err
	}
	made := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.Digest(c.Digest), Size: c.Size},
		Layers: []ocispec.Descriptor{},
	}
	blobs := parts{c}
	for j, l := range m.Layers {
		d, err := im.layer(l, diffs[j])
		if err != nil {
			return Image{}, fmt.Errorf("layer %s: %w", l, err)
		}
		made.Layers = append(made.Layers, d)
		blobs = append(blobs, store.Content{Digest: store.Digest(d.Digest), Size: d.Size})
	}
	b, err := json.Marshal(made)
	if err != nil {
		return Image{}, err
	}
	out := Image{MediaType: made.MediaType, Bytes: blobs.bytes()}
	out.Manifest, err = im.store.WriteBytes(b)
	return out, err
}

// layer stores a layer whose unpacked bytes must have the digest diff.
func (im *importer) layer(name string, diff store.Digest) (ocispec.Descriptor, error) {
	f, size, err := im.archive.open(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(counted{im, f}, 256<<10)
	magic, err := r.Peek(2)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(diff), Size: size}
	if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return d, im.store.Put(store.Content{Digest: diff, Size: size}, r)
	}
	c, err := im.store.Write(r)
	if err != nil {
		return d, err
	}
	got, err := unpackedDigest(im.store, c)
	if err == nil && got != diff {
		err = fmt.Errorf("%w: want %s unpacked, got %s", store.ErrMismatch, diff, got)
	}
	d.MediaType, d.Digest = ocispec.MediaTypeImageLayerGzip, digest.Digest(c.Digest)
	return d, err
}

func unpackedDigest(s *store.Store, c store.Content) (store.Digest, error) {
	f, err := s.Open(c)
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(z, maxImage))
	if err == nil && n == maxImage {
		err = errors.New("it unpacks without end")
	}
	return store.SHA256(h.Sum(nil)), err
}
