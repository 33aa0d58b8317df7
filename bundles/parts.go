package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

// Limits on what a bundle may hold.
const (
	MaxManifest  = 4 << 20 // bytes of one manifest or index
	MaxBlobs     = 10_000
	maxManifests = 32 << 20 // bytes of all manifests
)

// The parts of a release.
const (
	PartOS         = "os"
	PartImage      = "image"
	PartManifests  = "manifests"
	PartSite       = "site"
	PartSBOM       = "sbom"
	PartProvenance = "provenance"
)

// Names of files in the parts, and the media types of the OS part's.
const (
	RootErofs  = "root.erofs"
	RootVerity = "root.verity"
	UKI        = "uki.efi"

	SiteJSON       = "site.json"
	NodeJSON       = "node.json"
	SBOMJSON       = "sbom.spdx.json"
	ProvenanceJSON = "provenance.json"

	MediaRoot   = "application/vnd.holdfast.os.root.v1.erofs+zstd"
	MediaVerity = "application/vnd.holdfast.os.verity.v1+zstd"
	MediaUEFI   = "application/vnd.holdfast.uefi.v1"
	MediaYAML   = "application/yaml"
	MediaJSON   = "application/json"
	MediaSPDX   = "application/spdx+json"
	MediaInToto = "application/vnd.in-toto+json"

	ReleaseType = "application/vnd.holdfast.release.v1"
)

