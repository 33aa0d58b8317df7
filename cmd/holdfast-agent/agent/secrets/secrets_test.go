package secrets_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
)

func TestMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	first, err := secrets.Ensure(dir, node.Secret{Namespace: "db", Name: "admin", Generate: map[string]int{"password": 32}}, rand.Reader)
	if err != nil || !regexp.MustCompile(`^[A-Za-z0-9]{32}$`).MatchString(first["password"]) {
		t.Fatalf("%v, %v", first, err)
	}
	second, err := secrets.Ensure(dir, node.Secret{Namespace: "db", Name: "admin", Generate: map[string]int{"password": 64, "salt": 8}}, rand.Reader)
	if err != nil || second["password"] != first["password"] || len(second["salt"]) != 8 {
		t.Errorf("then %v, %v", second, err)
	}
	third, err := secrets.Ensure(dir, node.Secret{Namespace: "db", Name: "admin", Generate: nil}, nil)
	if err != nil || !maps.Equal(second, third) {
		t.Errorf("read back %v, %v", third, err)
	}
	file := filepath.Join(dir, "db_admin.json")
	fi, err := os.Stat(file)
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Ensure(dir, node.Secret{Namespace: "db", Name: "admin", Generate: map[string]int{"password": 32}}, rand.Reader); err == nil {
		t.Error("a damaged secret was replaced")
	}
}

func TestPairAndItsShare(t *testing.T) {
	dir := t.TempDir()
	s := node.Secret{Namespace: "id", Name: "tokens", Pairs: []node.Pair{{Key: "key", Certificate: "certificate", CommonName: "tokens"}}}
	made, err := secrets.Ensure(dir, s, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair([]byte(made["certificate"]), []byte(made["key"])); err != nil {
		t.Error(err)
	}
	again, err := secrets.Ensure(dir, s, rand.Reader)
	if err != nil || !maps.Equal(made, again) {
		t.Errorf("another pair was made: %v", err)
	}
	share := node.Secret{Namespace: "registry", Name: "tokens", From: &node.From{Namespace: "id", Name: "tokens", Keys: []string{"certificate"}}}
	got, err := secrets.Ensure(dir, share, nil)
	if err != nil || !maps.Equal(got, map[string]string{"certificate": made["certificate"]}) {
		t.Errorf("the share is %v, %v", got, err)
	}
	share.From.Keys = []string{"nothing"}
	if _, err := secrets.Ensure(dir, share, nil); err == nil {
		t.Error("a key that is not there was shared")
	}
	share.From.Name = "other"
	if _, err := secrets.Ensure(dir, share, nil); err == nil {
		t.Error("a secret that is not there was shared")
	}
}

func TestPasswordHasNoBias(t *testing.T) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	p, err := secrets.Password(248, bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	n := map[rune]int{}
	for _, r := range p {
		n[r]++
	}
	for r, k := range n {
		if k != 4 {
			t.Errorf("%c: %d times", r, k)
		}
	}
	if len(n) != 62 {
		t.Errorf("%d characters", len(n))
	}
}

// An authority's certificate stands for those that it signs, and no others.
func TestAuthority(t *testing.T) {
	s := node.Secret{Namespace: "certificates", Name: "authority", Pairs: []node.Pair{{Key: "key", Certificate: "certificate", CommonName: "authority", Authority: true}}}
	made, err := secrets.Ensure(t.TempDir(), s, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(made["certificate"]), []byte(made["key"]))
	if err != nil {
		t.Fatal(err)
	}
	root := pair.Leaf
	sign := func(c, by *x509.Certificate, with any) (*x509.Certificate, any) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.SerialNumber, c.NotAfter, c.BasicConstraintsValid = big.NewInt(1), time.Now().Add(time.Hour), true
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	service := &x509.Certificate{DNSNames: []string{"id.demo.example"}}
	leaf, _ := sign(service, root, pair.PrivateKey)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "id.demo.example"}); err != nil {
		t.Error(err)
	}
	other, key := sign(&x509.Certificate{IsCA: true}, root, pair.PrivateKey)
	between.AddCert(other)
	leaf, _ = sign(service, other, key)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err == nil {
		t.Error("an authority below it counts")
	}
}
