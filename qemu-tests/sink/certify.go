package sink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"
)

// certifier makes certificates for any name. Nobody should trust them.
type certifier struct{ key *ecdsa.PrivateKey }

func newCertifier() (*certifier, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &certifier{key}, err
}

func (c *certifier) config(name string) (*tls.Config, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "outside of the site"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(50, 0, 0),
	}
	if name != "" {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, c.key.Public(), c.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: c.key}}}, nil
}
