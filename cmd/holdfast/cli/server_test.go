package cli

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
)

// server is an API server, and the kubectl of its version.
type server struct{ kubectlPath, url string }

func (s server) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := s.try(stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s server) try(stdin string, args ...string) (string, error) {
	cmd := exec.Command(s.kubectlPath, append([]string{"--server", s.url, "--token=admin", "--insecure-skip-tls-verify", "--request-timeout=60s"}, args...)...)
	cmd.Env = []string{"HOME=/nonexistent"}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// startServer starts etcd and the API server that the example site is built
// with, if they are compiled.
func startServer(t *testing.T) server {
	programs := compiled(t, "kubernetes", "etcd")
	dir := t.TempDir()
	clients, peers, secure := free(t), free(t), free(t)
	_, port, err := net.SplitHostPort(secure)
	must(t, err)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(dir+"/sa.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	must(t, os.WriteFile(dir+"/tokens", []byte("admin,admin,1,system:masters\n"), 0o600))
	background(t, programs["etcd"], "--data-dir="+dir+"/etcd", "--listen-client-urls=http://"+clients, "--advertise-client-urls=http://"+clients,
		"--listen-peer-urls=http://"+peers, "--initial-advertise-peer-urls=http://"+peers, "--initial-cluster=default=http://"+peers, "--unsafe-no-fsync", "--log-level=error")
	background(t, programs["kube-apiserver"], "--etcd-servers=http://"+clients, "--secure-port="+port, "--bind-address=127.0.0.1", "--cert-dir="+dir+"/certs",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+dir+"/sa.key", "--service-account-signing-key-file="+dir+"/sa.key",
		"--service-cluster-ip-range=10.96.0.0/12", "--token-auth-file="+dir+"/tokens", "--authorization-mode=RBAC")
	s := server{programs["kubectl"], "https://" + secure}
	eventually(t, 3*time.Minute, "the API server is ready", func() (bool, string) {
		out, err := s.try("", "get", "--raw=/readyz")
		return err == nil, out
	})
	return s
}

// eventually waits until f holds; what it says otherwise ends the test.
func eventually(t *testing.T, within time.Duration, what string, f func() (bool, string)) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(300 * time.Millisecond) {
		ok, said := f()
		if ok {
			return
		}
		if time.Since(start) > within {
			t.Fatalf("not true within %v: %s: %s", within, what, said)
		}
	}
}

// account is a kubeconfig of a service account.
func (s server) account(t *testing.T, namespace, name string) string {
	t.Helper()
	return s.kubeconfig(t, strings.TrimSpace(s.kubectl(t, "", "-n", namespace, "create", "token", name)))
}

// kubeconfig is that of who has the token.
func (s server) kubeconfig(t *testing.T, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": [{"name": "c", "cluster": {"server": %q, "insecure-skip-tls-verify": true}}],
		"users": [{"name": "u", "user": {"token": %q}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}`, s.url, token), 0o600))
	return file
}

// secret waits until a secret has a certificate, other than that of old.
func (s server) secret(t *testing.T, namespace, name string, old map[string]string) map[string]string {
	t.Helper()
	values := map[string]string{}
	eventually(t, 2*time.Minute, "a new certificate is in the secret "+namespace+"/"+name, func() (bool, string) {
		out, err := s.try("", "-n", namespace, "get", "secret", name, "-o", "json")
		if err != nil {
			state, _ := s.try("", "-n", namespace, "get", "certificates,certificaterequests,issuers", "-o", "yaml")
			return false, out + state
		}
		var o struct{ Data map[string][]byte }
		must(t, json.Unmarshal([]byte(out), &o))
		for k, v := range o.Data {
			values[k] = string(v)
		}
		return values["tls.crt"] != "" && values["tls.crt"] != old["tls.crt"], out
	})
	return values
}

// until waits for a text in what kubectl prints.
func (s server) until(t *testing.T, want, stdin string, args ...string) (out string) {
	t.Helper()
	eventually(t, time.Minute, "kubectl says "+want, func() (bool, string) {
		out, _ = s.try(stdin, args...)
		return strings.Contains(out, want), out
	})
	return out
}

// install applies the components of b as the agent does, and returns what their
// secrets hold, by namespace and name.
func (s server) install(t *testing.T, b builder) map[string]map[string]string {
	t.Helper()
	digests := map[string]store.Digest{}
	for _, c := range b.in.components {
		for _, im := range c.Images {
			digests[im.Name] = store.FromBytes([]byte(im.Name))
		}
	}
	dir, made := t.TempDir(), map[string]map[string]string{}
	for _, c := range b.in.components {
		files, err := catalog.Render(c, digests)
		must(t, err)
		nc, err := nodeComponent(c, digests)
		must(t, err)
		for i, f := range files {
			s.kubectl(t, string(f.Data), "apply", "--server-side", "-f", "-")
			if i == 0 { // the namespace
				for _, secret := range nc.Secrets {
					values, err := secrets.Ensure(dir, secret, System().Rand)
					must(t, err)
					made[secret.Namespace+"/"+secret.Name] = values
					o, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": values,
						"metadata": map[string]any{"name": secret.Name, "namespace": secret.Namespace}})
					must(t, err)
					s.kubectl(t, string(o), "apply", "--server-side", "-f", "-")
				}
			}
			if strings.HasPrefix(f.Name, "20-") {
				s.kubectl(t, string(f.Data), "wait", "--for=condition=Established", "--timeout=60s", "-f", "-")
			}
		}
	}
	return made
}

// free is an address of the loopback that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

// background runs a program until the test ends, and shows what it said last
// if the test fails.
func background(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if b, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s: %s", filepath.Base(name), b[max(0, len(b)-4000):])
		}
	})
}

// compiled finds programs that an earlier build of the example site left.
func compiled(t *testing.T, recipes ...string) map[string]string {
	t.Helper()
	h := System()
	h.Stdout, h.Stderr = io.Discard, io.Discard
	s, err := (&app{Host: h}).cache()
	must(t, err)
	l, err := airgap.ReadLock("../../../examples/source")
	must(t, err)
	all, err := catalog.Recipes()
	must(t, err)
	out := map[string]string{}
	for _, r := range all {
		for _, name := range recipes {
			if r.Name != name {
				continue
			}
			key, err := programsKey(r, l)
			must(t, err)
			var found map[string]store.Content
			if !s.Recall(key, &found) {
				t.Skipf("%s is not compiled yet: build examples/source first", name)
			}
			for program, c := range found {
				f, err := s.Open(c)
				must(t, err)
				name := filepath.Join(t.TempDir(), program)
				to, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o755)
				must(t, err)
				_, err = io.Copy(to, f)
				must(t, err)
				must(t, f.Close())
				must(t, to.Close())
				out[program] = name
			}
		}
	}
	return out
}
