package cli

import (
	"bytes"
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
	"holdfast.dev/holdfast/image/gobuild"

	"sigs.k8s.io/yaml"
)

// TestManifestsAtServer lets the API server of the catalog look at all
// manifests of the catalog, and at each pod in its namespace, where Pod Security
// has a say. Nothing else of a cluster runs.
func TestManifestsAtServer(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server")
	}
	api := startServer(t)
	all, err := catalog.Load()
	must(t, err)
	if all, err = catalog.Wire(catalog.Site{Domain: "demo.example", Address: "192.0.2.7"}.Of(all)); err != nil {
		t.Fatal(err)
	}
	digests := map[string]store.Digest{}
	for _, c := range all {
		for _, im := range c.Images {
			digests[im.Name] = store.FromBytes([]byte(im.Name))
		}
	}
	var namespaces, accounts, others, pods bytes.Buffer
	for _, c := range all {
		files, err := catalog.Render(c, digests)
		must(t, err)
		for _, f := range files {
			for _, doc := range strings.Split(string(f.Data), "---\n") {
				var o struct {
					Kind     string
					Metadata struct{ Name, Namespace string }
					Spec     struct {
						Template             struct{ Spec map[string]any }
						VolumeClaimTemplates []struct{ Metadata struct{ Name string } }
					}
				}
				must(t, yaml.Unmarshal([]byte(doc), &o))
				to := &others
				switch o.Kind {
				case "Namespace":
					to = &namespaces
				case "ServiceAccount":
					to = &accounts
				}
				fmt.Fprintf(to, "---\n%s", doc)
				if o.Spec.Template.Spec == nil {
					continue
				}
				for _, v := range o.Spec.VolumeClaimTemplates { // the controller would add them
					list, _ := o.Spec.Template.Spec["volumes"].([]any)
					o.Spec.Template.Spec["volumes"] = append(list, map[string]any{"name": v.Metadata.Name, "emptyDir": map[string]any{}})
				}
				pod, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": o.Spec.Template.Spec,
					"metadata": map[string]any{"name": o.Metadata.Name, "namespace": o.Metadata.Namespace}})
				must(t, err)
				fmt.Fprintf(&pods, "---\n%s\n", pod)
			}
		}
	}
	api.kubectl(t, namespaces.String(), "apply", "--server-side", "-f", "-")
	api.kubectl(t, accounts.String(), "apply", "--server-side", "-f", "-")
	for _, out := range []string{
		api.kubectl(t, others.String(), "apply", "--server-side", "--dry-run=server", "-f", "-"),
		api.kubectl(t, pods.String(), "create", "--dry-run=server", "-f", "-"),
	} {
		if strings.Contains(out, "Warning") {
			t.Errorf("the server warns:\n%s", out)
		}
		t.Logf("%d objects", strings.Count(out, "\n"))
	}
}

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
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		must(t, l.Close())
	}
	url := func(scheme string, i int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[i]) }
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(dir+"/sa.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	must(t, os.WriteFile(dir+"/tokens", []byte("admin,admin,1,system:masters\n"), 0o600))
	background(t, programs["etcd"], "--data-dir="+dir+"/etcd", "--listen-client-urls="+url("http", 0), "--advertise-client-urls="+url("http", 0),
		"--listen-peer-urls="+url("http", 1), "--initial-advertise-peer-urls="+url("http", 1), "--initial-cluster=default="+url("http", 1), "--unsafe-no-fsync", "--log-level=error")
	background(t, programs["kube-apiserver"], "--etcd-servers="+url("http", 0), "--secure-port="+fmt.Sprint(ports[2]), "--bind-address=127.0.0.1", "--cert-dir="+dir+"/certs",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+dir+"/sa.key", "--service-account-signing-key-file="+dir+"/sa.key",
		"--service-cluster-ip-range=10.96.0.0/12", "--token-auth-file="+dir+"/tokens", "--authorization-mode=RBAC")
	s := server{programs["kubectl"], url("https", 2)}
	for start := time.Now(); ; time.Sleep(time.Second) {
		out, err := s.try("", "get", "--raw=/readyz")
		if err == nil {
			return s
		}
		if time.Since(start) > 3*time.Minute {
			t.Fatalf("the API server does not get ready: %s", out)
		}
	}
}

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
			key, err := store.Key("programs", r.Digest(), l.Toolchain, gobuild.Platform, l.Epoch)
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