const (
	annPart      = "dev.holdfast.part"
	annComponent = "dev.holdfast.component"
	annRawDigest = "dev.holdfast.raw.digest"
	annRawSize   = "dev.holdfast.raw.size"

	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

func artifactType(part string) string { return "application/vnd.holdfast." + part + ".v1" }

// File is a named blob of a part.
type File struct {
	Title     string        `json:"title"`
	MediaType string        `json:"mediaType"`
	Content   store.Content `json:"content"`
	Raw       store.Content `json:"raw,omitzero"` // before compression, if it is compressed
}

// Image is a container image of a release.
type Image struct {
	Name      string        `json:"name"` // full original name with tag
	Component string        `json:"component"`
	MediaType string        `json:"mediaType"` // of the manifest
	Manifest  store.Content `json:"manifest"`
}

// part is a descriptor in the release index.
type part struct {
	kind, component, name, mediaType string
	manifest                         store.Content
}

var (
	titleForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	imageNameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$`)
)

// decodeJSON reads one JSON value and nothing after it.
func decodeJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func content(d ocispec.Descriptor) (store.Content, error) {
	dg, err := store.ParseDigest(string(d.Digest))
	if err != nil {
		return store.Content{}, err
	}
	if d.Size < 0 {
		return store.Content{}, fmt.Errorf("%s: size %d", dg, d.Size)
	}
	if len(d.URLs) != 0 {
		return store.Content{}, fmt.Errorf("%s: its bytes are elsewhere (urls)", dg)
	}
	return store.Content{Digest: dg, Size: d.Size}, nil
}

// parseIndex reads a release index and tells all that is wrong with it.
func parseIndex(b []byte) (Facts, []part, error) {
	var ix ocispec.Index
	if err := decodeJSON(b, &ix); err != nil {
		return Facts{}, nil, fmt.Errorf("cannot read release index: %w", err)
	}
	var errs []error
	if ix.SchemaVersion != 2 || ix.MediaType != ocispec.MediaTypeImageIndex || ix.ArtifactType != ReleaseType {
		errs = append(errs, fmt.Errorf("it is a %q of type %q", ix.MediaType, ix.ArtifactType))
	}
	f, err := parseFacts(ix.Annotations)
	errs = append(errs, err)
	if len(ix.Manifests) > MaxBlobs {
		return Facts{}, nil, fmt.Errorf("cannot read release index: %d parts, more than the %d allowed", len(ix.Manifests), MaxBlobs)
	}
	var parts []part
	seen := map[string]int{}
	for i, d := range ix.Manifests {
		p, err := parsePart(d)
		if err != nil {
			errs = append(errs, fmt.Errorf("part %d: %w", i, err))
			continue
		}
		key := p.kind
		switch p.kind {
		case PartImage:
			key += " " + p.name
		case PartManifests:
			key += " of " + p.component
		}
		if seen[key]++; seen[key] == 2 {
			errs = append(errs, fmt.Errorf("the part %q is there twice", key))
		}
		parts = append(parts, p)
	}
	for _, k := range []string{PartOS, PartSite, PartSBOM, PartProvenance} {
		if seen[k] == 0 {
			errs = append(errs, fmt.Errorf("the part %q is missing", k))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Facts{}, nil, fmt.Errorf("cannot read release index: %w", err)
	}
	return f, parts, nil
}

func parsePart(d ocispec.Descriptor) (part, error) {
	c, err := content(d)
	if err != nil {
		return part{}, err
	}
	p := part{kind: d.Annotations[annPart], component: d.Annotations[annComponent],
		name: d.Annotations[ocispec.AnnotationRefName], mediaType: d.MediaType, manifest: c}
	if c.Size > MaxManifest {
		return part{}, fmt.Errorf("a manifest of %d bytes, more than the %d allowed", c.Size, MaxManifest)
	}
	ok := d.MediaType == ocispec.MediaTypeImageManifest
	switch p.kind {
	case PartImage:
		ok = (ok || d.MediaType == dockerManifest) && p.component != "" && imageNameForm.MatchString(p.name)
	case PartManifests:
		ok = ok && p.component != ""
	case PartOS, PartSite, PartSBOM, PartProvenance:
	default:
		return part{}, fmt.Errorf("no such part: %q", p.kind)
	}
	if !ok {
		return part{}, fmt.Errorf("%s %q of component %q as %q is wrong", p.kind, p.name, p.component, p.mediaType)
	}
	return p, nil
}

// parseManifest reads the manifest of a part: all blobs that it refers to, and
// for an artifact its files.
func parseManifest(p part, b []byte) (blobs []store.Content, files []File, err error) {
	fail := func(err error) ([]store.Content, []File, error) {
		return nil, nil, fmt.Errorf("cannot read manifest of %s: %w", strings.TrimSpace(p.kind+" "+p.name+p.component), err)
	}
	var m ocispec.Manifest
	if err := decodeJSON(b, &m); err != nil {
		return fail(err)
	}
	if m.SchemaVersion != 2 || m.MediaType != p.mediaType && m.MediaType != "" {
		return fail(fmt.Errorf("it is a %q", m.MediaType))
	}
	if len(m.Layers) > MaxBlobs {
		return fail(fmt.Errorf("%d layers, more than the %d allowed", len(m.Layers), MaxBlobs))
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		c, err := content(d)
		if err != nil {
			return fail(err)
		}
		blobs = append(blobs, c)
	}
	if p.kind == PartImage {
		return blobs, nil, nil
	}
	if m.ArtifactType != artifactType(p.kind) {
		return fail(fmt.Errorf("its type is %q, want %q", m.ArtifactType, artifactType(p.kind)))
	}
	seen := map[string]bool{}
	for i, d := range m.Layers {
		f := File{Title: d.Annotations[ocispec.AnnotationTitle], MediaType: d.MediaType, Content: blobs[i+1]}
		if !titleForm.MatchString(f.Title) || seen[f.Title] {
			return fail(fmt.Errorf("the title %q is wrong or there twice", f.Title))
		}
		seen[f.Title] = true
		if strings.HasSuffix(d.MediaType, "+zstd") {
			if f.Raw, err = parseRaw(d.Annotations); err != nil {
				return fail(fmt.Errorf("%s: %w", f.Title, err))
			}
		}
		files = append(files, f)
	}
	for _, t := range needed(p.kind) {
		if !seen[t] {
			return fail(fmt.Errorf("%s is missing", t))
		}
	}
	return blobs, files, nil
}

func parseRaw(a map[string]string) (store.Content, error) {
	d, err := store.ParseDigest(a[annRawDigest])
	if err != nil {
		return store.Content{}, err
	}
	n, err := strconv.ParseInt(a[annRawSize], 10, 64)
	if err != nil || n < 0 {
		return store.Content{}, fmt.Errorf("raw size %q", a[annRawSize])
	}
	return store.Content{Digest: d, Size: n}, nil
}

// needed are the files that a part must have; it may have more.
func needed(kind string) []string {
	switch kind {
	case PartOS:
		return []string{RootErofs, RootVerity, UKI}
	case PartSite:
		return []string{SiteJSON, NodeJSON}
	case PartSBOM:
		return []string{SBOMJSON}
	case PartProvenance:
		return []string{ProvenanceJSON}
	}
	return nil
}
