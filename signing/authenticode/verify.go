package authenticode

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// Verify returns nil when pe has a signature by one of roots, or by a
// certificate that one of them issued. Like firmware, it takes no notice of
// the time, nor of what a certificate says it may be used for.
func Verify(pe []byte, roots []*x509.Certificate) error {
	l, err := parse(pe)
	if err != nil {
		return fmt.Errorf("cannot verify program: %w", err)
	}
	sigs, err := signatures(pe[l.end:])
	if err != nil {
		return fmt.Errorf("cannot verify program: %w: %w", ErrUntrusted, err)
	}
	if len(sigs) == 0 {
		return fmt.Errorf("cannot verify program: %w: it is not signed", ErrUntrusted)
	}
	sum := digest(pe, l)
	var errs []error
	for _, sig := range sigs {
		err := verifySignature(sig, sum, roots)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("cannot verify program: %w: %w", ErrUntrusted, errors.Join(errs...))
}

func verifySignature(sig []byte, sum [32]byte, roots []*x509.Certificate) error {
	var outer contentInfo
	// Padding may follow; it is bounded by the size of the table.
	if _, err := asn1.Unmarshal(sig, &outer); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	var sd signedData
	if !outer.Type.Equal(oidSignedData) {
		return fmt.Errorf("signature of type %s", outer.Type)
	}
	if err := unmarshal(outer.Content.Bytes, &sd); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	contentSum, err := checkContent(sd.Content, sum)
	if err != nil {
		return err
	}
	certs, err := x509.ParseCertificates(sd.Certificates.Bytes)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if len(sd.Signers) != 1 {
		return fmt.Errorf("%d signers in one signature", len(sd.Signers))
	}
	cert, err := checkSigner(sd.Signers[0], contentSum, append(certs, roots...))
	if err != nil {
		return err
	}
	return checkChain(cert, certs, roots)
}

// checkContent sees to it that the content is about sum, and returns the
// digest of the content.
func checkContent(c contentInfo, sum [32]byte) ([32]byte, error) {
	var none [32]byte
	if !c.Type.Equal(oidIndirectData) {
		return none, fmt.Errorf("signature over content of type %s", c.Type)
	}
	var data indirectData
	if err := unmarshal(c.Content.Bytes, &data); err != nil {
		return none, fmt.Errorf("signed content: %w", err)
	}
	if !data.Data.Type.Equal(oidPEImageData) || !data.Digest.Algorithm.Algorithm.Equal(oidSHA256) {
		return none, errors.New("signed content is not a SHA-256 digest of a PE program")
	}
	if subtle.ConstantTimeCompare(data.Digest.Sum, sum[:]) != 1 {
		return none, fmt.Errorf("signed digest is %x, the program's %x", data.Digest.Sum, sum)
	}
	var inner asn1.RawValue
	if err := unmarshal(c.Content.Bytes, &inner); err != nil {
		return none, fmt.Errorf("signed content: %w", err)
	}
	return sha256.Sum256(inner.Bytes), nil
}

// checkSigner returns the certificate whose key made the signature.
func checkSigner(s signerInfo, contentSum [32]byte, certs []*x509.Certificate) (*x509.Certificate, error) {
	if !s.DigestAlgorithm.Algorithm.Equal(oidSHA256) {
		return nil, fmt.Errorf("digest algorithm %s", s.DigestAlgorithm.Algorithm)
	}
	if a := s.SignatureAlgorithm.Algorithm; !a.Equal(oidRSA) && !a.Equal(oidSHA256WithRSA) {
		return nil, fmt.Errorf("signature algorithm %s", a)
	}
	if err := checkAttributes(s.Attributes.Bytes, contentSum); err != nil {
		return nil, err
	}
	if s.Signer.Serial == nil {
		return nil, errors.New("signer without a serial number")
	}
	set, err := asSet(s.Attributes.Bytes)
	if err != nil {
		return nil, err
	}
	signed := sha256.Sum256(set)
	for _, c := range certs {
		if c.SerialNumber.Cmp(s.Signer.Serial) != 0 || !bytes.Equal(c.RawIssuer, s.Signer.Issuer.FullBytes) {
			continue
		}
		pub, ok := c.PublicKey.(*rsa.PublicKey)
		if !ok || pub.N.BitLen() < minKeyBits {
			return nil, fmt.Errorf("certificate %q has no RSA key of at least %d bits", c.Subject, minKeyBits)
		}
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, signed[:], s.Signature); err != nil {
			return nil, fmt.Errorf("signature by %q: %w", c.Subject, err)
		}
		return c, nil
	}
	return nil, errors.New("the signer's certificate is not there")
}

// checkAttributes wants exactly one content type and one digest, the right ones.
func checkAttributes(b []byte, contentSum [32]byte) error {
	seen := map[string]bool{}
	for len(b) > 0 {
		var a attribute
		rest, err := asn1.Unmarshal(b, &a)
		if err != nil {
			return fmt.Errorf("signed attributes: %w", err)
		}
		b = rest
		id := a.Type.String()
		if seen[id] || len(a.Values) == 0 {
			return fmt.Errorf("signed attribute %s twice or empty", id)
		}
		seen[id] = true
		switch {
		case a.Type.Equal(oidContentType):
			var oid asn1.ObjectIdentifier
			if err := unmarshal(a.Values[0].FullBytes, &oid); err != nil || !oid.Equal(oidIndirectData) || len(a.Values) != 1 {
				return errors.New("signed attributes name another type of content")
			}
		case a.Type.Equal(oidMessageDigest):
			var sum []byte
			if err := unmarshal(a.Values[0].FullBytes, &sum); err != nil || !bytes.Equal(sum, contentSum[:]) || len(a.Values) != 1 {
				return errors.New("signed attributes are those of other content")
			}
		}
	}
	if !seen[oidContentType.String()] || !seen[oidMessageDigest.String()] {
		return errors.New("signed attributes lack the type or the digest of the content")
	}
	return nil
}

// checkChain wants a root that is cert, or that issued it, at first or second
// hand.
func checkChain(cert *x509.Certificate, certs, roots []*x509.Certificate) error {
	o := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   cert.NotBefore,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, r := range roots {
		if r.Equal(cert) {
			return nil
		}
		o.Roots.AddCert(r)
	}
	for _, c := range certs {
		o.Intermediates.AddCert(c)
	}
	if _, err := cert.Verify(o); err != nil {
		return fmt.Errorf("certificate %q: %w", cert.Subject, err)
	}
	return nil
}

// unmarshal is asn1.Unmarshal of all of b.
func unmarshal(b []byte, v any) error {
	rest, err := asn1.Unmarshal(b, v)
	if err == nil && len(rest) != 0 {
		err = fmt.Errorf("%d bytes behind it", len(rest))
	}
	return err
}
