package boot_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/qemu-tests/longtest"
)

const guestImage = "registry.example/guest:1"

// guestProgram runs for good, and says who it is.
const guestProgram = `package main

import (
	"fmt"
	"time"
)

func main() {
	fmt.Println("applied by kubeconfig")
	time.Sleep(1 << 62)
}
`

const guestManifests = `apiVersion: v1
kind: Namespace
metadata: {name: guest, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: CONFIG, namespace: guest}
data: {a: b}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: guest, namespace: guest}
spec:
  selector: {matchLabels: {app: guest}}
  template:
    metadata: {labels: {app: guest}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: guest
          image: IMAGE
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// TestApplyKubeconfig takes the cluster of the README's site for one that
// somebody else installed, and applies a release of manifests and an image to
// it: the registry starts, the pod runs, a second run does nothing, the next
// release's leftovers go, and all of it is there after a reboot. The site's own
// node stays healthy throughout.
func TestApplyKubeconfig(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("takes a quarter of an hour; HOLDFAST_LONG=1 runs it")
	}
	site := builtSite(t)
	u := upForUpdates(t, site, 4096)
	kubectl := func(args ...string) string {
		t.Helper()
		return run(t, u.dir, append([]string{"lab", "kubectl"}, args...)...).stdout
	}
	kubectl("get", "nodes") // writes the kubeconfig
	apply := func(args ...string) printed {
		t.Helper()
		start := time.Now()
		p := run(t, u.dir, append([]string{"apply", "--kubeconfig", filepath.Join(u.dir, "out", "lab", "kubeconfig")}, args...)...)
		t.Logf("apply %v, %.0f s:\n%s", args, time.Since(start).Seconds(), p.both)
		return p
	}
	one := guestRelease(t, site, 1, "old")

	apply("--dry-run", one)
	if got := kubectl("get", "namespaces", "-o", "name"); strings.Contains(got, "holdfast-applied") || strings.Contains(got, "guest") {
		t.Errorf("a dry run made namespaces:\n%s", got)
	}
	apply(one)
	if got := kubectl("logs", "-n", "guest", "deployment/guest"); !strings.Contains(got, "applied by kubeconfig") {
		t.Errorf("the pod says %q", got)
	}
	if got := kubectl("get", "pods", "-n", "guest", "-o", "jsonpath={.items[*].spec.containers[*].image}"); !strings.HasPrefix(got, "127.0.0.1:5002/registry.example/guest:1@sha256:") {
		t.Errorf("the pod's image is %q", got)
	}
	u.isHealthy(t)

	pods := u.pods(t)
	if p := apply("--json", one); !strings.Contains(p.stdout, `"sent":0`) {
		t.Errorf("a second run sent blobs:\n%s", p.stdout)
	}
	if got := u.pods(t); got != pods {
		t.Errorf("a second run leaves\n%s\nof\n%s", got, pods)
	}

	apply(guestRelease(t, site, 2, "new"))
	got := kubectl("get", "configmaps", "-n", "guest", "-o", "name")
	if strings.Contains(got, "configmap/old") || !strings.Contains(got, "configmap/new") {
		t.Errorf("after the next release there are\n%s", got)
	}
	if p, err := try(t, u.dir, "apply", "--kubeconfig", filepath.Join(u.dir, "out", "lab", "kubeconfig"), one); err == nil || !strings.Contains(p.both, "the cluster has release 2") {
		t.Errorf("an older release: %v\n%s", err, p.both)
	}

	run(t, u.dir, "lab", "reboot", "--wait")
	u.isHealthy(t)
	kubectl("rollout", "status", "-n", "holdfast-applied", "statefulset/registry", "--timeout=10m")
	kubectl("rollout", "status", "-n", "holdfast-applied", "daemonset/forward", "--timeout=10m")
	kubectl("rollout", "status", "-n", "guest", "deployment/guest", "--timeout=10m")
	if p := apply("--json", guestRelease(t, site, 2, "new")); !strings.Contains(p.stdout, `"sent":0`) {
		t.Errorf("the registry lost blobs in a reboot:\n%s", p.stdout)
	}
}

// guestRelease makes a release of another site, guest, which the keys of site
// sign: its operating system is that of site and does not matter.
func guestRelease(t *testing.T, site string, number uint64, config string) (bundle string) {
	t.Helper()
	v := openBundle(t, site)
	s, err := store.Open(cacheDir(t))
	must(t, err)
	put := func(b []byte) store.Content {
		c, err := s.WriteBytes(b)
		must(t, err)
		return c
	}
	putJSON := func(v any) store.Content {
		b, err := json.Marshal(v)
		must(t, err)
		return put(b)
	}
	image := guestManifest(t, put, putJSON)
	manifests := strings.NewReplacer("CONFIG", config, "IMAGE", guestImage+"@"+string(image.Digest)).Replace(guestManifests)
	facts := v.Facts()
	facts.Name, facts.Release = "guest", number
	in := bundles.ReleaseInput{
		Facts: facts, OS: v.OSFiles(),
		Images:     []bundles.Image{{Name: guestImage, Component: "site", MediaType: "application/vnd.oci.image.manifest.v1+json", Manifest: image}},
		Manifests:  []bundles.ComponentManifests{{Component: "site", Files: []bundles.File{{Title: "50-workloads.yaml", Content: put([]byte(manifests))}}}},
		Site:       putJSON(map[string]any{"name": "guest", "release": number}),
		Node:       putJSON(map[string]any{"name": "guest", "release": number, "components": []any{map[string]any{"name": "kubernetes"}, map[string]any{"name": "site"}}}),
		SBOM:       put(blobOf(t, v, bundles.PartSBOM, bundles.SBOMJSON)),
		Provenance: put(blobOf(t, v, bundles.PartProvenance, bundles.ProvenanceJSON)),
	}
	return signAndPack(t, s, in, site, fmt.Sprint("guest-", number))
}

// guestManifest puts an image of guestProgram into the store.
func guestManifest(t *testing.T, put func([]byte) store.Content, putJSON func(any) store.Content) store.Content {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(guestProgram), 0o644))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", filepath.Join(dir, "guest"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "guest"))
	must(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	must(t, w.WriteHeader(&tar.Header{Name: "guest", Mode: 0o755, Size: int64(len(program)), Format: tar.FormatUSTAR}))
	_, err = w.Write(program)
	must(t, err)
	must(t, w.Close())
	l := put(layer.Bytes())
	config := putJSON(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/guest"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []store.Digest{l.Digest}}})
	descriptor := func(mediaType string, c store.Content) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": c.Digest, "size": c.Size}
	}
	return putJSON(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{descriptor("application/vnd.oci.image.layer.v1.tar", l)}})
}
