package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/overlays"
)

// chartSite is a site whose chart has hooks on both sides, a namespace and a
// secret of its own, and a kustomization behind it.
func chartSite(t *testing.T) (builder, inputs) {
	t.Helper()
	dir := t.TempDir()
	job := func(name, hook string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: " + name + ", annotations: {helm.sh/hook: " + hook +
			"}}\nspec: {template: {spec: {containers: [{name: a, image: 'registry.example/team/app:1'}]}}}\n---\n"
	}
	for name, text := range map[string]string{
		"charts/web/Chart.yaml":        "apiVersion: v2\nname: web\nversion: 1.0.0\n",
		"charts/web/crds/a.yaml":       "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.org}\nspec: {group: example.org, scope: Namespaced, names: {kind: Thing, plural: things}, versions: [{name: v1}]}\n",
		"charts/web/templates/a.yaml":  "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: a, image: 'registry.example/team/app:1'}]}}}\n---\napiVersion: example.org/v1\nkind: Thing\nmetadata: {name: one}\nspec: {image: 'registry.example/team/app:1'}\n",
		"charts/web/templates/b.yaml":  job("first", "pre-install") + job("last", "post-install"),
		"kustomize/kustomization.yaml": "resources: [a.yaml]\n",
		"kustomize/a.yaml":             "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: web}\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := imageBuilder(t)
	in := inputs{components: []catalog.Component{{Name: "coredns"}, {Name: "storage"}}, site: overlays.Site{
		Kubernetes:  overlays.Kubernetes{Engine: "kubeadm", Version: "v1.36.3"},
		ImageFields: []overlays.ImageField{{Group: "example.org", Kind: "Thing", Path: "spec.image"}},
		Charts: []overlays.Chart{{Name: "web", Namespace: "web", Path: "charts/web",
			Secrets: []overlays.ChartSecret{{Name: "admin", Generate: map[string]int{"password": 32}}}}},
		Kustomizations: []overlays.Kustomization{{Name: "extra", Path: "kustomize"}},
	}}
	if err := in.askCharts(dir); err != nil {
		t.Fatal(err)
	}
	return b, in
}

// A chart becomes components behind the platform's: what node.json says of them,
// and what they apply, by digest.
func TestChartsInRelease(t *testing.T) {
	b, in := chartSite(t)
	if n := len(in.request.Files); n != 6 {
		t.Errorf("%d files are inputs, want 6", n)
	}
	in, err := b.app.render(in, airgap.Lock{})
	if err != nil || len(in.broken) > 0 {
		t.Fatal(err, in.broken)
	}
	b.in = in
	digest := store.FromBytes([]byte("image"))
	digests := map[string]store.Digest{"registry.example/team/app:1": digest}
	config, err := b.nodeConfig(nil, digests)
	if err != nil {
		t.Fatal(err)
	}
	var got []node.Component
	for _, c := range config.Components[2:] {
		for i, r := range c.Ready { // of hooks, with their digests
			if r.Kind == "Job" {
				c.Ready[i].Name = r.Name[:strings.LastIndex(r.Name, "-")]
			}
		}
		got = append(got, c)
	}
	platform := []string{"coredns", "storage"}
	want := []node.Component{
		{Name: "web-before", Namespace: "web", Needs: platform,
			Secrets: []node.Secret{{Name: "admin", Namespace: "web", Generate: map[string]int{"password": 32}}},
			Ready:   []node.Ready{{Kind: "Job", Namespace: "web", Name: "first"}}},
		{Name: "web", Namespace: "web", Needs: append(platform, "web-before"), After: []string{"web-before"},
			Ready: []node.Ready{{Kind: "Deployment", Namespace: "web", Name: "web"}}},
		{Name: "web-after", Namespace: "web", Needs: platform, After: []string{"web"}, Ready: []node.Ready{{Kind: "Job", Namespace: "web", Name: "last"}}},
		{Name: "extra", Needs: platform, After: []string{"web-after"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	ms, err := b.manifests(digests)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, m := range ms {
		for _, f := range m.Files {
			data, err := b.store.ReadFile(f.Content, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			files[m.Component+"/"+f.Title] = string(data)
		}
	}
	pinned := "image: registry.example/team/app:1@" + string(digest)
	for name, text := range map[string]string{
		"web-before/20-definitions.yaml": "kind: CustomResourceDefinition",
		"web-before/50-workloads.yaml":   pinned,
		"web/50-workloads.yaml":          pinned,
		"web/60-custom.yaml":             pinned,
		"web-after/50-workloads.yaml":    pinned,
		"extra/40-config.yaml":           "namespace: web",
	} {
		if !strings.Contains(files[name], text) {
			t.Errorf("no %q in %s: %q", text, name, files[name])
		}
	}
	if len(files) != 6 {
		t.Errorf("%d files: %v", len(files), files)
	}
}
