package kubeadm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// certificate writes one that ends then.
func (k *machine) certificate(t *testing.T, name string, end time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	k.write(t, name)
	if err := os.WriteFile(filepath.Join(k.Root, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A boot makes the control plane's certificates anew in their last year, those
// that are over too; authorities stay.
func TestRenew(t *testing.T) {
	now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		leaf   time.Time
		renews bool
	}{
		{"young", now.AddDate(4, 0, 0), false},
		{"in its last year", now.AddDate(0, 11, 0), true},
		{"over", now.AddDate(0, 0, -1), true},
	} {
		k := newMachine(t)
		k.Now = func() time.Time { return now }
		k.write(t, "var/lib/holdfast/kubeadm.done")
		k.certificate(t, "etc/kubernetes/pki/ca.crt", now.AddDate(0, 1, 0))
		k.certificate(t, "etc/kubernetes/pki/etcd/ca.crt", now.AddDate(0, 1, 0))
		k.certificate(t, "etc/kubernetes/pki/apiserver.crt", now.AddDate(4, 0, 0))
		k.certificate(t, "etc/kubernetes/pki/etcd/server.crt", c.leaf)
		if err := k.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if at := slices.Index(k.ran, "certs renew all"); (at == 0) != c.renews || at > 0 {
			t.Errorf("%s: ran %q", c.name, k.ran)
		}
	}
}
