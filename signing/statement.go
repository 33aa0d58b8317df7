package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	statementType = "application/vnd.holdfast.statement.v1+json"
	maxStatement  = 64 << 10
)

// Statement says what a file derived from a release is, such as the raw image
// NAME-RELEASE.raw; it lies beside the file as NAME-RELEASE.raw.sig.
type Statement struct {
	Name    string `json:"name"`
	Release uint64 `json:"release"`
	Zone    string `json:"zone"`
	File    string `json:"file"` // without its directory
	Digest  string `json:"digest"`
	Size    int64  `json:"size"`
	Index   string `json:"index"` // digest of the release index
	Pieces  Pieces `json:"pieces,omitzero"`
}

// Pieces is a second digest of the same file, by which it can be verified on
// several processors, and without reading its holes: SHA-256 over the SHA-256
// digests, 32 bytes each, of its pieces in order. Older statements have none.
type Pieces struct {
	Size   int64  `json:"size"` // of a piece in bytes; the last may be shorter
	Digest string `json:"digest"`
}

// envelope is a DSSE envelope (secure-systems-lab/dsse, v1.0). The signed
// bytes name the payload's type, so that a statement's signature can never
// pass for a release's.
type envelope struct {
	PayloadType string         `json:"payloadType"`
	Payload     string         `json:"payload"`
	Signatures  []envelopeSign `json:"signatures"`
}

type envelopeSign struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// SignStatement writes st with the signatures of all keys.
func SignStatement(st Statement, keys ...crypto.Signer) ([]byte, error) {
	if err := st.check(); err != nil {
		return nil, fmt.Errorf("cannot sign statement: %w", err)
	}
	body, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("cannot sign statement: %w", err)
	}
	return addSignatures(envelope{PayloadType: statementType, Payload: base64.StdEncoding.EncodeToString(body)}, keys)
}

// AddSignature returns the signed statement with one more signature: two
// people need not meet to sign.
func AddSignature(signed []byte, key crypto.Signer) ([]byte, error) {
	e, _, err := parseEnvelope(signed)
	if err != nil {
		return nil, err
	}
	return addSignatures(e, []crypto.Signer{key})
}

func addSignatures(e envelope, keys []crypto.Signer) ([]byte, error) {
	body, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("cannot sign statement: %w", err)
	}
	for _, k := range keys {
		id := KeyID(k.Public())
		sig, err := signBytes(k, preAuth(e.PayloadType, body))
		if err != nil {
			return nil, fmt.Errorf("cannot sign statement with %s: %w", id, err)
		}
		e.Signatures = slices.DeleteFunc(e.Signatures, func(s envelopeSign) bool { return s.KeyID == id })
		e.Signatures = append(e.Signatures, envelopeSign{id, base64.StdEncoding.EncodeToString(sig)})
	}
	if len(e.Signatures) == 0 {
		return nil, errors.New("cannot sign statement: no key")
	}
	slices.SortFunc(e.Signatures, func(a, b envelopeSign) int { return strings.Compare(a.KeyID, b.KeyID) })
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("cannot sign statement: %w", err)
	}
	return append(b, '\n'), nil
}

// VerifyStatement reads a signed statement and reports which keys of the
// policy signed it. A statement for another zone, or one with too few
// signatures, is an error wrapping ErrUntrusted. The caller compares the
// statement with the file.
func VerifyStatement(policy Policy, zone string, signed []byte) (Statement, Accepted, error) {
	e, body, err := parseEnvelope(signed)
	if err != nil {
		return Statement{}, Accepted{}, err
	}
	a, err := policy.count(zone, func(pub *ecdsa.PublicKey) bool {
		id := KeyID(pub)
		return slices.ContainsFunc(e.Signatures, func(s envelopeSign) bool {
			sig, err := canonicalBase64(s.Sig)
			return err == nil && s.KeyID == id && verifyBytes(pub, preAuth(e.PayloadType, body), sig)
		})
	})
	if err != nil {
		return Statement{}, Accepted{}, fmt.Errorf("cannot verify statement: %w", err)
	}
	var st Statement
	if err := decodeStrict(body, maxStatement, &st); err != nil {
		return Statement{}, Accepted{}, fmt.Errorf("cannot read statement: %w", err)
	}
	if err := st.check(); err != nil {
		return Statement{}, Accepted{}, fmt.Errorf("cannot read statement: %w", err)
	}
	if st.Zone != zone {
		return Statement{}, Accepted{}, fmt.Errorf("cannot verify statement: %w: it is for zone %s, not %s", ErrUntrusted, st.Zone, zone)
	}
	return st, a, nil
}

func (s Statement) check() error {
	var errs []error
	if s.Name == "" || s.Release == 0 || !slices.Contains(Zones(), s.Zone) {
		errs = append(errs, fmt.Errorf("name %q, release %d or zone %q is wrong", s.Name, s.Release, s.Zone))
	}
	if s.File == "" || strings.ContainsAny(s.File, "/\x00") || s.File == "." || s.File == ".." {
		errs = append(errs, fmt.Errorf("file name %q is wrong", s.File))
	}
	if !isDigest(s.Digest) || !isDigest(s.Index) || s.Size < 0 {
		errs = append(errs, fmt.Errorf("digest %q, index %q or size %d is wrong", s.Digest, s.Index, s.Size))
	}
	if p := s.Pieces; p != (Pieces{}) && (p.Size < 1 || !isDigest(p.Digest)) {
		errs = append(errs, fmt.Errorf("digest %q or size %d of the pieces is wrong", p.Digest, p.Size))
	}
	return errors.Join(errs...)
}

func parseEnvelope(b []byte) (e envelope, body []byte, err error) {
	fail := func(err error) (envelope, []byte, error) {
		return envelope{}, nil, fmt.Errorf("cannot read signed statement: %w", err)
	}
	if err := decodeStrict(b, maxStatement, &e); err != nil {
		return fail(err)
	}
	if e.PayloadType != statementType {
		return fail(fmt.Errorf("type %q, want %q", e.PayloadType, statementType))
	}
	if len(e.Signatures) > MaxSignatures {
		return fail(fmt.Errorf("%d signatures, more than the %d allowed", len(e.Signatures), MaxSignatures))
	}
	if body, err = canonicalBase64(e.Payload); err != nil {
		return fail(err)
	}
	// As with releases there is one way to write it, so that a changed byte
	// is noticed wherever it is.
	again, err := json.Marshal(e)
	if err != nil {
		return fail(err)
	}
	if !bytes.Equal(append(again, '\n'), b) {
		return fail(errors.New("not in the canonical form"))
	}
	return e, body, nil
}

// canonicalBase64 refuses the line breaks that encoding/base64 skips.
func canonicalBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && base64.StdEncoding.EncodeToString(b) != s {
		err = errors.New("base64 with line breaks")
	}
	return b, err
}

// preAuth is DSSE's pre-authentication encoding: what is signed.
func preAuth(kind string, body []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(body), body)
}
