package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// TestIngress runs Traefik and cert-manager as their components have them, with
// the rights that they have there, against a real API server: a name under the
// site's domain leads by TLS, with a certificate of the site's authority, to the
// service behind it, and HTTP leads to HTTPS.
func TestIngress(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server and compiles Traefik")
	}
	host := ownAddress(t)
	s := startServer(t)
	b := siteOf(t, "certificates", "ingress")
	root := s.install(t, b)["certificates/site-authority"]["tls.crt"]
	s.certManager(t, b)
	at := s.traefik(t, b)
	client := at.client(root)

	backend := &httptest.Server{Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s for %s", r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host"), r.URL.Path)
	})}}
	var err error
	backend.Listener, err = net.Listen("tcp", host+":0")
	must(t, err)
	backend.Start()
	t.Cleanup(backend.Close)
	to := backend.Listener.Addr().(*net.TCPAddr)
	s.kubectl(t, "", "create", "namespace", "web")
	s.kubectl(t, published("app", "app.source.example", true, to), "apply", "-f", "-")
	s.kubectl(t, published("plain", "plain.source.example", false, to), "apply", "-f", "-")
	none := fmt.Sprintf("endpoints: [{addresses: [%q], conditions: {ready: true}}]", to.IP)
	s.kubectl(t, strings.Replace(published("starting", "starting.source.example", false, to), none, "endpoints: []", 1), "apply", "-f", "-")
	own := s.secret(t, "web", "app", nil)
	verifies(t, own, root, "app.source.example")
	wildcard := s.secret(t, "ingress", "default-certificate", nil)

	for host, certificate := range map[string]string{"app.source.example": own["tls.crt"], "plain.source.example": wildcard["tls.crt"]} {
		eventually(t, time.Minute, host+" is served", func() (bool, string) {
			answer := get(client, "https://"+host+"/some/where")
			return answer.code == http.StatusOK, answer.String()
		})
		answer := get(client, "https://"+host+"/some/where")
		if want := "https " + host + " for /some/where"; answer.body != want {
			t.Errorf("the service says %q, want %q", answer.body, want)
		}
		if got := answer.header.Get("Strict-Transport-Security") + "; " + answer.header.Get("X-Content-Type-Options"); got != "max-age=31536000; nosniff" {
			t.Errorf("%s tells browsers %q", host, got)
		}
		eventually(t, time.Minute, host+" has its certificate", func() (bool, string) {
			got := at.certificate(host)
			return got == certificate, got
		})
	}
	eventually(t, time.Minute, "a service without pods is not there for now", func() (bool, string) {
		answer := get(client, "https://starting.source.example/")
		return answer.code == http.StatusServiceUnavailable, answer.String()
	})
	at.refusals(t, client)
	s.namesOfThePlatform(t, to)

	// A renewed certificate is used without a restart.
	s.kubectl(t, "", "-n", "web", "delete", "secret", "app")
	renewed := s.secret(t, "web", "app", own)
	eventually(t, time.Minute, "the new certificate is used", func() (bool, string) {
		got := at.certificate("app.source.example")
		return got == renewed["tls.crt"], got
	})
}

// refusals are what the ingress does not serve.
func (i ingress) refusals(t *testing.T, client *http.Client) {
	t.Helper()
	if a := get(client, "https://other.source.example/"); a.code != http.StatusNotFound {
		t.Errorf("a name that nobody serves: %s", a)
	}
	// No certificate is made up for a name that is not the site's.
	if a := get(client, "https://other.example/"); a.err == nil || !strings.Contains(a.err.Error(), "tls: ") {
		t.Errorf("a name of another domain: %s", a)
	}
	if a := get(i.client(""), "https://app.source.example/"); a.err == nil || !strings.Contains(a.err.Error(), "unknown authority") {
		t.Errorf("without the site's authority: %s", a)
	}
	old := i.client("")
	old.Transport.(*http.Transport).TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true}
	if a := get(old, "https://app.source.example/"); a.err == nil || !strings.Contains(a.err.Error(), "protocol version") {
		t.Errorf("by TLS 1.1: %s", a)
	}
	for _, url := range []string{"http://app.source.example/some/where?a=b", "http://other.source.example/"} {
		a := get(client, url)
		if want := strings.Replace(url, "http:", "https:", 1); a.code != http.StatusMovedPermanently || a.header.Get("Location") != want {
			t.Errorf("%s is answered by %s to %q, want %s", url, a, a.header.Get("Location"), want)
		}
	}
	// What a client says of itself is not passed on as the ingress's word.
	req, err := http.NewRequest(http.MethodGet, "https://app.source.example/", nil)
	must(t, err)
	req.Header.Set("X-Forwarded-Proto", "http")
	req.Header.Set("X-Forwarded-Host", "id.source.example")
	if a := do(client, req); a.body != "https app.source.example for /" {
		t.Errorf("with forged headers: %s", a)
	}
}

