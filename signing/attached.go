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
	Keyless
}

// Keyless is what a signature brings where nobody knows its key: a certificate
// of a moment, and who saw it then. All of it may be anybody's.
type Keyless struct {
	Certificate []byte // PEM
	Log         []byte // JSON: an entry of a transparency log, and its promise
	Timestamp   []byte // JSON: of an authority for time; mostly none
}

const (
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	logAnnotation         = "dev.sigstore.cosign/bundle"
	timestampAnnotation   = "dev.sigstore.cosign/rfc3161timestamp"
)

// ParseAttached reads the manifest in which cosign keeps the signatures of an
// image (its tag is made from the image's digest). Other tools add to this
// form, so unlike ParseManifest it passes over what it does not know. Nothing
// in it counts before VerifyKey, or keyless.Verifier.
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
		out = append(out, Attached{l.Digest, sig, Keyless{
			Certificate: []byte(l.Annotations[certificateAnnotation]),
			Log:         []byte(l.Annotations[logAnnotation]),
			Timestamp:   []byte(l.Annotations[timestampAnnotation]),
		}})
	}
	return out, nil
}

// Claims are the signatures that were found for an image, in either form. They
// are anybody's until VerifyKey, or keyless.Verifier.
type Claims struct {
	Signatures []Claim
	Bundles    []Bundle
}

// Claim is a signature that may be by a key that nobody knows.
type Claim struct {
	Signature
	Keyless
}

// VerifyKey makes sure that key signed the image with that digest; if not, the
// error wraps ErrUntrusted.
func VerifyKey(key *ecdsa.PublicKey, digest string, c Claims) error {
	for _, s := range c.Signatures {
		if signedBy(key, digest, []Signature{s.Signature}) {
			return nil
		}
	}
	for _, b := range c.Bundles {
		if b.signs(key, digest) {
			return nil
		}
	}
	return fmt.Errorf("%w: none of the %d signatures of %s is by the key %s", ErrUntrusted, len(c.Signatures)+len(c.Bundles), digest, KeyID(key))
}
