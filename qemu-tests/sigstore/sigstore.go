// Package sigstore is a Sigstore for tests: an authority that certifies
// identities for ten minutes, a log of its certificates and one of signatures.
// It writes what cosign leaves beside an image; its forms are Fulcio's, RFC
// 6962's and Rekor's, and cosign itself verifies them in a test.
package sigstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// Sigstore is one instance.
type Sigstore struct {
	CA           *x509.Certificate
	caKey        *ecdsa.PrivateKey
	certificates log
	signatures   log
}

// log is a key that signs what it saw.
type log struct {
	key *ecdsa.PrivateKey
	pub []byte // PKIX, DER
}

func newLog() (log, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return log{}, err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	return log{key, pub}, err
}

func (l log) id() []byte { return sum(l.pub) }

func (l log) sign(b []byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, l.key, sum(b)) }

func (l log) pem() []byte { return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: l.pub}) }

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// New makes one with keys of its own.
func New() (*Sigstore, error) {
	s := &Sigstore{}
	var err error
	if s.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"sigstore.example"}, CommonName: "sigstore"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, s.caKey.Public(), s.caKey)
	if err != nil {
		return nil, err
	}
	if s.CA, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if s.certificates, err = newLog(); err != nil {
		return nil, err
	}
	s.signatures, err = newLog()
	return s, err
}

// TrustedRoot is whose word counts, as JSON.
func (s *Sigstore) TrustedRoot() []byte {
	start := map[string]any{"start": s.CA.NotBefore.UTC().Format(time.RFC3339)}
	instance := func(name string, l log) []any {
		return []any{map[string]any{
			"baseUrl": "https://" + name + ".sigstore.example", "hashAlgorithm": "SHA2_256", "logId": map[string]any{"keyId": l.id()},
			"publicKey": map[string]any{"rawBytes": l.pub, "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": start},
		}}
	}
	b, err := json.MarshalIndent(map[string]any{
		"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"tlogs":     instance("rekor", s.signatures),
		"ctlogs":    instance("ctfe", s.certificates),
		"certificateAuthorities": []any{map[string]any{
			"subject":   map[string]any{"organization": "sigstore.example", "commonName": "sigstore"},
			"uri":       "https://fulcio.sigstore.example",
			"certChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": s.CA.Raw}}},
			"validFor":  start,
		}},
	}, "", "  ")
	if err != nil {
		panic(err) // maps of texts and bytes
	}
	return append(b, '\n')
}

// Keys are the same as PEM, for programs that take them one by one: the
// authority, the log of certificates, that of signatures.
func (s *Sigstore) Keys() (ca, certificates, signatures []byte) {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.CA.Raw}), s.certificates.pem(), s.signatures.pem()
}

// Signing is one act of signing.
type Signing struct {
	Identity, Issuer string
	Late             time.Duration // that the log saw it after the certificate was given
	Hidden           bool          // the certificate was shown to no log
}

// Attach signs what names an image ("simple signing"), and returns the
// annotations of the layer that has it: cosign's form up to version 2.
func (s *Sigstore) Attach(by Signing, payload []byte) (map[string]string, error) {
	key, cert, err := s.certify(by)
	if err != nil {
		return nil, err
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum(payload))
	if err != nil {
		return nil, err
	}
	e, err := s.enter(by, map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord",
		"spec": map[string]any{
			"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum(payload))}},
			"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": asPEM(cert)}},
		},
	})
	if err != nil {
		return nil, err
	}
	bundle, err := json.Marshal(map[string]any{"SignedEntryTimestamp": e.promise,
		"Payload": map[string]any{"body": e.body, "integratedTime": e.time, "logIndex": globalIndex, "logID": hex.EncodeToString(s.signatures.id())}})
	ca, _, _ := s.Keys()
	return map[string]string{
		"dev.cosignproject.cosign/signature":  base64.StdEncoding.EncodeToString(sig),
		"dev.sigstore.cosign/certificate":     string(asPEM(cert)),
		"dev.sigstore.cosign/chain":           string(ca),
		"dev.sigstore.cosign/bundle":          string(bundle),
		"dev.sigstore.cosign/signedByTheTest": "true", // other tools add such
	}, err
}

