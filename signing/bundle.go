package signing

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// BundleType is the media type of the bundles in which cosign keeps
// signatures from its version 3 on.
const BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// MaxBundle bounds what ParseBundle reads.
const MaxBundle = 1 << 20

const (
	inTotoType      = "application/vnd.in-toto+json"
	inTotoStatement = "https://in-toto.io/Statement/v1"
	signPredicate   = "https://sigstore.dev/cosign/sign/v1"
)

// Bundle is signatures over a statement, in a DSSE envelope
// (https://github.com/secure-systems-lab/dsse).
type Bundle struct {
	Payload []byte // in-toto statement, JSON
	Sigs    [][]byte
	Whole   []byte // as it was read, with certificate and log entries if it has some
}

// ParseBundle reads a bundle of cosign 3. Nothing in it counts before
// VerifyKey, or keyless.Verifier.
func ParseBundle(b []byte) (Bundle, error) {
	if len(b) > MaxBundle {
		return Bundle{}, fmt.Errorf("cannot read signature bundle: %d bytes, more than the %d allowed", len(b), MaxBundle)
	}
	var f struct {
		Envelope struct {
			Payload     []byte `json:"payload"`
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return Bundle{}, fmt.Errorf("cannot read signature bundle: %w", err)
	}
	if t := f.Envelope.PayloadType; t != inTotoType {
		return Bundle{}, fmt.Errorf("cannot read signature bundle: it is over a %.80q", t)
	}
	if len(f.Envelope.Signatures) > MaxSignatures {
		return Bundle{}, errors.New("cannot read signature bundle: too many signatures")
	}
	out := Bundle{Payload: f.Envelope.Payload, Whole: b}
	for _, s := range f.Envelope.Signatures {
		out.Sigs = append(out.Sigs, s.Sig)
	}
	return out, nil
}

// signs reports whether b is pub's, and signs the image with that digest.
func (b Bundle) signs(pub *ecdsa.PublicKey, digest string) bool {
	if len(b.Payload) > MaxPayload {
		return false
	}
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(inTotoType), inTotoType, len(b.Payload), b.Payload)
	ok := false
	for _, s := range b.Sigs {
		ok = ok || verifyBytes(pub, signed, s)
	}
	if !ok {
		return false
	}
	return SignsImage(b.Payload, digest)
}

// SignsImage reports whether a statement that was verified is a signature of the
// image with that digest. Others about it, such as attestations, are none.
func SignsImage(statement []byte, digest string) bool {
	var st struct {
		Type    string `json:"_type"`
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
		Predicate string `json:"predicateType"`
	}
	if len(statement) > MaxPayload || json.Unmarshal(statement, &st) != nil || st.Type != inTotoStatement || st.Predicate != signPredicate || len(st.Subject) != 1 {
		return false
	}
	return isDigest(digest) && st.Subject[0].Digest["sha256"] == strings.TrimPrefix(digest, "sha256:")
}
