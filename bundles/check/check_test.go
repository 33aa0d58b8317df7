package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
)

// Every component of the catalog passes, with nothing but the images of the
// catalog.
func TestCatalogIsClosed(t *testing.T) {
	all, err := catalog.Load()
	if err != nil {
		t.Fatal(err)
	}
	site := Site{Domain: "demo.example", Images: map[string]Digests{}, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	var objects []catalog.Object
	for _, c := range (catalog.Site{Domain: site.Domain, Address: "192.0.2.7"}).Of(all) {
		for _, im := range c.Images {
			site.Images[im.Name] = Digests{Composed: true}
		}
		for _, a := range c.Allow.Hosts {
			site.Allow = append(site.Allow, Allowed{Allowance: a, Component: c.Name})
		}
		composed, err := Composed(c)
		if err != nil {
			t.Fatal(err)
		}
		read, err := catalog.Read(c)
		if err != nil {
			t.Fatal(err)
		}
		objects = slices.Concat(objects, read, composed)
	}
	r := Run(site, objects)
	for _, f := range r.Findings {
		t.Error(f)
	}
	if r.Images < 8 { // as many workloads
		t.Errorf("%d places name an image, want 8 or more", r.Images)
	}
}

var (
	locked = Digests{Manifest: store.FromBytes([]byte("manifest")), Index: store.FromBytes([]byte("index"))}
	known  = map[string]Digests{
		"registry.example/team/app:1": locked,
		"docker.io/library/tool:2":    {Composed: true},
		"registry.example/team/new:1": {}, // not locked yet
	}
)

func read(t *testing.T, text string, fields ...catalog.ImageField) []catalog.Object {
	t.Helper()
	objects, err := catalog.Read(catalog.Component{Name: "site", ImageFields: fields, Manifests: []catalog.File{{Name: "manifests/a.yaml", Data: []byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// places writes findings as LINE KIND VALUE.
func places(fs []Finding) string {
	var out []string
	for _, f := range fs {
		out = append(out, fmt.Sprintf("%d %s %s", f.Line, f.Kind, f.Value))
	}
	return strings.Join(out, "\n")
}

// All that is wrong with a manifest is found at once, on its line, once.
func TestRun(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		{"a workload", `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
spec:
  template:
    spec:
      initContainers:
        - name: first
          image: registry.example/team/first:1
      containers:
        - name: web
          image: registry.example/team/app:1
          args:
            - --helper=registry.example/team/helper:2
            - --tool=docker.io/library/tool:2
            - --endpoint
            - collector.example.org:4317
            - "--smtp-host=mail.example.org"
          env:
            - {name: API_URL, value: "https://user:pw@api.example.org/v1?x=http://other.example.org"}
            - {name: DB_HOST, value: db.example.org}
            - {name: HOME_PAGE, value: db.example.org}
            - {name: SIDECAR_IMAGE, value: "busybox:1.36"}
            - name: RESOLVER
              value: 9.9.9.9
        - name: bare
      volumes:
        - name: models
          image: {reference: "registry.example/models/a:1"}
`, `9 image registry.example/team/first:1
14 image registry.example/team/helper:2
17 host collector.example.org
18 host mail.example.org
20 host api.example.org
20 host other.example.org
21 host db.example.org
23 image busybox:1.36
25 host 9.9.9.9
26 image 
29 image registry.example/models/a:1`},
		{"a ConfigMap", `apiVersion: v1
kind: ConfigMap
metadata: {name: a, annotations: {"example.org/see": "https://docs.example.org"}}
data:
  config.yaml: |
    # https://comment.example.org
    image: registry.example/team/gone:1

    server: db.example.org
    forward . 8.8.8.8 10.0.0.1
    exporters: [http://a.example.org:4318, "http://b.example.org"]
  quoted: "a: 1\nurl: https://c.example.org"
  plain: registry.example/team/gone:2
  version: 8.8.4.4
`, `3 host docs.example.org
7 image registry.example/team/gone:1
9 host db.example.org
10 host 8.8.8.8
11 host a.example.org
11 host b.example.org
12 host c.example.org
13 image registry.example/team/gone:2`},
		{"what leads outside by its kind", `apiVersion: v1
kind: Service
metadata: {name: out, namespace: web}
spec: {type: ExternalName, externalName: db.example.org}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: web}
spec:
  rules: [{host: web.demo.example}, {host: web.example.org}]
  tls: [{hosts: [web.demo.example, tls.example.org]}]
---
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  dnsConfig: {nameservers: [10.0.2.3, 1.1.1.1]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a}
endpoints: [{addresses: [203.0.113.9]}]
`, `4 host db.example.org
10 host web.example.org
11 host tls.example.org
17 host 1.1.1.1
22 host 203.0.113.9`},
		{"what stays inside", `apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: 10.96.0.20}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: data}
data:
  urls: |
    http://db http://db.data:5432 postgres://u@db-0.db/x http://db-0.db.data http://db.data.svc http://x.y.svc.cluster.local.:80
    https://demo.example https://a.b.demo.example:8443/x http://localhost:80 http://127.0.0.1 http://[::1]:1 http://0.0.0.0:1
    http://192.168.1.1 http://10.244.0.1 http://198.51.100.4:1 file:///etc/x unix:///run/x.sock http://$(HOST):80 http://${H}/x http://%s/x
    https://$(NAME).demo.example/ in-addr.arpa:1053 Foo::bar 12:30 a.b:c http://{{ .Values.host }}/
`, ``},
		{"half a name", `apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: data}
data: {a: "https://$(SHARD).example.org", b: "https://*.example.com", c: "http://db.other"}
`, `4 host *.example.com
4 host *.example.org
4 host db.other`},
		{"digests", `apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
    - {name: a, image: "registry.example/team/app:1@INDEX", args: ["--a=registry.example/team/app:1@DIGEST"]}
    - {name: b, image: "registry.example/team/app:1@DIGEST", args: ["--a=registry.example/team/app@DIGEST"]}
    - {name: c, image: "registry.example/team/new:1@OTHER", args: ["--a=registry.example/team/new:1@OTHER"]}
    - {name: d, image: "registry.example/team/app:1@OTHER"}
    - {name: e, image: "docker.io/library/tool:2@OTHER"}
    - {name: f, image: "registry.example/team/app@DIGEST"}
    - name: g
      image: docker.io/library/tool:2
      args:
        - registry.example/team/app:1@INDEX
        - registry.example/team/app:1@OTHER
        - docker.io/library/tool:2@OTHER
        - registry.example/team/app@OTHER
`, `9 image registry.example/team/app:1@OTHER
10 image docker.io/library/tool:2@OTHER
11 image registry.example/team/app@DIGEST
15 image registry.example/team/app:1@INDEX
16 image registry.example/team/app:1@OTHER
17 image docker.io/library/tool:2@OTHER
18 image registry.example/team/app@OTHER`},
		{"a custom resource", `apiVersion: example.org/v1
kind: Database
metadata: {name: a}
spec:
  image: postgres:17
  toolImage: registry.example/team/tool
  backup:
    image: {repository: registry.example/team/backup, tag: "1"}
  exporter: {registry: registry.example, repository: team/app, tag: "1"}
  template: {spec: {containers: [{name: x, image: "registry.example/x:1"}]}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.example.org}
spec:
  conversion: {webhook: {clientConfig: {url: "https://hook.example.org/"}}}
  versions: [{name: v1, schema: {openAPIV3Schema: {description: "See https://example.org."}}}]
`, `5 image postgres:17
6 image registry.example/team/tool
8 image registry.example/team/backup:1
10 image registry.example/x:1
16 host hook.example.org`},
	} {
		t.Run(c.name, func(t *testing.T) {
			digests := strings.NewReplacer("DIGEST", string(locked.Manifest), "INDEX", string(locked.Index), "OTHER", string(store.FromBytes([]byte("other"))))
			site := Site{Images: known, Domain: "demo.example", Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
			r := Run(site, read(t, digests.Replace(c.yaml)))
			if got, want := places(r.Findings), digests.Replace(c.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// A declared field is pinned by Render, so that any name in it must be one of
// the release.
func TestDeclaredFields(t *testing.T) {
	const text = `apiVersion: example.org/v1
kind: Tools
metadata: {name: a}
spec:
  main: tool
  more:
    - {from: docker.io/library/tool:2}
    - {from: other}
`
	fields := []catalog.ImageField{{Group: "example.org", Kind: "Tools", Path: "spec.main"}, {Group: "example.org", Kind: "Tools", Path: "spec.more[].from"}}
	r := Run(Site{Images: known}, read(t, text, fields...))
	if got, want := places(r.Findings), "5 image tool\n8 image other"; got != want || r.Images != 1 {
		t.Errorf("got %d and\n%s\nwant 1 and\n%s", r.Images, got, want)
	}
	if f := r.Findings[0]; f.String() != `manifests/a.yaml:5: Tools a spec.main: image "tool" is not in the release
hint: list it, by its full name with registry and tag, under images in site.yaml; the release has docker.io/library/tool:2` {
		t.Errorf("it reads\n%s", f)
	}
}

func TestAllowances(t *testing.T) {
	const text = `apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  a: http://a.example.org/x http://b.c.example.org http://example.org
  b: http://203.0.113.7:80 http://a.example.com
`
	allow := func(names ...string) (out []Allowed) {
		for i, n := range names {
			out = append(out, Allowed{Allowance: catalog.Allowance{Name: n, Reason: "because of " + n}, File: "site.yaml", Line: i + 1})
		}
		return out
	}
	site := Site{Allow: allow("a.example.org", "*.example.org", "203.0.113.7", "never.example.org")}
	site.Allow = append(site.Allow, Allowed{Allowance: catalog.Allowance{Name: "a.example.com"}, Component: "other"})
	r := Run(site, read(t, text))
	want := "0 allowance a.example.com\n5 host example.org\n6 host a.example.com\n4 allowance never.example.org"
	if got := places(r.Findings); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var reasons []string
	for _, u := range r.Allowed {
		reasons = append(reasons, u.Host+" "+u.Reason)
	}
	if want := []string{"a.example.org because of a.example.org", "b.c.example.org because of *.example.org", "203.0.113.7 because of 203.0.113.7"}; !slices.Equal(reasons, want) {
		t.Errorf("allowed are %q, want %q", reasons, want)
	}
}

// What is said of one host in many places is said once.
func TestTexts(t *testing.T) {
	var fs []Finding
	for i := range 8 {
		fs = append(fs, Finding{Kind: Host, File: "a.yaml", Line: i + 1, Object: "Pod a", Field: "x", Value: "example.org", Message: "outside", Hint: "do not"})
	}
	fs = append(fs, Finding{Kind: Image, File: "a.yaml", Line: 9, Object: "Pod a\x1b[2J", Message: "no image"}, Finding{Kind: Image, File: "a.yaml", Line: 10, Message: "no image"})
	want := []string{"a.yaml:1: Pod a x: outside\nand at a.yaml:2, a.yaml:3, a.yaml:4, a.yaml:5, a.yaml:6, and 2 more (--json has all)\nhint: do not", "a.yaml:9: Pod a\ufffd[2J: no image", "a.yaml:10: no image"}
	if got := Texts(fs); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
