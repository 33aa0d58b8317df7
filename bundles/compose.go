package bundles

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

// ReleaseInput is what a release is composed of; all blobs are in the store.
type ReleaseInput struct {
	Facts      Facts
	OS         []File // titled; a media type ending in +zstd needs Raw
	Images     []Image
	Manifests  []ComponentManifests // in the order of the components
	Site       store.Content        // site.json
	Node       store.Content        // node.json
	SBOM       store.Content
	Provenance store.Content // of the release
	Statements []File        // provenance of single images; Title and Content
}

// ComponentManifests is a component's YAML files in the order of application.
type ComponentManifests struct {
	Component string
	Files     []File // Title and Content; the media type is application/yaml
}

// Release is a composed release: whole in a store, and not yet signed.
type Release struct {
	Index store.Content
	Facts Facts
}

// Compose writes the manifests of a release's parts and its index into the
// store. The same input gives the same release. All that is wrong with the
// input is told at once; nothing is written then.
func Compose(s *store.Store, in ReleaseInput) (Release, error) {
	fail := func(err error) (Release, error) { return Release{}, fmt.Errorf("cannot compose release: %w", err) }
	if err := errors.Join(in.Facts.check(), checkBlobs(s, in)); err != nil {
		return fail(err)
	}
	c := composer{}
	c.artifact(PartOS, "", in.OS)
	for _, m := range in.Manifests {
		files := make([]File, len(m.Files))
		for i, f := range m.Files {
			files[i] = File{Title: f.Title, MediaType: MediaYAML, Content: f.Content}
		}
		c.artifact(PartManifests, m.Component, files)
	}
	for _, im := range in.Images {
		c.image(im)
	}
	c.artifact(PartSite, "", []File{{Title: SiteJSON, MediaType: MediaJSON, Content: in.Site}, {Title: NodeJSON, MediaType: MediaJSON, Content: in.Node}})
	c.artifact(PartSBOM, "", []File{{Title: SBOMJSON, MediaType: MediaSPDX, Content: in.SBOM}})
	statements := []File{{Title: ProvenanceJSON, MediaType: MediaInToto, Content: in.Provenance}}
	for _, f := range in.Statements {
		statements = append(statements, File{Title: f.Title, MediaType: MediaInToto, Content: f.Content})
	}
	c.artifact(PartProvenance, "", statements)
	index := c.marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: ReleaseType, Manifests: c.parts, Annotations: in.Facts.annotations(),
	})
	if _, _, err := parseIndex(index); err != nil {
		c.errs = append(c.errs, err)
	}
	if err := errors.Join(c.errs...); err != nil {
		return fail(err)
	}
	rel := Release{Facts: in.Facts}
	var err error
	for _, b := range append(c.blobs, ocispec.DescriptorEmptyJSON.Data, index) {
		if rel.Index, err = s.WriteBytes(b); err != nil { // the index comes last
			return fail(err)
		}
	}
	return rel, nil
}

// ReadRelease finds a release in the store again, by its index.
func ReadRelease(s *store.Store, index store.Content) (Release, error) {
	b, err := s.ReadFile(index, MaxManifest)
	if err != nil {
		return Release{}, fmt.Errorf("cannot read release: %w", err)
	}
	f, _, err := parseIndex(b)
	if err != nil {
		return Release{}, err
	}
	return Release{index, f}, nil
}

type composer struct {
	parts []ocispec.Descriptor
	blobs [][]byte
	errs  []error
}

func (c *composer) marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err == nil && len(b) > MaxManifest {
		err = fmt.Errorf("a manifest of %d bytes, more than the %d allowed", len(b), MaxManifest)
	}
	if err != nil {
		c.errs = append(c.errs, err)
	}
	return b
}

func (c *composer) artifact(kind, component string, files []File) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType(kind),
		Config:       ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: ocispec.DescriptorEmptyJSON.Size},
		Layers:       []ocispec.Descriptor{},
	}
	for _, f := range files {
		d := descriptor(f.MediaType, f.Content)
		d.Annotations = map[string]string{ocispec.AnnotationTitle: f.Title}
		if f.Raw != (store.Content{}) {
			d.Annotations[annRawDigest] = string(f.Raw.Digest)
			d.Annotations[annRawSize] = strconv.FormatInt(f.Raw.Size, 10)
		}
		m.Layers = append(m.Layers, d)
	}
	b := c.marshal(m)
	d := descriptor(ocispec.MediaTypeImageManifest, store.Content{Digest: store.FromBytes(b), Size: int64(len(b))})
	d.ArtifactType = m.ArtifactType
	d.Annotations = map[string]string{annPart: kind}
	if component != "" {
		d.Annotations[annComponent] = component
	}
	p, err := parsePart(d)
	if err == nil {
		_, _, err = parseManifest(p, b)
	}
	if err != nil {
		c.errs = append(c.errs, err)
	}
	c.parts = append(c.parts, d)
	c.blobs = append(c.blobs, b)
}

func (c *composer) image(im Image) {
	d := descriptor(im.MediaType, im.Manifest)
	if im.MediaType == "" {
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	d.Annotations = map[string]string{annPart: PartImage, annComponent: im.Component, ocispec.AnnotationRefName: im.Name}
	c.parts = append(c.parts, d)
}

func descriptor(mediaType string, c store.Content) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(c.Digest), Size: c.Size}
}

// checkBlobs makes sure that all the release needs is in the store.
func checkBlobs(s *store.Store, in ReleaseInput) error {
	var errs []error
	check := func(what string, c store.Content) bool {
		_, err := store.ParseDigest(string(c.Digest))
		if err == nil {
			err = s.Check(c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
		return err == nil
	}
	for _, f := range in.OS {
		check(f.Title, f.Content)
	}
	for _, m := range in.Manifests {
		for _, f := range m.Files {
			check(m.Component+" "+f.Title, f.Content)
		}
	}
	check(SiteJSON, in.Site)
	check(NodeJSON, in.Node)
	check(SBOMJSON, in.SBOM)
	check(ProvenanceJSON, in.Provenance)
	for _, f := range in.Statements {
		check(f.Title, f.Content)
	}
	for _, im := range in.Images {
		if !check(im.Name, im.Manifest) {
			continue
		}
		mt := im.MediaType
		if mt == "" {
			mt = ocispec.MediaTypeImageManifest
		}
		b, err := s.ReadFile(im.Manifest, MaxManifest)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", im.Name, err))
			continue
		}
		blobs, _, err := parseManifest(part{kind: PartImage, name: im.Name, mediaType: mt, manifest: im.Manifest}, b)
		if err != nil {
			errs = append(errs, err)
		}
		for _, c := range blobs {
			check(im.Name, c)
		}
	}
	return errors.Join(errs...)
}
