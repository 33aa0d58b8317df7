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

// certificate writes one that is good between the two.
func (k *machine) certificate(t *testing.T, name string, begin, end time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: end}
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
// that are over too, and those that are not good yet; authorities stay. The
// kubelet renews its own, unless it is not good any more, or yet.
func TestRenew(t *testing.T) {
	now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	years := func(y int) time.Time { return now.AddDate(y, 0, 0) }
	for _, c := range []struct {
		name                     string
		begin, end               time.Time
		kubeletBegin, kubeletEnd time.Time
		renews, kubelet          bool
	}{
		{"young", years(-1), years(4), years(-1), now.AddDate(0, 1, 0), false, false},
		{"in its last year", years(-4), now.AddDate(0, 11, 0), years(-1), years(1), true, false},
		{"over", years(-5), now.AddDate(0, 0, -1), years(-1), years(1), true, false},
		{"not good yet", years(2), years(7), years(2), years(3), true, true},
		{"off for long", years(-2), years(3), years(-2), years(-1), true, true},
	} {
		k := newMachine(t)
		k.Now = func() time.Time { return now }
		k.write(t, "var/lib/holdfast/kubeadm.done")
		k.write(t, "etc/kubernetes/kubelet.conf")
		k.certificate(t, "etc/kubernetes/pki/ca.crt", years(-9), now.AddDate(0, 1, 0))
		k.certificate(t, "etc/kubernetes/pki/etcd/ca.crt", years(-9), now.AddDate(0, 1, 0))
		k.certificate(t, "etc/kubernetes/pki/apiserver.crt", years(-1), years(4))
		k.certificate(t, "etc/kubernetes/pki/etcd/server.crt", c.begin, c.end)
		k.certificate(t, "var/lib/kubelet/pki/kubelet-client-current.pem", c.kubeletBegin, c.kubeletEnd)
		if err := k.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if at := slices.Index(k.ran, "certs renew all"); (at == 0) != c.renews || at > 0 {
			t.Errorf("%s: ran %q", c.name, k.ran)
		}
		if at := slices.Index(k.ran, "init phase kubeconfig"); (at == 1) != c.kubelet || at > 1 {
			t.Errorf("%s: ran %q", c.name, k.ran)
		}
		if _, err := os.Stat(filepath.Join(k.Root, "etc/kubernetes/kubelet.conf")); (err != nil) != c.kubelet {
			t.Errorf("%s: the kubelet's way to the API: %v", c.name, err)
		}
	}
}

// A start that was cut off between the two has left the kubelet without its way.
func TestRenewAgain(t *testing.T) {
	k := newMachine(t)
	k.write(t, "var/lib/holdfast/kubeadm.done")
	if err := k.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if slices.Index(k.ran, "init phase kubeconfig") != 0 {
		t.Errorf("ran %q", k.ran)
	}
}
