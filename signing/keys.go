package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

const maxKeyFile = 64 << 10

// GenerateRelease makes a key that signs releases: ECDSA on P-256.
// Since Go 1.26 crypto/ecdsa takes the system's randomness whatever rand is.
func GenerateRelease(rand io.Reader) (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("cannot make release key: %w", err)
	}
	return k, nil
}

// NewKey describes pub for a trust policy.
func NewKey(name string, pub *ecdsa.PublicKey, development bool) (Key, error) {
	p, err := PublicPEM(pub)
	if err != nil {
		return Key{}, err
	}
	return Key{ID: KeyID(pub), Name: name, PublicKey: string(p), Development: development, public: pub}, nil
}

// KeyID is sha256: and the hash of the key's PKIX DER; empty for a key that
// has no such form.
func KeyID(pub crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	s := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(s[:])
}

// PublicPEM writes a public key as PEM.
func PublicPEM(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("cannot write public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// PrivatePEM writes a private key as PKCS#8 PEM.
func PrivatePEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot write private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePublicKey reads a PEM public key, which must be ECDSA on P-256.
func ParsePublicKey(b []byte) (*ecdsa.PublicKey, error) {
	block, err := onePEM(b, "PUBLIC KEY")
	if err != nil {
		return nil, fmt.Errorf("cannot read public key: %w", err)
	}
	pub, err := x509.ParsePKIXPublicKey(block)
	if err != nil {
		return nil, fmt.Errorf("cannot read public key: %w", err)
	}
	return p256(pub)
}

// ParsePrivateKey reads a PKCS#8 PEM private key.
func ParsePrivateKey(b []byte) (crypto.Signer, error) {
	block, err := onePEM(b, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("cannot read private key: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(block)
	if err != nil {
		return nil, fmt.Errorf("cannot read private key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot read private key: a %T does not sign", k)
	}
	return s, nil
}

// LoadPrivateKey reads the private key in a file.
func LoadPrivateKey(name string) (crypto.Signer, error) {
	b, err := readKeyFile(name)
	if err != nil {
		return nil, err
	}
	k, err := ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// LoadCertificate reads the one PEM certificate in a file.
func LoadCertificate(name string) (*x509.Certificate, error) {
	b, err := readKeyFile(name)
	if err != nil {
		return nil, err
	}
	der, err := onePEM(b, "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate %s: %w", name, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate %s: %w", name, err)
	}
	return c, nil
}

func readKeyFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("cannot read key: %s is more than %d bytes", name, maxKeyFile)
	}
	return b, nil
}

func onePEM(b []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if block.Type != kind {
		return nil, fmt.Errorf("a PEM block %q, want %q", block.Type, kind)
	}
	if len(rest) != 0 {
		return nil, errors.New("something follows the PEM block")
	}
	return block.Bytes, nil
}

func p256(pub crypto.PublicKey) (*ecdsa.PublicKey, error) {
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("cannot use public key: want ECDSA on P-256")
	}
	return k, nil
}
