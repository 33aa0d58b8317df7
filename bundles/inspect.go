package bundles

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"holdfast.dev/holdfast/airgap/store"
)

// Summary is what "bundle inspect" shows.
type Summary struct {
	Facts       Facts         `json:"facts"`
	Index       store.Content `json:"index"`
	Since       *Since        `json:"since,omitempty"` // of a difference
	SignedBy    []Signer      `json:"signedBy"`
	Development bool          `json:"development"` // a development key was counted
	Parts       []PartSummary `json:"parts"`
	Images      int           `json:"images"`
	Packages    int           `json:"packages"` // in the SBOM; -1 if it cannot be read from a stream
	Blobs       int           `json:"blobs"`
	Size        int64         `json:"size"` // bytes of all blobs
}

// Signer is a key that was counted.
type Signer struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Development bool   `json:"development,omitempty"`
}

// PartSummary is a part of the release.
type PartSummary struct {
	Part      string        `json:"part"`
	Component string        `json:"component,omitempty"`
	Name      string        `json:"name,omitempty"`
	Manifest  store.Content `json:"manifest"`
	Size      int64         `json:"size"` // bytes of the manifest and all it refers to
	Files     []File        `json:"files,omitempty"`
}

// Inspect summarizes a release.
func Inspect(v *Verified) (Summary, error) {
	s := Summary{Facts: v.Facts(), Index: v.Index()}
	if since, ok := v.Since(); ok {
		s.Since = &since
	}
	for _, k := range v.accepted.Keys {
		s.SignedBy = append(s.SignedBy, Signer{k.ID, k.Name, k.Development})
		s.Development = s.Development || k.Development
	}
	blobs, err := v.Blobs()
	if err != nil {
		return Summary{}, fmt.Errorf("cannot inspect release: %w", err)
	}
	s.Blobs = len(blobs)
	for _, b := range blobs {
		s.Size += b.Size
	}
	for _, p := range v.contents.parts {
		ps := PartSummary{p.kind, p.component, p.name, p.manifest, p.manifest.Size, v.contents.files[p.manifest.Digest]}
		children, err := v.children(p)
		if err != nil {
			return Summary{}, fmt.Errorf("cannot inspect release: %w", err)
		}
		for _, c := range children {
			ps.Size += c.Size
		}
		if p.kind == PartImage {
			s.Images++
		}
		s.Parts = append(s.Parts, ps)
	}
	s.Packages = -1
	if v.source != nil {
		if s.Packages, err = v.countPackages(); err != nil {
			return Summary{}, fmt.Errorf("cannot inspect release: %w", err)
		}
	}
	return s, nil
}

func (v *Verified) children(p part) ([]store.Content, error) {
	if c, ok := v.contents.blobs[p.manifest.Digest]; ok {
		return c, nil
	}
	b, err := v.small(p.manifest)
	if err != nil {
		return nil, err
	}
	c, _, err := parseManifest(p, b)
	return c, refuse(err)
}

// countPackages counts the SBOM's packages one by one: it can be large.
func (v *Verified) countPackages() (int, error) {
	f, ok := v.File(PartSBOM, SBOMJSON)
	if !ok {
		return 0, errors.New("the release has no SBOM")
	}
	r, err := v.OpenBlob(f.Content)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := countArray(json.NewDecoder(r), "packages")
	if err != nil {
		return 0, fmt.Errorf("%s: %w", SBOMJSON, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // to where it is checked
		return 0, err
	}
	return n, nil
}

// countArray counts the elements of the array of that name in a JSON object.
func countArray(d *json.Decoder, name string) (int, error) {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return 0, errors.Join(errors.New("not a JSON object"), err)
	}
	var n int
	var skip json.RawMessage
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return 0, err
		}
		if k != name {
			if err := d.Decode(&skip); err != nil {
				return 0, err
			}
			continue
		}
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			return 0, errors.Join(fmt.Errorf("%s is not an array", name), err)
		}
		for d.More() {
			if err := d.Decode(&skip); err != nil {
				return 0, err
			}
			n++
		}
		if _, err := d.Token(); err != nil {
			return 0, err
		}
	}
	_, err := d.Token()
	return n, err
}
