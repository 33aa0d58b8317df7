// Package keyless verifies signatures that cosign makes without a key that others
// know: by a certificate of ten minutes, which Sigstore's authority gave to
// somebody whom an OpenID provider vouched for, and which a public log saw. It
// asks nobody: what proves all that lies beside the signature, and whose word
// counts stands in a trusted root
// (https://github.com/sigstore/protobuf-specs, trustroot/v1).
//
// It is apart from package signing so that what runs on a node does not link the
// library that it takes.
package keyless

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"holdfast.dev/holdfast/signing"
)

// PublicRoot is the trusted root of the public Sigstore, as its maintainers
// distribute it with their clients; docs/dependencies.md says from where.
//
//go:embed trusted_root.json
var PublicRoot []byte

// MaxRoot bounds a trusted root, in bytes.
const MaxRoot = 1 << 20

// bundle01 is what a signature of cosign up to version 2 is as a bundle.
const bundle01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"

// Verifier knows who must have signed, and whose word counts.
type Verifier struct {
	verifier *verify.Verifier
	identity verify.CertificateIdentity
	said     string
}

// New takes the trusted root as JSON.
func New(id signing.Identity, trustedRoot []byte) (*Verifier, error) {
	if err := id.Check(); err != nil {
		return nil, err
	}
	if len(trustedRoot) > MaxRoot {
		return nil, fmt.Errorf("cannot read trusted root: %d bytes, more than the %d allowed", len(trustedRoot), MaxRoot)
	}
	material, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("cannot read trusted root: %w", err)
	}
	// Each certificate must have been shown to a log of certificates, each
	// signature to a log of signatures, and somebody must say when that was.
	v, err := verify.NewVerifier(material, verify.WithSignedCertificateTimestamps(1),
		verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	if err != nil {
		return nil, fmt.Errorf("cannot use trusted root: %w", err)
	}
	who, err := verify.NewShortCertificateIdentity(id.Issuer, "", id.Subject, id.Whole())
	if err != nil {
		return nil, err
	}
	return &Verifier{v, who, id.String()}, nil
}

// Verify makes sure that the identity signed the image with that digest; if not,
// the error wraps signing.ErrUntrusted.
func (v *Verifier) Verify(digest string, c signing.Claims) error {
	var errs []error
	for _, s := range c.Signatures {
		err := v.claim(digest, s)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	for _, b := range c.Bundles {
		err := v.bundle(digest, b)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	err := fmt.Errorf("%w: none of the %d signatures of %s is by %s", signing.ErrUntrusted, len(errs), digest, v.said)
	for _, e := range errs {
		err = fmt.Errorf("%w\n  %s", err, printable(e.Error()))
	}
	return err
}

// claim verifies a signature over a payload, in cosign's form up to version 2.
func (v *Verifier) claim(digest string, s signing.Claim) error {
	if got, err := s.Digest(); err != nil || got != digest {
		return errors.New("it is over something else")
	}
	pb, err := asBundle(s)
	if err != nil {
		return err
	}
	b, err := bundle.NewBundle(pb)
	if err != nil {
		return err
	}
	_, err = v.verifier.Verify(b, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(s.Payload)), verify.WithCertificateIdentity(v.identity)))
	return err
}

// bundle verifies a signature in the form of cosign 3.
func (v *Verifier) bundle(digest string, in signing.Bundle) error {
	hash, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:"))
	if err != nil {
		return err
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(in.Whole); err != nil {
		return err
	}
	result, err := v.verifier.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", hash), verify.WithCertificateIdentity(v.identity)))
	if err != nil {
		return err
	}
	statement, err := protojson.Marshal(result.Statement) // what was verified, not what another reader makes of the bytes
	if err == nil && !signing.SignsImage(statement, digest) {
		err = errors.New("it is a statement about the image, and no signature of it")
	}
	return err
}

// asBundle is s as Sigstore's bundle. Nothing of it is verified here.
func asBundle(s signing.Claim) (*protobundle.Bundle, error) {
	block, _ := pem.Decode(s.Certificate)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it has no certificate: it was made with a key")
	}
	entry, err := logEntry(s.Log)
	if err != nil {
		return nil, err
	}
	times, err := timestamps(s.Timestamp)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(s.Payload)
	return &protobundle.Bundle{
		MediaType: bundle01,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
				Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}}}},
			TlogEntries:               []*protorekor.TransparencyLogEntry{entry},
			TimestampVerificationData: times,
		},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     s.Sig,
		}},
	}, nil
}

// logEntry reads what Rekor, the log, promised to keep.
func logEntry(b []byte) (*protorekor.TransparencyLogEntry, error) {
	if len(b) == 0 {
		return nil, errors.New("it has no entry of a transparency log")
	}
	var l struct {
		Promise []byte `json:"SignedEntryTimestamp"`
		Payload struct {
			Body  []byte `json:"body"`
			Time  int64  `json:"integratedTime"`
			Index int64  `json:"logIndex"`
			Log   string `json:"logID"`
		}
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("cannot read its log entry: %w", err)
	}
	var kind struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	id, err := hex.DecodeString(l.Payload.Log)
	if err == nil {
		err = json.Unmarshal(l.Payload.Body, &kind)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read its log entry: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          l.Payload.Index,
		LogId:             &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.Version},
		IntegratedTime:    l.Payload.Time,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: l.Promise},
		CanonicalizedBody: l.Payload.Body,
	}, nil
}

func timestamps(b []byte) (*protobundle.TimestampVerificationData, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var t struct {
		Signed []byte `json:"SignedRFC3161Timestamp"`
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("cannot read its timestamp: %w", err)
	}
	return &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: t.Signed}}}, nil
}

// printable is s with what a terminal could take for orders escaped, and bounded:
// it may hold what a stranger's certificate says.
func printable(s string) string {
	const most = 600
	if len(s) > most {
		s = s[:most] + "…"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
