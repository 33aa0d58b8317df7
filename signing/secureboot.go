package signing

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"time"
)

// secureBootYears is long, because firmware ignores the dates and the machines
// outlive shorter ones.
const secureBootYears = 20

// BootKey is a private key with its self-signed certificate.
type BootKey struct {
	Key  *rsa.PrivateKey
	Cert *x509.Certificate
}

// CertPEM writes the certificate as PEM.
func (k BootKey) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Cert.Raw})
}

// SecureBoot is what UEFI Secure Boot wants: the platform key owns the
// machine, the key exchange key may change db, db signs what boots.
type SecureBoot struct {
	PK, KEK, DB BootKey
}

// GenerateSecureBoot makes RSA-2048 keys, the size every firmware accepts,
// with certificates for 20 years from now.
func GenerateSecureBoot(random io.Reader, now time.Time, name string) (SecureBoot, error) {
	var sb SecureBoot
	for _, k := range []struct {
		to   *BootKey
		role string
	}{{&sb.PK, "PK"}, {&sb.KEK, "KEK"}, {&sb.DB, "db"}} {
		made, err := bootKey(random, now, name+" "+k.role)
		if err != nil {
			return SecureBoot{}, fmt.Errorf("cannot make Secure Boot key %s: %w", k.role, err)
		}
		*k.to = made
	}
	return sb, nil
}

func bootKey(random io.Reader, now time.Time, cn string) (BootKey, error) {
	if random == nil {
		random = rand.Reader
	}
	key, err := rsa.GenerateKey(random, 2048)
	if err != nil {
		return BootKey{}, err
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(random, serial); err != nil {
		return BootKey{}, err
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and never short
	now = now.UTC().Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: cn},
		NotBefore:             now,
		NotAfter:              now.AddDate(secureBootYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(random, t, t, key.Public(), key)
	if err != nil {
		return BootKey{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return BootKey{}, err
	}
	return BootKey{key, cert}, nil
}