// namesOfThePlatform are nobody else's.
func (s server) namesOfThePlatform(t *testing.T, to *net.TCPAddr) {
	t.Helper()
	for _, host := range []string{"id.source.example", "registry.source.example", `"*.source.example"`, `""`} {
		s.until(t, "are the platform's", published("bad", host, false, to), "apply", "--dry-run=server", "-f", "-")
	}
	covers := strings.Replace(published("bad", "mine.source.example", true, to), "hosts: [mine.", "hosts: [id.", 1)
	s.until(t, "are the platform's", covers, "apply", "--dry-run=server", "-f", "-")
	s.until(t, "a default backend", `{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "bad", "namespace": "web"},
		"spec": {"defaultBackend": {"service": {"name": "app", "port": {"number": 80}}}}}`, "apply", "--dry-run=server", "-f", "-")
}

// ingress is Traefik where it listens.
type ingress struct{ web, secure string }

// traefik starts the program of b as the account that its manifests have.
func (s server) traefik(t *testing.T, b builder) ingress {
	t.Helper()
	at, health := ingress{free(t), free(t)}, free(t)
	t.Setenv("KUBECONFIG", s.account(t, "ingress", "traefik"))
	background(t, b.program(t, "traefik"), "--web="+at.web, "--websecure="+at.secure, "--health="+health)
	eventually(t, time.Minute, "Traefik is ready", func() (bool, string) {
		a := get(http.DefaultClient, "http://"+health+"/ready")
		return a.code == http.StatusOK, a.String()
	})
	return at
}

// client trusts root, reaches every name at the ingress, as a site's names do,
// and follows no redirection.
func (i ingress) client(root string) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(root))
	return &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				to := i.web
				if strings.HasSuffix(address, ":443") {
					to = i.secure
				}
				return (&net.Dialer{}).DialContext(ctx, network, to)
			},
		},
	}
}

// certificate is what a client gets for a name, in PEM; none is empty.
func (i ingress) certificate(name string) string {
	c, err := tls.Dial("tcp", i.secure, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return ""
	}
	defer c.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw}))
}

type answer struct {
	code   int
	header http.Header
	body   string
	err    error
}

func (a answer) String() string { return fmt.Sprintf("%d %q, %v", a.code, a.body, a.err) }

func get(c *http.Client, url string) answer {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) answer {
	res, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return answer{res.StatusCode, res.Header, string(b), err}
}

// published is an Ingress in the namespace web, with a certificate of its own or
// without, and a service whose only endpoint is at to.
func published(name, host string, certificate bool, to *net.TCPAddr) string {
	annotations, tls := "{}", "[]"
	if certificate {
		annotations, tls = "{cert-manager.io/cluster-issuer: site}", fmt.Sprintf("[{hosts: [%s], secretName: %s}]", host, name)
	}
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %[1]s, namespace: web, annotations: %[5]s}
spec:
  tls: %[6]s
  rules: [{host: %[2]s, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %[1]s, port: {number: 80}}}}]}}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: web}
spec: {ports: [{name: http, port: 80, targetPort: %[4]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, namespace: web, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
endpoints: [{addresses: [%[3]q], conditions: {ready: true}}]
ports: [{name: http, port: %[4]d}]
`, name, host, to.IP, to.Port, annotations, tls)
}

// ownAddress is one of this machine that an EndpointSlice may have, which
// addresses of the loopback are not.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but the loopback's")
	return ""
}
