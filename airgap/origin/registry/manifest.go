package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

const (
	maxManifest = 4 << 20 // bytes, as in a bundle
	maxConfig   = 8 << 20
	maxImage    = 1 << 50

	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

var manifestTypes = []string{ocispec.MediaTypeImageIndex, dockerList, ocispec.MediaTypeImageManifest, dockerManifest}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
}

// Platform is what an image must be for.
type Platform struct{ OS, Architecture string }

// String writes it as in linux/amd64.
func (p Platform) String() string { return p.OS + "/" + p.Architecture }

// Image is what was found under a name.
type Image struct {
	Manifest  store.Content // for the platform
	MediaType string        // of the manifest
	Index     store.Digest  // that it was chosen from; empty if there was none
	Bytes     int64         // of configuration and layers
}

// Signed are the digests by which a signature may name the image: that of the
// index first, as this is what tags are.
func (i Image) Signed() []store.Digest {
	if i.Index == "" {
		return []store.Digest{i.Manifest.Digest}
	}
	return []store.Digest{i.Index, i.Manifest.Digest}
}

// parts are what a manifest refers to: first the configuration, then layers.
type parts []store.Content

func (p parts) bytes() int64 {
	var n int64
	for i, c := range p {
		if !slices.Contains(p[:i], c) {
			n += c.Size
		}
	}
	return n
}

// readDocument tells a manifest from an index. A media type in the document
// counts before that of the server.
func readDocument(b []byte, said string) (mediaType string, err error) {
	var d struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
		Config        json.RawMessage   `json:"config"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return "", fmt.Errorf("its manifest is not JSON: %w", err)
	}
	mediaType, _, _ = strings.Cut(said, ";")
	if d.MediaType != "" {
		mediaType = d.MediaType
	}
	switch {
	case d.SchemaVersion != 2:
		return "", fmt.Errorf("its manifest is of version %d, and only 2 is understood", d.SchemaVersion)
	case !slices.Contains(manifestTypes, mediaType):
		return "", fmt.Errorf("%.80q is neither an image nor an index", mediaType)
	case isIndex(mediaType) != (d.Manifests != nil) || isIndex(mediaType) == (d.Config != nil):
		return "", fmt.Errorf("its manifest is not what its type says, %s", mediaType)
	}
	return mediaType, nil
}

// readManifest reads what a manifest refers to; what a release could not carry
// is refused.
func readManifest(b []byte) (parts, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("its manifest is not JSON: %w", err)
	}
	if t := m.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return nil, fmt.Errorf("it is no container image: its configuration is of type %.80q", t)
	}
	var p parts
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		digest, err := store.ParseDigest(string(d.Digest))
		switch {
		case err != nil:
			return nil, err
		case len(d.URLs) > 0:
			return nil, fmt.Errorf("layer %s is to be had elsewhere (urls), which nothing offline can follow", digest)
		case d.Size < 0 || d.Size > maxImage:
			return nil, fmt.Errorf("layer %s of %d bytes", digest, d.Size)
		}
		p = append(p, store.Content{Digest: digest, Size: d.Size})
	}
	if p[0].Size > maxConfig {
		return nil, fmt.Errorf("a configuration of %d bytes, more than the %d allowed", p[0].Size, maxConfig)
	}
	if p.bytes() > maxImage || p.bytes() < 0 {
		return nil, errors.New("it is too large")
	}
	return p, nil
}

// choose finds the manifest for a platform in an index; the plainest variant
// of the processor if there are several.
func choose(index []byte, want Platform) (store.Content, error) {
	var ix ocispec.Index
	if err := json.Unmarshal(index, &ix); err != nil {
		return store.Content{}, fmt.Errorf("its index is not JSON: %w", err)
	}
	var found *ocispec.Descriptor
	var there []string
	for i, d := range ix.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" {
			continue // attestations
		}
		p := Platform{d.Platform.OS, d.Platform.Architecture}
		there = append(there, p.String())
		if p == want && (found == nil || d.Platform.Variant < found.Platform.Variant) {
			found = &ix.Manifests[i]
		}
	}
	if found == nil {
		slices.Sort(there)
		return store.Content{}, fmt.Errorf("it is not for %s but for %s", want, strings.Join(slices.Compact(there), ", "))
	}
	digest, err := store.ParseDigest(string(found.Digest))
	if err != nil {
		return store.Content{}, err
	}
	if found.Size < 0 || found.Size > maxManifest {
		return store.Content{}, fmt.Errorf("a manifest of %d bytes, more than the %d allowed", found.Size, maxManifest)
	}
	return store.Content{Digest: digest, Size: found.Size}, nil
}

// checkConfig makes sure that an image is for a platform; an index may say
// anything. It returns the digests of the unpacked layers.
func checkConfig(b []byte, want Platform) ([]store.Digest, error) {
	var c ocispec.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("its configuration is not JSON: %w", err)
	}
	if got := (Platform{c.OS, c.Architecture}); got != want {
		return nil, fmt.Errorf("it is not for %s but for %s", want, got)
	}
	var diffs []store.Digest
	for _, d := range c.RootFS.DiffIDs {
		diffs = append(diffs, store.Digest(d))
	}
	return diffs, nil
}
