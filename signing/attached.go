package signing

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// Attached is a signature beside an image in a registry, before its payload
// is read.
type Attached struct {
	Payload string // digest of the payload's blob
	Sig     []byte
}

// ParseAttached reads the manifest in which cosign keeps the signatures of an
// image (its tag is made from the image's digest). Other tools add to this
// form, so unlike ParseManifest it passes over what it does not know. Nothing
// in it counts before VerifyKey.
func ParseAttached(b []byte) ([]Attached, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("cannot read signatures: %d bytes, more than the %d allowed", len(b), maxManifest)
	}
	var m struct {
		Layers []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("cannot read signatures: %w", err)
	}
	var out []Attached
	for _, l := range m.Layers {
		sig, err := base64.StdEncoding.DecodeString(l.Annotations[sigAnnotation])
		if l.MediaType != sigMediaType || err != nil || len(sig) == 0 || len(sig) > maxSig || !isDigest(l.Digest) || l.Size > MaxPayload {
			continue
		}
		if len(out) == MaxSignatures {
			return nil, fmt.Errorf("cannot read signatures: more than the %d allowed", MaxSignatures)
		}
		out = append(out, Attached{l.Digest, sig})
	}
	return out, nil
}

// Claims are the signatures that were found for an image, in either form. They
// are anybody's until VerifyKey.
type Claims struct {
	Signatures []Signature
	Bundles    []Bundle
}

// VerifyKey makes sure that key signed the image with that digest; if not, the
// error wraps ErrUntrusted.
func VerifyKey(key *ecdsa.PublicKey, digest string, c Claims) error {
	if signedBy(key, digest, c.Signatures) {
		return nil
	}
	for _, b := range c.Bundles {
		if b.signs(key, digest) {
			return nil
		}
	}
	return fmt.Errorf("%w: none of the %d signatures of %s is by the key %s", ErrUntrusted, len(c.Signatures)+len(c.Bundles), digest, KeyID(key))
}