// Bundle signs an in-toto statement: cosign's form from version 3 on.
func (s *Sigstore) Bundle(by Signing, statement []byte) ([]byte, error) {
	const payloadType = "application/vnd.in-toto+json"
	key, cert, err := s.certify(by)
	if err != nil {
		return nil, err
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(statement), statement)))
	if err != nil {
		return nil, err
	}
	envelope := map[string]any{"payload": statement, "payloadType": payloadType, "signatures": []any{map[string]any{"sig": sig}}}
	whole, err := json.Marshal(envelope)
	if err != nil {
		return nil, err
	}
	e, err := s.enter(by, map[string]any{
		"apiVersion": "0.0.1", "kind": "dsse",
		"spec": map[string]any{
			"envelopeHash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum(whole))},
			"payloadHash":  map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum(statement))},
			"signatures":   []any{map[string]any{"signature": base64.StdEncoding.EncodeToString(sig), "verifier": asPEM(cert)}},
		},
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"mediaType":    "application/vnd.dev.sigstore.bundle.v0.3+json",
		"dsseEnvelope": envelope,
		"verificationMaterial": map[string]any{
			"certificate": map[string]any{"rawBytes": cert},
			"tlogEntries": []any{map[string]any{
				"logIndex": fmt.Sprint(globalIndex), "logId": map[string]any{"keyId": s.signatures.id()}, "kindVersion": map[string]any{"kind": "dsse", "version": "0.0.1"},
				"integratedTime": fmt.Sprint(e.time), "inclusionPromise": map[string]any{"signedEntryTimestamp": e.promise},
				"inclusionProof":    map[string]any{"logIndex": "0", "treeSize": "1", "rootHash": e.root, "hashes": []any{}, "checkpoint": map[string]any{"envelope": e.checkpoint}},
				"canonicalizedBody": e.body,
			}},
		},
	})
}

func asPEM(cert []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
}

// entry is what the log of signatures says of one.
type entry struct {
	body       []byte // as it hashes it
	time       int64
	promise    []byte
	root       []byte // of a tree that holds nothing else
	checkpoint string
}

// globalIndex is that of each entry among all logs of the instance; in its own,
// it is the first.
const globalIndex = 7

// enter logs content. encoding/json sorts keys, as the canonical form does
// (RFC 8785), and nothing in it takes escapes.
func (s *Sigstore) enter(by Signing, content map[string]any) (entry, error) {
	body, err := json.Marshal(content)
	if err != nil {
		return entry{}, err
	}
	e := entry{body: body, time: time.Now().Add(by.Late).Unix(), root: sum(append([]byte{0}, body...))}
	promised, err := json.Marshal(map[string]any{"body": body, "integratedTime": e.time, "logIndex": globalIndex, "logID": hex.EncodeToString(s.signatures.id())})
	if err != nil {
		return entry{}, err
	}
	if e.promise, err = s.signatures.sign(promised); err != nil {
		return entry{}, err
	}
	head := fmt.Sprintf("rekor.sigstore.example - 1\n1\n%s\n", base64.StdEncoding.EncodeToString(e.root))
	sig, err := s.signatures.sign([]byte(head))
	e.checkpoint = fmt.Sprintf("%s\n— rekor.sigstore.example %s\n", head, base64.StdEncoding.EncodeToString(append(s.signatures.id()[:4], sig...)))
	return e, err
}

var (
	issuerOld = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	issuerNew = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	seenBy    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2} // RFC 6962, 3.3
)

// certify gives a new key a certificate.
func (s *Sigstore) certify(by Signing) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	issuer, err := asn1.MarshalWithParams(by.Issuer, "utf8")
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now().Truncate(time.Second)
	leaf := &x509.Certificate{SerialNumber: serial, NotBefore: now, NotAfter: now.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: issuerOld, Value: []byte(by.Issuer)}, {Id: issuerNew, Value: issuer}}}
	if strings.Contains(by.Identity, "://") {
		u, err := url.Parse(by.Identity)
		if err != nil {
			return nil, nil, err
		}
		leaf.URIs = []*url.URL{u}
	} else {
		leaf.EmailAddresses = []string{by.Identity}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, s.CA, key.Public(), s.caKey)
	if err != nil || by.Hidden {
		return key, der, err
	}
	shown, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	list, err := s.show(shown.RawTBSCertificate, now)
	if err != nil {
		return nil, nil, err
	}
	leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: seenBy, Value: list})
	der, err = x509.CreateCertificate(rand.Reader, leaf, s.CA, key.Public(), s.caKey)
	return key, der, err
}

// show has the log of certificates sign that it saw one, and returns the
// extension that says so (RFC 6962, 3.2 and 3.3).
func (s *Sigstore) show(tbs []byte, now time.Time) ([]byte, error) {
	const ecdsaSHA256 = 0x0403
	var signed bytes.Buffer
	put := func(b *bytes.Buffer, vs ...any) {
		for _, v := range vs {
			_ = binary.Write(b, binary.BigEndian, v) // into memory, of a fixed size
		}
	}
	millis := uint64(now.UnixMilli())
	put(&signed, uint8(0), uint8(0), millis, uint16(1), sum(s.CA.RawSubjectPublicKeyInfo), uint8(len(tbs)>>16), uint16(len(tbs)), tbs, uint16(0))
	sig, err := s.certificates.sign(signed.Bytes())
	if err != nil {
		return nil, err
	}
	var sct, list bytes.Buffer
	put(&sct, uint8(0), s.certificates.id(), millis, uint16(0), uint16(ecdsaSHA256), uint16(len(sig)), sig)
	put(&list, uint16(sct.Len()+2), uint16(sct.Len()), sct.Bytes())
	return asn1.Marshal(list.Bytes())
}
