package signing

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// The annotations by which cosign finds what it saved in an OCI layout.
const (
	KindAnnotation = "kind"
	KindImageIndex = "dev.cosignproject.cosign/imageIndex"
	KindSigs       = "dev.cosignproject.cosign/sigs"
)

const (
	sigAnnotation  = "dev.cosignproject.cosign/signature"
	sigMediaType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	manifestType   = "application/vnd.oci.image.manifest.v1+json"
	configType     = "application/vnd.oci.image.config.v1+json"
	maxManifest    = 1 << 20
	noTime         = "0001-01-01T00:00:00Z"
	layersFSType   = "layers"
	maxConfigBytes = 64 << 10
)

// Artifact is signatures as cosign stores them: an image whose layers are the
// payloads, each with its signature as an annotation.
type Artifact struct {
	Manifest, Config []byte
	Payloads         [][]byte // distinct, in the manifest's order
}

// Ref is a digest and a size.
type Ref struct {
	Digest string
	Size   int64
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type imageConfig struct {
	Architecture string         `json:"architecture"`
	Created      string         `json:"created"`
	History      []imageHistory `json:"history"`
	OS           string         `json:"os"`
	RootFS       imageRootFS    `json:"rootfs"`
	Config       struct{}       `json:"config"`
}

type imageHistory struct {
	Created string `json:"created"`
}

type imageRootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// NewArtifact writes signatures in the one form that readers accept; it
// depends neither on their order nor on one being given twice.
func NewArtifact(sigs []Signature) (Artifact, error) {
	sigs = slices.Clone(sigs)
	slices.SortFunc(sigs, compareSignatures)
	sigs = slices.CompactFunc(sigs, func(a, b Signature) bool { return compareSignatures(a, b) == 0 })
	if len(sigs) == 0 || len(sigs) > MaxSignatures {
		return Artifact{}, fmt.Errorf("cannot write signatures: there are %d, want 1 to %d", len(sigs), MaxSignatures)
	}
	var a Artifact
	m := manifest{SchemaVersion: 2, MediaType: manifestType}
	c := imageConfig{Created: noTime, RootFS: imageRootFS{Type: layersFSType}}
	for _, s := range sigs {
		if len(s.Payload) > MaxPayload || len(s.Sig) > maxSig {
			return Artifact{}, errors.New("cannot write signatures: a payload or signature is too large")
		}
		d := descriptor{sigMediaType, int64(len(s.Payload)), digestOf(s.Payload),
			map[string]string{sigAnnotation: base64.StdEncoding.EncodeToString(s.Sig)}}
		m.Layers = append(m.Layers, d)
		c.History = append(c.History, imageHistory{noTime})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, d.Digest)
		if n := len(a.Payloads); n == 0 || !bytes.Equal(a.Payloads[n-1], s.Payload) {
			a.Payloads = append(a.Payloads, s.Payload)
		}
	}
	var err error
	if a.Config, err = json.Marshal(c); err != nil {
		return Artifact{}, fmt.Errorf("cannot write signatures: %w", err)
	}
	m.Config = descriptor{configType, int64(len(a.Config)), digestOf(a.Config), nil}
	if a.Manifest, err = json.Marshal(m); err != nil {
		return Artifact{}, fmt.Errorf("cannot write signatures: %w", err)
	}
	return a, nil
}

// ParsedManifest is a signature manifest before its payloads are read.
type ParsedManifest struct {
	Config   Ref
	Payloads []Ref // distinct, in the manifest's order
	sigs     []parsedSig
	raw      []byte
}

type parsedSig struct {
	digest string
	sig    []byte
}

// ParseManifest reads a signature manifest. It is unsigned bytes: nothing in
// it counts before Signatures has seen the payloads.
func ParseManifest(b []byte) (ParsedManifest, error) {
	var m manifest
	if err := decodeStrict(b, maxManifest, &m); err != nil {
		return ParsedManifest{}, fmt.Errorf("cannot read signature manifest: %w", err)
	}
	if len(m.Layers) == 0 || len(m.Layers) > MaxSignatures {
		return ParsedManifest{}, fmt.Errorf("cannot read signature manifest: %d signatures, want 1 to %d", len(m.Layers), MaxSignatures)
	}
	p := ParsedManifest{Config: Ref{m.Config.Digest, m.Config.Size}, raw: bytes.Clone(b)}
	if !isDigest(p.Config.Digest) || p.Config.Size < 0 || p.Config.Size > maxConfigBytes {
		return ParsedManifest{}, errors.New("cannot read signature manifest: a wrong config")
	}
	for _, l := range m.Layers {
		sig, err := base64.StdEncoding.Strict().DecodeString(l.Annotations[sigAnnotation])
		if err != nil || len(sig) > maxSig {
			return ParsedManifest{}, fmt.Errorf("cannot read signature manifest: the signature of %s is malformed", l.Digest)
		}
		if !isDigest(l.Digest) || l.Size < 0 || l.Size > MaxPayload {
			return ParsedManifest{}, fmt.Errorf("cannot read signature manifest: a wrong payload %q of %d bytes", l.Digest, l.Size)
		}
		p.sigs = append(p.sigs, parsedSig{l.Digest, sig})
		if r := (Ref{l.Digest, l.Size}); !slices.Contains(p.Payloads, r) {
			p.Payloads = append(p.Payloads, r)
		}
	}
	return p, nil
}

// Signatures puts the payloads to the signatures, and refuses a manifest or
// config that is not, byte for byte, what NewArtifact writes for them.
func (p ParsedManifest) Signatures(config []byte, payloads [][]byte) ([]Signature, error) {
	byDigest := map[string][]byte{}
	for _, b := range payloads {
		byDigest[digestOf(b)] = b
	}
	var sigs []Signature
	for _, s := range p.sigs {
		b, ok := byDigest[s.digest]
		if !ok {
			return nil, fmt.Errorf("cannot read signatures: no payload %s", s.digest)
		}
		sigs = append(sigs, Signature{b, s.sig})
	}
	a, err := NewArtifact(sigs)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(a.Manifest, p.raw) || !bytes.Equal(a.Config, config) {
		return nil, errors.New("cannot read signatures: the manifest is not in the canonical form")
	}
	return sigs, nil
}

func digestOf(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}
