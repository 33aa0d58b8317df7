package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-registry/registry"
	"holdfast.dev/holdfast/cmd/holdfast/agentbin"
	"holdfast.dev/holdfast/signing"
)

// appliedSite makes bundles of a site for "holdfast apply".
type appliedSite struct {
	dir   string
	store *store.Store
	image v1.Image
}

func newAppliedSite(t *testing.T) appliedSite {
	t.Helper()
	if _, err := agentbin.Registry(); err != nil {
		t.Skip(err)
	}
	s := appliedSite{dir: t.TempDir()}
	must(t, signing.GenerateSite(s.dir, "demo", rand.Reader, time.Unix(1_700_000_000, 0), true))
	var err error
	s.store, err = store.Open(t.TempDir())
	must(t, err)
	s.image, err = random.Image(6<<20, 2)
	must(t, err)
	return s
}

func (s appliedSite) put(t *testing.T, b []byte) store.Content {
	t.Helper()
	c, err := s.store.WriteBytes(b)
	must(t, err)
	return c
}

// putImage puts s.image into the store, and returns its manifest.
func (s appliedSite) putImage(t *testing.T) store.Content {
	t.Helper()
	layers, err := s.image.Layers()
	must(t, err)
	for _, l := range layers {
		r, err := l.Compressed()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		s.put(t, b)
	}
	config, err := s.image.RawConfigFile()
	must(t, err)
	s.put(t, config)
	m, err := s.image.RawManifest()
	must(t, err)
	return s.put(t, m)
}

// applied is a release for "holdfast apply".
type applied struct {
	number     uint64
	manifests  string         // of the site
	components []string       // of the platform, with a ConfigMap each
	charts     map[string]any // its node.json, by name
}

const appImage = "registry.example:5000/team/app:1"

