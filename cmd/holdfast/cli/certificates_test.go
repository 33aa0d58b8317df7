package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestCertificates runs cert-manager as the component certificates has it, with
// the rights that it has there, against a real API server: a service gets a
// certificate that the site's authority signed, another before that one ends,
// and again one when its secret is lost.
func TestCertificates(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server and compiles cert-manager")
	}
	s := startServer(t)
	b := siteOf(t, "certificates")
	root := s.install(t, b)["certificates/site-authority"]["tls.crt"]
	s.certManager(t, b)

	s.kubectl(t, "", "create", "namespace", "web")
	s.kubectl(t, certificate("web", "web", "id.demo.example", "renewBefore: 20s", "duration: 35s"), "apply", "-f", "-")
	first := s.secret(t, "web", "web", nil)
	verifies(t, first, root, "id.demo.example")
	if first["ca.crt"] != root {
		t.Error("the secret's ca.crt is not the site's authority")
	}
	start := time.Now()
	second := s.secret(t, "web", "web", first)
	t.Logf("renewed %v after it was first seen", time.Since(start).Round(time.Second))
	verifies(t, second, root, "id.demo.example")
	if second["tls.key"] == first["tls.key"] {
		t.Error("a new certificate for the old key")
	}

	// One that need not be renewed comes back when its secret is lost.
	s.kubectl(t, certificate("web", "long", "registry.demo.example"), "apply", "-f", "-")
	long := s.secret(t, "web", "long", nil)
	s.kubectl(t, "", "-n", "web", "delete", "secret", "long")
	verifies(t, s.secret(t, "web", "long", long), root, "registry.demo.example")

	s.kubectl(t, `{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "app", "namespace": "web",
		"annotations": {"cert-manager.io/cluster-issuer": "site"}}, "spec": {
		"tls": [{"hosts": ["app.demo.example"], "secretName": "app"}],
		"rules": [{"host": "app.demo.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "app", "port": {"number": 80}}}}]}}]}}`, "apply", "-f", "-")
	verifies(t, s.secret(t, "web", "app", nil), root, "app.demo.example")

	// Nobody but the platform gets one for its names, or past a Certificate.
	s.until(t, "are the platform's", certificate("web", "id", "ID.source.example"), "apply", "--dry-run=server", "-f", "-")
	s.until(t, "made by cert-manager", `{"apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest", "metadata": {"name": "id", "namespace": "web"}, "spec": {
		"request": "YQ==", "issuerRef": {"kind": "ClusterIssuer", "name": "site"}}}`, "apply", "--dry-run=server", "-f", "-")

	for _, bad := range []string{`{}`, `{"ca": {"secretName": "x"}, "selfSigned": {}}`, `{"ca": {}}`} {
		out, err := s.try(`{"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "bad"}, "spec": `+bad+`}`, "apply", "-f", "-")
		if err == nil || !strings.Contains(out, "invalid") {
			t.Errorf("the issuer %s is accepted: %s", bad, out)
		}
	}
	// An authority that is not there is named, and what waits for it goes on
	// when it comes.
	s.kubectl(t, `{"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "own", "namespace": "web"}, "spec": {"ca": {"secretName": "own-authority"}}}`, "apply", "-f", "-")
	s.until(t, `"own-authority" not found`, "", "-n", "web", "get", "issuer", "own", "-o", "jsonpath={.status.conditions[*].message}")
	own := strings.Replace(certificate("web", "own-authority", "", "isCA: true", "commonName: own"), "dnsNames: []", "", 1)
	s.kubectl(t, own, "apply", "-f", "-")
	s.until(t, "True", "", "-n", "web", "get", "issuer", "own", "-o", "jsonpath={.status.conditions[*].status}")
}

// certificate asks the site's issuer for one, which is in a secret of its name.
func certificate(namespace, name, host string, more ...string) string {
	if host != "" {
		host = fmt.Sprintf("%q", host)
	}
	text := fmt.Sprintf(`apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  secretName: %[1]s
  dnsNames: [%[3]s]
  privateKey: {algorithm: ECDSA}
  issuerRef: {kind: ClusterIssuer, name: site}
`, name, namespace, host)
	for _, m := range more {
		text += "  " + m + "\n"
	}
	return text
}

// certManager starts the program of b with the arguments and as the account
// that its manifests have.
func (s server) certManager(t *testing.T, b builder) {
	t.Helper()
	background(t, b.program(t, "cert-manager"), "--namespace=certificates", "--listen="+free(t), "--kubeconfig="+s.account(t, "certificates", "cert-manager"))
}

// verifies checks the certificate of a secret as a client does that trusts root.
func verifies(t *testing.T, secret map[string]string, root, host string) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(root)) {
		t.Fatalf("no certificate: %s", root)
	}
	block, rest := pem.Decode([]byte(secret["tls.crt"]))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("not one certificate: %s", secret["tls.crt"])
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
		t.Error(err)
	}
}
