package overlays

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
)

func authority(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestAuthority: what the file of the authority must hold is known when the
// site is read, and stands at the field's line.
func TestAuthority(t *testing.T) {
	yaml, err := os.ReadFile("testdata/good-bucket.yaml")
	if err != nil {
		t.Fatal(err)
	}
	one, two := authority(t, "one"), authority(t, "two")
	for _, c := range []struct{ name, file, want, fault string }{
		{"one", one, one, ""},
		{"two, with text", "Subject: one\n" + one + "and\n" + two, one + two, ""},
		{"none", "nothing\n", "", "has no certificate (PEM) in it"},
		{"damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", "cannot read a certificate"},
		{"another thing", one + "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "", `it has a "PUBLIC KEY"`},
		{"large", one + strings.Repeat("x", maxAuthority), "", "more than the 65536 bytes allowed"},
		{"no file", "", "", "no such file"},
	} {
		files := map[string]string{"site.yaml": string(yaml), "trust/backup-ca.pem": c.file}
		if c.file == "" {
			delete(files, "trust/backup-ca.pem")
		}
		dir := site(t, files)
		s, err := Load(dir)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) || !strings.Contains(err.Error(), "site.yaml:13:14: backups.authority: ") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got, err := s.BackupAuthority(dir); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}
