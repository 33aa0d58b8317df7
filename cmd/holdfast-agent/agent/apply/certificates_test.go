package apply

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// What cert-manager issued while the clock was ahead goes, and nothing else:
// not what is good, not what somebody brought, not what is no certificate.
func TestCertificates(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	early, good := certificate(t, now.AddDate(2, 0, 0)), certificate(t, now.AddDate(0, 0, -1))
	var secrets []string
	for name, s := range map[string]struct{ of, pem string }{
		"early":   {certificateName, early},
		"good":    {certificateName, good},
		"brought": {"example.com/theirs", early},
		"damaged": {certificateName, "none"},
	} {
		secrets = append(secrets, fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":{"namespace":"ingress","name":%q,"annotations":{%q:"x"}},"data":{"tls.crt":%q}}`,
			name, s.of, base64.StdEncoding.EncodeToString([]byte(s.pem))))
	}
	var deleted []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodDelete:
			deleted = append(deleted, r.URL.Path)
			io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
		case r.URL.Path == "/api":
			io.WriteString(w, `{"kind":"APIVersions","versions":["v1"]}`)
		case r.URL.Path == "/apis":
			io.WriteString(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`)
		case r.URL.Path == "/api/v1":
			io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"secrets","namespaced":true,"kind":"Secret"}]}`)
		case r.URL.Path == "/api/v1/secrets" && r.URL.Query().Get("fieldSelector") == "type=kubernetes.io/tls":
			io.WriteString(w, `{"kind":"SecretList","apiVersion":"v1","metadata":{},"items":[`+strings.Join(secrets, ",")+`]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	c, err := New(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	ends, dropped, err := c.Certificates(t.Context(), now)
	if err != nil || !slices.Equal(dropped, []string{"ingress/early begins on 2028-11-28"}) {
		t.Errorf("dropped %q, %v", dropped, err)
	}
	if len(ends) != 2 || !ends["ingress/good"].Equal(now.AddDate(1, 0, -1)) || ends["ingress/brought"].IsZero() {
		t.Errorf("ends: %v", ends)
	}
	if !slices.Equal(deleted, []string{"/api/v1/namespaces/ingress/secrets/early"}) {
		t.Errorf("deleted %q", deleted)
	}
}

func certificate(t *testing.T, begin time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
