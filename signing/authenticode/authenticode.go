// Package authenticode signs programs for UEFI Secure Boot and checks such
// signatures: PKCS #7 over the SHA-256 digest of a 64-bit PE program, with an
// RSA key of at least 2048 bits. Formats: Microsoft's "Windows Authenticode
// Portable Executable Signature Format" and RFC 2315.
//
// A signature has no signing time, so signing twice gives the same bytes.
package authenticode

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// ErrUntrusted is wrapped by the error of Verify about a program without a
// signature that counts; any other error means that it is not a program that
// can be signed.
var ErrUntrusted = errors.New("no trusted signature")

// ErrSigned is wrapped by the error about a program that is to be signed and is
// signed already.
var ErrSigned = errors.New("the program is signed already")

const minKeyBits = 2048

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImageData   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
)

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0"`
}

type signedData struct {
	Version      int
	Algorithms   []pkix.AlgorithmIdentifier `asn1:"set"`
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	CRLs         asn1.RawValue `asn1:"optional,tag:1"`
	Signers      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version            int
	Signer             issuerAndSerial
	DigestAlgorithm    pkix.AlgorithmIdentifier
	Attributes         asn1.RawValue `asn1:"optional,tag:0"`
	SignatureAlgorithm pkix.AlgorithmIdentifier
	Signature          []byte
	Unsigned           asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

// indirectData is what a signature is made of: the digest, and that it is one
// of a PE program.
type indirectData struct {
	Data struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue `asn1:"optional"`
	}
	Digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Sum       []byte
	}
}

// emptyImageData is a SpcPeImageData without flags and with an empty file name.
var emptyImageData = []byte{0x30, 0x09, 0x03, 0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00}

// Sign returns pe with a signature by cert's key.
func Sign(pe []byte, cert *x509.Certificate, key crypto.Signer) ([]byte, error) {
	sum, err := Digest(pe)
	if err != nil {
		return nil, err
	}
	sig, err := SignDigest(sum, cert, key)
	if err != nil {
		return nil, err
	}
	return Attach(pe, sig)
}

// SignDigest makes the signature of a program from its digest alone, where the
// key is and the program need not be.
func SignDigest(sum [32]byte, cert *x509.Certificate, key crypto.Signer) (pkcs7 []byte, err error) {
	if err := checkKey(cert, key); err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	pkcs7, err = signDigest(sum, cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return pkcs7, nil
}

func checkKey(cert *x509.Certificate, key crypto.Signer) error {
	pub, ok := key.Public().(*rsa.PublicKey)
	if !ok || pub.N.BitLen() < minKeyBits {
		return fmt.Errorf("firmware wants an RSA key of at least %d bits", minKeyBits)
	}
	if !pub.Equal(cert.PublicKey) {
		return fmt.Errorf("the key is not that of the certificate %q", cert.Subject)
	}
	return nil
}

func signDigest(sum [32]byte, cert *x509.Certificate, key crypto.Signer) ([]byte, error) {
	sha := pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	var data indirectData
	data.Data.Type = oidPEImageData
	data.Data.Value = asn1.RawValue{FullBytes: emptyImageData}
	data.Digest.Algorithm = sha
	data.Digest.Sum = sum[:]
	content, err := asn1.Marshal(data)
	if err != nil {
		return nil, err
	}
	var inner asn1.RawValue
	if _, err := asn1.Unmarshal(content, &inner); err != nil {
		return nil, err
	}
	contentSum := sha256.Sum256(inner.Bytes)
	attributes, err := marshalAttributes(contentSum)
	if err != nil {
		return nil, err
	}
	set, err := asSet(attributes)
	if err != nil {
		return nil, err
	}
	signed := sha256.Sum256(set)
	// PKCS #1 v1.5 takes no randomness.
	sig, err := key.Sign(nil, signed[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	sd, err := asn1.Marshal(signedData{
		Version:      1,
		Algorithms:   []pkix.AlgorithmIdentifier{sha},
		Content:      contentInfo{oidIndirectData, tagged(content)},
		Certificates: tagged(cert.Raw),
		Signers: []signerInfo{{
			Version:            1,
			Signer:             issuerAndSerial{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber},
			DigestAlgorithm:    sha,
			Attributes:         tagged(attributes),
			SignatureAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
			Signature:          sig,
		}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSignedData, tagged(sd)})
}

// marshalAttributes gives the signed attributes in the order of DER.
func marshalAttributes(contentSum [32]byte) ([]byte, error) {
	contentType, err := asn1.Marshal(oidIndirectData)
	if err != nil {
		return nil, err
	}
	digest, err := asn1.Marshal(contentSum[:])
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, a := range []attribute{
		{oidContentType, []asn1.RawValue{{FullBytes: contentType}}},
		{oidMessageDigest, []asn1.RawValue{{FullBytes: digest}}},
	} {
		b, err := asn1.Marshal(a)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	slices.SortFunc(all, bytes.Compare)
	return bytes.Join(all, nil), nil
}

// tagged puts b into the context's tag 0.
func tagged(b []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: b}
}

// asSet is the form in which attributes are signed.
func asSet(attributes []byte) ([]byte, error) {
	return asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: attributes})
}
