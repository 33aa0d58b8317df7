package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/catalog"
)

const objectsURL = "https://minio.minio.svc.cluster.local:9000"

// TestObjects runs the object storage from its image by its manifests: two
// clients get a bucket each, keep objects in their own and get at nothing else,
// and others at nothing at all. curl signs the requests.
func TestObjects(t *testing.T) {
	runsPods(t)
	compilesLong(t, "MinIO")
	b := siteOf(t, "minio")
	for _, name := range []string{"alpha", "beta"} {
		b.in.components = append(b.in.components, catalog.Component{Name: name, Namespace: name,
			Uses: []catalog.Use{{Component: "minio", Offer: "bucket", Secret: "objects"}}})
	}
	var err error
	b.in.components, err = catalog.Wire(b.in.components)
	must(t, err)
	p := b.pods(t)
	p.certificate(t, "minio", "minio")
	minio := p.objectsReady(t)
	p.buckets(t)
	p.buckets(t) // as it is after an update

	alpha, beta := s3User{name: "alpha", secret: p.secrets["alpha/objects"]["secretKey"]}, s3User{name: "beta", secret: p.secrets["beta/objects"]["secretKey"]}
	start := time.Now()
	p.wantS3(t, alpha, "PUT", "/alpha/it", "what alpha keeps", "200", "")
	t.Logf("an object is written in %v", time.Since(start))
	p.wantS3(t, alpha, "GET", "/alpha/it", "", "200", "what alpha keeps")
	p.wantS3(t, alpha, "GET", "/alpha/", "", "200", "<Key>it</Key>")
	p.wantS3(t, beta, "PUT", "/beta/it", "what beta keeps", "200", "")
	for _, c := range []struct {
		who                      string
		user                     s3User
		method, path, body, says string
	}{
		{"another client reads", beta, "GET", "/alpha/it", "", "AccessDenied"},
		{"another client writes", beta, "PUT", "/alpha/it", "x", "AccessDenied"},
		{"another client deletes", beta, "DELETE", "/alpha/it", "", "AccessDenied"},
		{"another client lists", alpha, "GET", "/beta/", "", "AccessDenied"},
		{"a client makes a bucket", alpha, "PUT", "/gamma", "", "AccessDenied"},
		{"a client opens its bucket", alpha, "PUT", "/alpha?policy=", "{}", "AccessDenied"},
		{"nobody reads", s3User{}, "GET", "/alpha/it", "", "AccessDenied"},
		{"nobody writes", s3User{}, "PUT", "/alpha/other", "x", "AccessDenied"},
		{"a wrong key", s3User{name: "alpha", secret: beta.secret}, "GET", "/alpha/it", "", "SignatureDoesNotMatch"},
		{"upstream's default user", s3User{name: "minioadmin", secret: "minioadmin"}, "GET", "/alpha/it", "", "InvalidAccessKeyId"},
		{"somebody with a browser", s3User{}, "GET", "/", "", "AccessDenied"},
	} {
		t.Run(c.who, func(t *testing.T) { p.wantS3(t, c.user, c.method, c.path, c.body, "403", c.says) })
	}
	if out, err := p.inside("curl", "-s", objectsURL+"/minio/health/live"); err == nil {
		t.Errorf("trusted without the site's authority: %s", out)
	}
	said := minio.said()

	minio.stop()
	minio = p.objectsReady(t)
	p.wantS3(t, alpha, "GET", "/alpha/it", "", "200", "what alpha keeps")
	p.buckets(t)
	p.wantS3(t, beta, "GET", "/beta/it", "", "200", "what beta keeps")
	p.wantS3(t, beta, "GET", "/alpha/it", "", "403", "AccessDenied")
	said += minio.said()
	for name, secret := range p.secrets {
		for key, text := range secret {
			if key != "tls.crt" && key != "ca.crt" && strings.Contains(said, text) {
				t.Errorf("%s of the secret %s is in the log", key, name)
			}
		}
	}
	if strings.Contains(said, "WebUI") || !strings.Contains(said, "2026-02-12T20-18-48Z") {
		t.Errorf("it says\n%s", said)
	}
}

func (p *pods) objectsReady(t *testing.T) *running {
	t.Helper()
	r := p.start("StatefulSet", "minio", "minio")
	took := r.until(t.Context(), 5*time.Minute, "ready", func() bool {
		_, err := p.inside("curl", "-sf", "--cacert", p.ca, objectsURL+"/minio/health/cluster")
		return err == nil
	})
	t.Logf("ready after %v", took)
	return r
}

// buckets runs the hook of each client.
func (p *pods) buckets(t *testing.T) {
	t.Helper()
	for _, name := range []string{"alpha", "beta"} {
		hook := p.start("Job", "minio", "bucket-"+name)
		if err := hook.end(5 * time.Minute); err != nil {
			t.Fatalf("%v\n%s", err, hook.said())
		}
	}
}

type s3User struct{ name, secret, session string }

// wantS3 sends one request, signed unless the user has no name.
func (p *pods) wantS3(t *testing.T, u s3User, method, path, body, code, says string) {
	t.Helper()
	sum := sha256.Sum256([]byte(body))
	args := []string{"-s", "--cacert", p.ca, "-X", method, "-w", "\n%{http_code}", "-H", "Content-Type: text/plain"}
	if body != "" {
		args = append(args, "--data-binary", body)
	}
	if u.name != "" {
		args = append(args, "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", u.name+":"+u.secret, "-H", "x-amz-content-sha256: "+hex.EncodeToString(sum[:]))
	} else if strings.HasSuffix(path, "/") {
		args = append(args, "-A", "Mozilla/5.0", "-H", "Accept: text/html")
	}
	if u.session != "" {
		args = append(args, "-H", "x-amz-security-token: "+u.session)
	}
	out, err := p.inside("curl", append(args, objectsURL+path)...)
	if err != nil {
		t.Fatalf("%s %s as %q: %v: %s", method, path, u.name, err, out)
	}
	i := strings.LastIndex(out, "\n")
	if out[i+1:] != code || !strings.Contains(out[:i], says) {
		t.Errorf("%s %s as %q: %s, want %s with %q", method, path, u.name, out, code, says)
	}
}

// certificate makes the secret of a Certificate, as cert-manager would with the
// site's authority.
func (p *pods) certificate(t *testing.T, namespace, name string) {
	t.Helper()
	o := p.find("Certificate", namespace, name)
	authority, err := tls.X509KeyPair([]byte(p.site["tls.crt"]), []byte(p.site["tls.key"]))
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: o.Spec.DNSNames, NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority.Leaf, key.Public(), authority.PrivateKey)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	p.secrets[namespace+"/"+o.Spec.SecretName] = map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"ca.crt":  p.site["tls.crt"],
	}
}
