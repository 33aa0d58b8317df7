package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxPayload and MaxSignatures bound what Verify and ParseManifest look at.
const (
	MaxPayload    = 64 << 10
	MaxSignatures = 64
	maxSig        = 256
)

const payloadType = "cosign container image signature"

// Signature is a signature over the payload that names what is signed.
type Signature struct {
	Payload []byte // simple signing, JSON
	Sig     []byte // ECDSA over the payload's SHA-256, ASN.1 DER
}

// payload is the "simple signing" form that cosign signs.
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// Payload is what Sign signs: for a signer elsewhere.
func Payload(digest, ref string, annotations map[string]string) ([]byte, error) {
	if !isDigest(digest) {
		return nil, fmt.Errorf("cannot sign %q: want sha256: and 64 hexadecimal digits", digest)
	}
	var p payload
	p.Critical.Identity.Reference = ref
	p.Critical.Image.Digest = digest
	p.Critical.Type = payloadType
	for k, v := range annotations {
		if p.Optional == nil {
			p.Optional = map[string]any{}
		}
		p.Optional[k] = v
	}
	return json.Marshal(p)
}

// Sign signs the manifest or index with that digest under the name ref. With a
// key from a file the signature is deterministic (RFC 6979).
func Sign(digest, ref string, key crypto.Signer, annotations map[string]string) (Signature, error) {
	p, err := Payload(digest, ref, annotations)
	if err != nil {
		return Signature{}, err
	}
	sig, err := signBytes(key, p)
	if err != nil {
		return Signature{}, fmt.Errorf("cannot sign %s: %w", digest, err)
	}
	return Signature{p, sig}, nil
}

// Digest is the digest that the payload names. The payload may be anybody's.
func (s Signature) Digest() (string, error) {
	p, err := parsePayload(s.Payload)
	return p.Critical.Image.Digest, err
}

// Verify reports which keys of the policy's rule for zone signed digest. Too
// few of them, or no rule, is an error wrapping ErrUntrusted. Signatures by
// keys that the rule does not name, or over other digests, count for nothing.
func Verify(policy Policy, zone, digest string, sigs []Signature) (Accepted, error) {
	if len(sigs) > MaxSignatures {
		return Accepted{}, fmt.Errorf("cannot verify %s: %w: %d signatures, more than the %d allowed", digest, ErrUntrusted, len(sigs), MaxSignatures)
	}
	a, err := policy.count(zone, func(pub *ecdsa.PublicKey) bool { return signedBy(pub, digest, sigs) })
	if err != nil {
		return Accepted{}, fmt.Errorf("cannot verify %s: %w", digest, err)
	}
	return a, nil
}

// signedBy reports whether one of sigs is pub's over digest.
func signedBy(pub *ecdsa.PublicKey, digest string, sigs []Signature) bool {
	for _, s := range sigs {
		if !verifyBytes(pub, s.Payload, s.Sig) {
			continue
		}
		p, err := parsePayload(s.Payload)
		if err == nil && isDigest(digest) && p.Critical.Image.Digest == digest {
			return true
		}
	}
	return false
}

func parsePayload(b []byte) (payload, error) {
	var p payload
	if err := decodeStrict(b, MaxPayload, &p); err != nil {
		return payload{}, fmt.Errorf("cannot read signature payload: %w", err)
	}
	if p.Critical.Type != payloadType {
		return payload{}, fmt.Errorf("cannot read signature payload: type %q", p.Critical.Type)
	}
	return p, nil
}

func signBytes(key crypto.Signer, b []byte) ([]byte, error) {
	pub, err := p256(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	var sig []byte
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		// No randomness makes it deterministic; a token may insist on some.
		sig, err = k.Sign(nil, sum[:], crypto.SHA256)
	} else {
		sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(pub, sum[:], sig) {
		return nil, errors.New("the signer made a signature that does not verify")
	}
	return sig, nil
}

func verifyBytes(pub *ecdsa.PublicKey, b, sig []byte) bool {
	if len(b) > MaxPayload || len(sig) > maxSig {
		return false
	}
	sum := sha256.Sum256(b)
	return ecdsa.VerifyASN1(pub, sum[:], sig)
}

func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(h) == 64 && strings.Trim(h, "0123456789abcdef") == ""
}

func compareSignatures(a, b Signature) int {
	if c := bytes.Compare(a.Payload, b.Payload); c != 0 {
		return c
	}
	return bytes.Compare(a.Sig, b.Sig)
}