func (s appliedSite) bundle(t *testing.T, a applied) string {
	t.Helper()
	m := s.putImage(t)
	raw := s.put(t, []byte("raw"))
	doc := func(v any) store.Content {
		b, err := json.Marshal(v)
		must(t, err)
		return s.put(t, b)
	}
	in := bundles.ReleaseInput{
		Facts: bundles.Facts{Name: "demo", Release: a.number, Zone: "official", Domain: "demo.example", Version: "0.1.0", Epoch: 1700000000, RootHash: strings.Repeat("a", 64)},
		OS: []bundles.File{
			{Title: bundles.RootErofs, MediaType: bundles.MediaRoot, Content: s.put(t, []byte("the root")), Raw: raw},
			{Title: bundles.RootVerity, MediaType: bundles.MediaVerity, Content: s.put(t, []byte("the verity tree")), Raw: raw},
			{Title: bundles.UKI, MediaType: bundles.MediaUEFI, Content: s.put(t, []byte("the kernel"))},
		},
		Images: []bundles.Image{{Name: appImage, Component: "site", MediaType: "application/vnd.docker.distribution.manifest.v2+json", Manifest: m}},
		SBOM:   s.put(t, []byte(`{"spdxVersion":"SPDX-2.3","packages":[],"files":[]}`)), Provenance: s.put(t, []byte(`{"lock":"x"}`)),
	}
	components, charts := []any{map[string]any{"name": "kubernetes"}, map[string]any{"name": "coredns", "namespace": "kube-system"}}, []any{}
	for _, name := range a.components {
		components = append(components, map[string]any{"name": name, "namespace": name})
		in.Manifests = append(in.Manifests, bundles.ComponentManifests{Component: name, Files: []bundles.File{{Title: "40-config.yaml",
			Content: s.put(t, fmt.Appendf(nil, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\n", name, name))}}})
	}
	for name, c := range a.charts {
		components, charts = append(components, c), append(charts, map[string]any{"name": name})
	}
	if a.manifests != "" {
		components = append(components, map[string]any{"name": "site"})
		in.Manifests = append(in.Manifests, bundles.ComponentManifests{Component: "site", Files: []bundles.File{{Title: "50-workloads.yaml",
			Content: s.put(t, []byte(strings.ReplaceAll(a.manifests, "IMAGE", appImage+"@"+string(m.Digest))))}}})
	}
	in.Node = doc(map[string]any{"name": "demo", "components": components})
	in.Site = doc(map[string]any{"name": "demo", "charts": charts})
	rel, err := bundles.Compose(s.store, in)
	must(t, err)
	key, err := signing.LoadPrivateKey(filepath.Join(s.dir, "keys", "release.key"))
	must(t, err)
	sig, err := signing.Sign(string(rel.Index.Digest), fmt.Sprint("demo:", a.number), key, nil)
	must(t, err)
	var b bytes.Buffer
	must(t, bundles.Pack(t.Context(), &b, s.store, rel, []signing.Signature{sig}, nil))
	file := filepath.Join(t.TempDir(), fmt.Sprintf("demo-%d.bundle", a.number))
	must(t, os.WriteFile(file, b.Bytes(), 0o644))
	return file
}

// run is "holdfast apply" of a bundle.
func (s appliedSite) run(ctx context.Context, kubeconfig, bundle string, args ...string) (int, string) {
	var out bytes.Buffer
	h := System()
	h.Stdout, h.Stderr = &out, &out
	code := Run(ctx, h, append([]string{"apply", "--kubeconfig", kubeconfig, "--trust", filepath.Join(s.dir, "trust", "policy.json"), "--zone", "official", bundle}, args...))
	return code, out.String()
}

const appliedOne = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: old, namespace: shop}
data: {a: b}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "IMAGE"}]
`

// TestApplyOffline refuses what needs no cluster to be refused.
func TestApplyOffline(t *testing.T) {
	s := newAppliedSite(t)
	good := s.bundle(t, applied{number: 1, manifests: appliedOne})
	b, err := os.ReadFile(good)
	must(t, err)
	b[len(b)/2] ^= 1
	bad := filepath.Join(t.TempDir(), "bad.bundle")
	must(t, os.WriteFile(bad, b, 0o644))
	nobody := server{url: "https://" + free(t)}.kubeconfig(t, "admin")
	for _, c := range []struct {
		what, kubeconfig, bundle string
		args                     []string
		code                     int
		want                     string
	}{
		{"no cluster", "", good, nil, ExitUsage, "no cluster is named"},
		{"a port of others", nobody, good, []string{"--port", "80"}, ExitUsage, "cannot use port 80"},
		{"no kubeconfig", filepath.Join(t.TempDir(), "none"), good, nil, ExitFailed, "cannot read the kubeconfig"},
		{"another context", nobody, good, []string{"--context", "none"}, ExitFailed, "cannot use the kubeconfig"},
		{"a changed bundle", nobody, bad, nil, ExitRefused, "cannot verify"},
		{"another zone", nobody, good, []string{"--zone", "secret"}, ExitRefused, "cannot verify"},
		{"an old release", nobody, good, []string{"--min-release", "2"}, ExitRefused, "the lowest allowed is 2"},
		{"a cluster that does not answer", nobody, good, nil, ExitFailed, "cannot ask the cluster at https://127.0.0.1:"},
	} {
		if code, out := s.run(t.Context(), c.kubeconfig, c.bundle, c.args...); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: code %d, want %d:\n%s", c.what, code, c.code, out)
		}
	}
}

// cluster is a real API server, with a node that says it is there, and what
// stands for kubelet and controllers: pods of workloads are ready at once, and
// the registry's runs in this process.
type cluster struct {
	server
	address string // of this host, as the API server reaches no loopback
	image   string // on the node
	puts    func() // before each PUT of a blob

	mu    sync.Mutex
	seen  map[string]bool
	store http.Handler
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{server: startServer(t), image: "registry.example/pause@" + string(store.FromBytes([]byte("pause"))), seen: map[string]bool{}}
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			c.address = n.IP.String()
		}
	}
	if c.address == "" {
		t.Skip("this host has only a loopback, to which no API server passes on")
	}
	l, err := net.Listen("tcp", c.address+":0")
	must(t, err)
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			c.mu.Lock()
			h, puts := c.store, c.puts
			c.mu.Unlock()
			if puts != nil && q.Method == http.MethodPut && strings.HasPrefix(q.URL.Path, "/store/blobs/") {
				puts()
			}
			h.ServeHTTP(w, q)
		}))
	}()
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	c.kubectl(t, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"node1"}}`, "create", "-f", "-")
	c.kubectl(t, "", "patch", "node", "node1", "--subresource=status", "--type=merge", "-p", fmt.Sprintf(
		`{"status":{"nodeInfo":{"operatingSystem":"linux","architecture":"amd64"},"images":[{"names":["big:1"],"sizeBytes":9},{"names":["%s","pause:1"],"sizeBytes":1}]}}`, c.image))
	c.kubectl(t, `{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"local-path","annotations":{"storageclass.kubernetes.io/is-default-class":"true"}},"provisioner":"x.example/y"}`, "create", "-f", "-")
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			c.act(dir, port)
			_ = sleep(ctx, 300*time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return c
}

// act is a turn of the controllers.
func (c *cluster) act(dir, port string) {
	out, err := c.try("", "get", "deployments,statefulsets,daemonsets", "-A", "-o", "json")
	var l struct {
		Items []struct {
			Kind     string
			Metadata struct {
				Name, Namespace string
				Generation      int64
			}
			Spec struct {
				Template struct {
					Metadata struct{ Labels map[string]string }
				}
			}
		}
	}
	if err != nil || json.Unmarshal([]byte(out), &l) != nil {
		return
	}
	for _, o := range l.Items {
		m := o.Metadata
		key := fmt.Sprint(o.Kind, m.Namespace, m.Name, m.Generation)
		if c.seen[key] {
			continue
		}
		if m.Name == "registry" && c.open(dir, port) != nil {
			continue
		}
		labels, _ := json.Marshal(o.Spec.Template.Metadata.Labels)
		_, _ = c.try(fmt.Sprintf(`{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default","namespace":%q}}`, m.Namespace), "create", "-f", "-")
		_, _ = c.try(fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":%q,"labels":%s},"spec":{"nodeName":"node1","containers":[{"name":"a","image":"a"}]}}`, m.Name, m.Namespace, labels), "create", "-f", "-")
		_, err1 := c.try("", "patch", "pod", m.Name, "-n", m.Namespace, "--subresource=status", "--type=merge", "-p",
			fmt.Sprintf(`{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%[1]q}],"conditions":[{"type":"Ready","status":"True"}]}}`, c.address))
		_, err2 := c.try("", "patch", o.Kind, m.Name, "-n", m.Namespace, "--subresource=status", "--type=merge", "-p", map[string]string{
			"Deployment":  fmt.Sprintf(`{"status":{"observedGeneration":%d,"replicas":1,"updatedReplicas":1,"readyReplicas":1,"availableReplicas":1}}`, m.Generation),
			"StatefulSet": fmt.Sprintf(`{"status":{"observedGeneration":%d,"replicas":1,"updatedReplicas":1,"readyReplicas":1,"availableReplicas":1}}`, m.Generation),
			"DaemonSet":   fmt.Sprintf(`{"status":{"observedGeneration":%d,"currentNumberScheduled":1,"desiredNumberScheduled":1,"numberMisscheduled":0,"numberReady":1,"updatedNumberScheduled":1,"numberAvailable":1}}`, m.Generation),
		}[o.Kind])
		c.seen[key] = err1 == nil && err2 == nil
	}
}

// open starts the registry with the tokens of the cluster, as its pod would.
func (c *cluster) open(dir, port string) error {
	out, err := c.try("", "get", "secret", "registry-tokens", "-n", "holdfast-applied", "-o", "json")
	var s struct{ Data struct{ Read, Write []byte } }
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		return err
	}
	h, err := registry.Handler(dir, registry.Tokens{Read: string(s.Data.Read), Write: string(s.Data.Write)}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.store = h
	c.mu.Unlock()
	// The API server passes on to addresses of pods alone.
	const pod = `{"kind":"Pod","namespace":"holdfast-applied","name":"registry"}`
	for _, o := range []string{
		fmt.Sprintf(`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"registry","namespace":"holdfast-applied","labels":{"kubernetes.io/service-name":"registry"}},"addressType":"IPv4","endpoints":[{"addresses":[%q],"targetRef":%s,"conditions":{"ready":true}}],"ports":[{"name":"http","port":%s,"protocol":"TCP"}]}`, c.address, pod, port),
		fmt.Sprintf(`{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"registry","namespace":"holdfast-applied"},"subsets":[{"addresses":[{"ip":%q,"targetRef":%s}],"ports":[{"name":"http","port":%s,"protocol":"TCP"}]}]}`, c.address, pod, port),
	} {
		if out, err := c.try(o, "apply", "-f", "-"); err != nil {
			return fmt.Errorf("%s", out)
		}
	}
	return nil
}

const appliedKinds = "namespaces,configmaps,secrets,services,pvc,deployments,statefulsets,daemonsets"

var resourceVersion = regexp.MustCompile(`"resourceVersion": "\d*"`)

// contents are all objects without their versions and the notes on who owns
// which field, which kubectl leaves out.
func (c *cluster) contents(t *testing.T) string {
	t.Helper()
	return resourceVersion.ReplaceAllString(c.kubectl(t, "", "get", appliedKinds, "-A", "-o", "json"), "")
}

// versions are the resource versions of what was applied: any write shows.
func (c *cluster) versions(t *testing.T) string {
	t.Helper()
	return c.kubectl(t, "", "get", appliedKinds, "-A", "-o",
		`jsonpath={range .items[*]}{.kind} {.metadata.namespace} {.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`)
}

// TestApplyAtServer applies releases to a real API server, through which the
// images go to the real registry.
func TestApplyAtServer(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server")
	}
	c, s := startCluster(t), newAppliedSite(t)
	admin := c.kubeconfig(t, "admin")
	chart := map[string]any{"billing": map[string]any{"name": "billing", "namespace": "billing", "needs": []string{"kubernetes"},
		"secrets": []any{map[string]any{"name": "login", "namespace": "billing", "generate": map[string]int{"password": 24}}}}}
	one := s.bundle(t, applied{number: 1, manifests: appliedOne, charts: chart})
	good := func(what string, bundle string, args ...string) string {
		t.Helper()
		code, out := s.run(t.Context(), admin, bundle, args...)
		if code != ExitDone {
			t.Fatalf("%s: code %d:\n%s", what, code, out)
		}
		return out
	}
	refused := func(what, kubeconfig, bundle string, args []string, reasons ...string) {
		t.Helper()
		before := c.versions(t)
		code, out := s.run(t.Context(), kubeconfig, bundle, args...)
		if code != ExitRefused {
			t.Errorf("%s: code %d:\n%s", what, code, out)
		}
		for _, r := range reasons {
			if !strings.Contains(out, r) {
				t.Errorf("%s: it does not say %q:\n%s", what, r, out)
			}
		}
		if after := c.versions(t); after != before {
			t.Errorf("%s: it changed the cluster:\n%s\n%s", what, before, after)
		}
	}

	before := c.versions(t)
	out := good("a dry run", one, "--dry-run")
	for _, w := range []string{"left out: coredns: the cluster has its own", "create     site  v1 Namespace - shop", "Deployment shop web (not checked by the server: its namespace comes with the release)",
		"started with " + c.image, "image      " + appImage + " as 127.0.0.1:5002/registry.example-5000/team/app:1@sha256:", "v1 Secret billing login"} {
		if !strings.Contains(out, w) {
			t.Errorf("the dry run does not say %q:\n%s", w, out)
		}
	}
	if after := c.versions(t); after != before {
		t.Errorf("a dry run changed the cluster:\n%s", after)
	}

	// Cut off when the third piece of the images is under way.
	ctx, cancel := context.WithCancel(t.Context())
	puts := 0
	c.mu.Lock()
	c.puts = func() {
		if puts++; puts == 3 {
			cancel()
		}
	}
	c.mu.Unlock()
	if code, out := s.run(ctx, admin, one); code != ExitFailed || puts < 3 {
		t.Fatalf("cut off after %d pieces: code %d:\n%s", puts, code, out)
	}
	c.mu.Lock()
	first := puts
	c.puts = func() { puts++ }
	c.mu.Unlock()
	out = good("after the cut", one)
	t.Logf("%d pieces before the cut, %d after; then:\n%s", first, puts-first, out)
	if puts-first > 5 { // of seven: two layers of two, configuration, manifest, index
		t.Errorf("after the cut %d pieces were sent", puts-first)
	}
	image := c.kubectl(t, "", "get", "deployment", "web", "-n", "shop", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	pulls(t, c, image)
	password := c.kubectl(t, "", "get", "secret", "login", "-n", "billing", "-o", "jsonpath={.data.password}")
	if len(password) != 32 { // 24 in base64
		t.Errorf("the password is %q", password)
	}

	before, puts = c.contents(t), 0
	out = good("again", one, "--json")
	if after := c.contents(t); after != before {
		t.Errorf("a second run changed objects:\n%s\n%s", before, after)
	}
	// The API server itself writes a namespace or a claim once more when it is
	// applied for the second time, with kubectl too, and then no more.
	before = c.versions(t)
	good("a third time", one)
	if after := c.versions(t); after != before {
		t.Errorf("a third run wrote objects:\n%s\n%s", before, after)
	}
	if puts != 0 || !strings.Contains(out, `"sent":0`) {
		t.Errorf("further runs sent %d pieces:\n%s", puts, out)
	}
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}

	two := strings.Replace(strings.Replace(appliedOne, "name: old", "name: new", 1), "kind: PersistentVolumeClaim\nmetadata: {name: data", "kind: PersistentVolumeClaim\nmetadata: {name: more", 1)
	good("the next release", s.bundle(t, applied{number: 2, manifests: two, charts: chart}))
	there := c.kubectl(t, "", "get", "configmaps,pvc", "-n", "shop", "-o", "name")
	for name, want := range map[string]bool{"configmap/old\n": false, "configmap/new\n": true, "persistentvolumeclaim/data\n": true, "persistentvolumeclaim/more\n": true} {
		if strings.Contains(there, name) != want {
			t.Errorf("%q is there: %v:\n%s", name, !want, there)
		}
	}
	if now := c.kubectl(t, "", "get", "secret", "login", "-n", "billing", "-o", "jsonpath={.data.password}"); now != password {
		t.Error("the next release changed a password")
	}

	refused("an older release", admin, one, nil, "the cluster has release 2 of demo, this is release 1")
	refused("another release of that number", admin, s.bundle(t, applied{number: 2, manifests: appliedOne}), nil, "the cluster has another release 2 of demo")
	refused("all at once", admin, s.bundle(t, applied{number: 1, components: []string{"ingress", "monitoring"}, manifests: `
apiVersion: example.com/v1
kind: Gadget
metadata: {name: a}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: b, namespace: default}
spec: {storageClassName: golden, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`}), []string{"--port", "5003"}, "the cluster has release 2", "component ingress does not work here", "component monitoring does not work here", "--leave-out ingress",
		"serves no Gadget of example.com/v1", "none of that name", "listens on port 5002, not 5003")
	refused("what the API server does not take", admin, s.bundle(t, applied{number: 3, manifests: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: default}\nspec: {ports: [{port: 99999}]}\n"}), nil,
		"there is no namespace nowhere", "99999")

	c.kubectl(t, "", "create", "configmap", "theirs", "-n", "default", "--from-literal=a=b")
	conflict := s.bundle(t, applied{number: 3, manifests: appliedOne + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs, namespace: default}\ndata: {a: c}\n", charts: chart})
	refused("a field of others", admin, conflict, nil, "conflict", "--take-over")
	if out := good("a field that is taken over", conflict, "--take-over"); !strings.Contains(out, "BYPASSED by --take-over") {
		t.Errorf("the flag is not told:\n%s", out)
	}

	c.kubectl(t, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"looks"},"rules":[{"apiGroups":["","apps","storage.k8s.io"],"resources":["*"],"verbs":["get","list"]}]}`, "create", "-f", "-")
	c.kubectl(t, "", "create", "serviceaccount", "guest", "-n", "default")
	c.kubectl(t, "", "create", "clusterrolebinding", "guest", "--clusterrole=looks", "--serviceaccount=default:guest")
	four := s.bundle(t, applied{number: 4, manifests: appliedOne})
	refused("a user who may only look", c.account(t, "default", "guest"), four, nil, "the user may not:", "patch deployments.apps in namespace shop", "update services/proxy in namespace holdfast-applied")
	if code, out := s.run(t.Context(), c.kubeconfig(t, "nobody"), four); code == ExitDone {
		t.Errorf("nobody applied a release:\n%s", out)
	}
	record := c.kubectl(t, "", "get", "configmap", "release-demo", "-n", "holdfast-applied", "-o", "jsonpath={.data.record}")
	if !strings.Contains(record, `"release":3`) || !strings.Contains(record, `"healthy":true`) || !strings.Contains(record, `"--take-over"`) {
		t.Errorf("the record is %s", record)
	}
	if maps := strings.Count(c.kubectl(t, "", "get", "configmaps", "-n", "holdfast-applied", "-l", "holdfast.dev/program", "-o", "name"), "\n"); maps < 3 {
		t.Errorf("the program is in %d ConfigMaps", maps)
	}
}

// pulls has a client get an image as containerd does, from what is on a node's
// loopback.
func pulls(t *testing.T, c *cluster, image string) {
	t.Helper()
	var tokens struct{ Data struct{ Read []byte } }
	must(t, json.Unmarshal([]byte(c.kubectl(t, "", "get", "secret", "registry-tokens", "-n", "holdfast-applied", "-o", "json")), &tokens))
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { c.store.ServeHTTP(w, q) }))
	defer behind.Close()
	to, err := url.Parse(behind.URL)
	must(t, err)
	front := httptest.NewServer(registry.Forward(to, string(tokens.Data.Read), slog.New(slog.DiscardHandler)))
	defer front.Close()
	if !strings.HasPrefix(image, "127.0.0.1:5002/registry.example-5000/team/app:1@sha256:") {
		t.Fatalf("the pod's image is %s", image)
	}
	ref, err := name.NewDigest(strings.Replace(image, "127.0.0.1:5002", strings.TrimPrefix(front.URL, "http://"), 1))
	must(t, err)
	im, err := remote.Image(ref)
	must(t, err)
	must(t, validate.Image(im))
}
