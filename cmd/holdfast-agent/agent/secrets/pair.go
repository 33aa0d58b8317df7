package secrets

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Pair makes a key and a certificate that it signed itself, in PEM: an RSA key
// that signs data, or an authority's on P-256. Who trusts it was given this very
// certificate: its dates say nothing, and are such that a node whose clock is
// wrong does not trip over them.
func Pair(p node.Pair) (key, certificate string, err error) {
	k, err := newKey(p.Authority)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", "", err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: p.CommonName},
		NotBefore: time.Unix(0, 0).UTC(), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if p.Authority {
		t.KeyUsage, t.IsCA = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true
		t.MaxPathLenZero = true // it signs services, not authorities
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), nil
}

func newKey(authority bool) (crypto.Signer, error) {
	if authority {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return rsa.GenerateKey(rand.Reader, 3072)
}
