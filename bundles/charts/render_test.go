package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"slices"
	"strings"
	"testing"
)

// files reads "-- NAME --" parts.
func parts(text string) []File {
	var out []File
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			out = append(out, File{Name: strings.TrimSuffix(strings.TrimSpace(name), " --")})
			continue
		}
		if n := len(out); n > 0 {
			out[n-1].Data = append(out[n-1].Data, line...)
		}
	}
	return out
}

const chartYAML = `-- Chart.yaml --
apiVersion: v2
name: web
version: 1.0.0
`

func render(t *testing.T, text string, change func(*Release)) (Rendered, error) {
	t.Helper()
	files, err := Unpack(parts(text))
	if err != nil {
		return Rendered{}, err
	}
	c, err := Load(files)
	if err != nil {
		return Rendered{}, err
	}
	r := Release{Name: "site", Namespace: "ns", Kubernetes: "v1.36.3"}
	if change != nil {
		change(&r)
	}
	return c.Render(r)
}

// names lists KIND NAMESPACE/NAME of a stage's objects.
func names(s Stage) string {
	var out []string
	for _, f := range s.Files {
		w := &rendering{}
		for _, o := range w.read(f.Name, string(f.Data)) {
			out = append(out, o.kind()+" "+text(o.meta()["namespace"])+"/"+o.name())
		}
	}
	return strings.Join(out, ", ")
}

const good = chartYAML + `dependencies:
- {name: db, version: "*", condition: db.enabled}
-- values.yaml --
image: registry.example/web:1
db: {enabled: true, size: 1}
-- values.schema.json --
{"type":"object","properties":{"image":{"type":"string"}}}
-- crds/thing.yaml --
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.org}
spec:
  group: example.org
  scope: Cluster
  names: {kind: Thing, plural: things}
  versions: [{name: v1, served: true, storage: true}]
-- templates/_helpers.tpl --
{{- define "web.name" -}}{{ .Release.Name }}-web{{- end -}}
-- templates/NOTES.txt --
{{ randAlphaNum 8 }}
-- templates/all.yaml --
{{- if .Capabilities.APIVersions.Has "example.org/v1/Thing" }}
apiVersion: example.org/v1
kind: Thing
metadata: {name: one}
{{- end }}
---
# an empty document
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ include "web.name" . }}}
spec:
  template: {spec: {containers: [{name: web, image: {{ .Values.image }}}]}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: other}, data: {v: "{{ .Capabilities.KubeVersion.Version }}"}}
-- templates/hooks.yaml --
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {helm.sh/hook: "pre-install,pre-upgrade"}}
spec: {ttlSecondsAfterFinished: 10, template: {spec: {containers: [{name: m, image: registry.example/migrate:1}]}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: migrate, annotations: {helm.sh/hook: "pre-install"}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: seed, annotations: {helm.sh/hook: "post-install"}}
---
apiVersion: v1
kind: Pod
metadata: {name: try, annotations: {helm.sh/hook: test}}
-- charts/db/Chart.yaml --
apiVersion: v2
name: db
version: 1.0.0
-- charts/db/values.schema.json --
{"type":"object","properties":{"size":{"type":"integer"}}}
-- charts/db/templates/db.yaml --
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
`

func TestRender(t *testing.T) {
	out, err := render(t, good, nil)
	if err != nil {
		t.Fatal(err)
	}
	suffix := func(s string) string { // of a name with a digest
		return s[:strings.LastIndex(s, "-")]
	}
	before := strings.Split(names(out.Before), ", ")
	if len(before) != 3 || before[0] != "CustomResourceDefinition /things.example.org" || suffix(before[1]) != "Job ns/migrate" || before[2] != "ServiceAccount ns/migrate" {
		t.Errorf("before: %q", before)
	}
	if got := names(out.Objects); got != "StatefulSet ns/db, Thing /one, Deployment ns/site-web, ConfigMap other/a" {
		t.Errorf("objects: %s", got)
	}
	if got := names(out.After); suffix(got) != "Job ns/seed" {
		t.Errorf("after: %s", got)
	}
	if !slices.Equal(out.Skipped, []string{"Pod try (test)"}) {
		t.Errorf("skipped: %q", out.Skipped)
	}
	if len(out.Before.Ready) != 1 || len(out.Objects.Ready) != 2 || len(out.After.Ready) != 1 {
		t.Errorf("ready: %v, %v, %v", out.Before.Ready, out.Objects.Ready, out.After.Ready)
	}
	for _, f := range out.Before.Files {
		if bytes.Contains(f.Data, []byte("ttlSeconds")) {
			t.Error("the hook would vanish, and run at each boot")
		}
	}
	again, err := render(t, good, nil)
	if err != nil || names(again.Before) != names(out.Before) {
		t.Errorf("another name for the same hook: %s, %v", names(again.Before), err)
	}
	other, err := render(t, strings.Replace(good, "migrate:1", "migrate:2", 1), nil)
	if err != nil || names(other.Before) == names(out.Before) {
		t.Errorf("a changed hook has the same name: %s, %v", names(other.Before), err)
	}
	without, err := render(t, good, func(r *Release) { r.Values = []File{{"v.yaml", []byte("db: {enabled: false}")}} })
	if err != nil || strings.Contains(names(without.Objects), "StatefulSet") {
		t.Errorf("a dependency that is off is rendered: %v", err)
	}
}

// What is refused names template and line, and the value to set.
func TestRefused(t *testing.T) {
	tpl := func(text string) string { return chartYAML + "-- templates/a.yaml --\n" + text + "\n" }
	const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n"
	sub := func(text string) string {
		return chartYAML + "-- charts/db/Chart.yaml --\napiVersion: v2\nname: db\nversion: 1.0.0\n-- charts/db/templates/s.yaml --\n" + text + "\n"
	}
	for _, c := range []struct {
		name, chart string
		values      string
		want        []string
	}{
		{"a random password", tpl(configMap + `  p: {{ .Values.password | default (randAlphaNum 16) | quote }}`), "",
			[]string{"template web/templates/a.yaml gives something else each time, first in line 5", "it calls randAlphaNum at web/templates/a.yaml:5 (a random text)", "hint: set password under values"}},
		{"in a helper of a dependency", sub(configMap+`{{ include "db.secret" . }}`) + "-- charts/db/templates/_h.tpl --\n{{ define \"db.secret\" }}{{ if not .Values.auth.existing }}  p: {{ uuidv4 }}{{ end }}{{ end }}\n-- charts/db/values.yaml --\nauth: {}\n", "",
			[]string{"template web/charts/db/templates/s.yaml", "uuidv4 at web/charts/db/templates/_h.tpl:1", "set db.auth.existing under values"}},
		{"a certificate", tpl(configMap + `{{ $ca := genCA "x" 10 }}{{ $c := genSignedCert "y" nil (list "y") 10 $ca }}  c: {{ $c.Cert | b64enc }}`), "",
			[]string{"genCA at web/templates/a.yaml:5 (a new key), genSignedCert at"}},
		{"the day", tpl(configMap + `  d: {{ now | date "2006-01-02" | quote }}`), "", []string{"now at web/templates/a.yaml:5 (the time)"}},
		{"one of two numbers", tpl(configMap + `  d: "{{ randInt 0 2 }}"`), "", []string{"randInt at"}},
		{"lookup in what is not reached", tpl(configMap + `  a: b` + "\n" + `{{ if .Values.never }}{{ lookup "v1" "Secret" "a" "b" }}{{ end }}`), "",
			[]string{"template web/templates/a.yaml:6 calls lookup, which asks a running cluster", "the template goes by never"}},
		{"lookup in a helper that nothing uses", tpl(configMap+"  a: b") + "-- templates/_h.tpl --\n{{ define \"x\" }}\n{{ (lookup \"v1\" \"Secret\" \"\" \"\").items }}{{ end }}\n", "",
			[]string{"template web/templates/_h.tpl:2 calls lookup"}},
		{"lookup by tpl", tpl(configMap + `  a: {{ tpl .Values.text . }}`), "text: '{{ lookup \"v1\" \"Secret\" \"\" \"\" }}'", []string{"web/templates/a.yaml:5", "lookup asks a running cluster"}},
		{"a name server", tpl(configMap + `  a: {{ getHostByName "example.org" }}`), "", []string{"calls getHostByName, which asks the name servers"}},
		{"a schema", good, "image: 3\ndb: {size: many}", []string{"chart web does not take image: got number, want string", "chart db does not take db.size: got string, want integer"}},
		{"a schema elsewhere", chartYAML + "-- values.schema.json --\n{\"$ref\":\"https://schema.example/x.json\"}\n", "", []string{"https://schema.example/x.json, and nothing is fetched"}},
		{"a missing dependency", chartYAML + "dependencies: [{name: db, version: 1.0.0}]\n", "", []string{"needs the chart db, and does not hold it", "helm dependency build"}},
		{"another Kubernetes", chartYAML + "kubeVersion: '>=1.99'\n", "", []string{"the chart wants Kubernetes >=1.99, and the site has v1.36.3"}},
		{"a library", strings.Replace(chartYAML, "version:", "type: library\nversion:", 1), "", []string{"web is a library"}},
		{"a secret", tpl("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {p: x}"), "", []string{"Secret a: a Secret with values", "secrets in site.yaml"}},
		{"a kind that nobody serves", tpl("apiVersion: policy/v1beta1\nkind: PodSecurityPolicy\nmetadata: {name: a}"), "", []string{"PodSecurityPolicy a: policy/v1beta1 is not served by Kubernetes v1.36.3"}},
		{"no object", tpl("hello"), "", []string{"template web/templates/a.yaml renders to what is no object, in document 1"}},
		{"a required value", tpl(`{{ required "give it a name" .Values.name }}`), "", []string{"web/templates/a.yaml:1", "give it a name"}},
		{"a hook for upgrades", tpl("apiVersion: batch/v1\nkind: Job\nmetadata: {name: a, annotations: {helm.sh/hook: pre-upgrade}}"), "", []string{"a hook for upgrades alone (pre-upgrade)"}},
		{"hooks in an order", tpl("apiVersion: batch/v1\nkind: Job\nmetadata: {name: a, annotations: {helm.sh/hook: pre-install}}\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: b, annotations: {helm.sh/hook: pre-install, helm.sh/hook-weight: \"5\"}}"), "",
			[]string{"a hook that must run after another one (helm.sh/hook-weight 5)"}},
		{"a long list", tpl(configMap + `  a: {{ until 100000000 | len }}`), "", []string{"more than 100000 numbers"}},
		{"a template that is none", tpl(`{{ if }}`), "", []string{"cannot parse template: template: web/templates/a.yaml:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := render(t, c.chart, func(r *Release) {
				if c.values != "" {
					r.Values = []File{{"v.yaml", []byte(c.values)}}
				}
			})
			if err == nil {
				t.Fatal("it was rendered")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in\n%v", w, err)
				}
			}
		})
	}
}

// A value that takes the place of chance makes a chart the same each time, though
// the function is called all the same.
func TestSet(t *testing.T) {
	chart := chartYAML + "-- templates/a.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {p: {{ .Values.p | default (randAlphaNum 16) }}, k: {{ keys .Values.m | join \"-\" }}}\n"
	out, err := render(t, chart, func(r *Release) {
		r.Values = []File{{"v.yaml", []byte("p: x\nm: {c: 1, a: 1, b: 1, e: 1, d: 1}")}, {"w.yaml", []byte("p: why")}}
	})
	if err != nil || len(out.Objects.Files) != 1 || !bytes.Contains(out.Objects.Files[0].Data, []byte("k: a-b-c-d-e\n  p: why")) {
		t.Errorf("got %s, %v", out.Objects.Files, err)
	}
}

type entry struct {
	name string
	kind byte
	data []byte
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.data)), Typeflag: e.kind, Linkname: "x"}
		if e.kind == 0 {
			h.Typeflag, h.Linkname = tar.TypeReg, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	inner := pack(t, entry{"db/Chart.yaml", 0, []byte("a")}, entry{"db/templates/x.yaml", 0, []byte("b")})
	files, err := ReadArchive(bytes.NewReader(pack(t, entry{"web", tar.TypeDir, nil}, entry{"web/Chart.yaml", 0, []byte("c")}, entry{"web/charts/db-1.tgz", 0, inner})))
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	if err != nil || !slices.Equal(names, []string{"Chart.yaml", "charts/db-1/Chart.yaml", "charts/db-1/templates/x.yaml"}) {
		t.Fatalf("got %q, %v", names, err)
	}
	bomb := inner
	for range 20 {
		bomb = pack(t, entry{"a/charts/a.tgz", 0, bomb})
	}
	var many []entry
	for i := range maxFiles + 1 {
		many = append(many, entry{"web/" + strings.Repeat("x", 1+i%100) + string(rune('a'+i/100%26)) + strings.Repeat("y", i/2600), 0, nil})
	}
	for name, b := range map[string][]byte{
		"more than the 5000 files":       pack(t, many...),
		"neither a file nor a directory": pack(t, entry{"web/a", tar.TypeSymlink, nil}),
		"is not in the chart's folder":   pack(t, entry{"web/../../etc/passwd", 0, nil}),
		"two folders":                    pack(t, entry{"web/a", 0, nil}, entry{"etc/a", 0, nil}),
		"is there twice":                 pack(t, entry{"web/a", 0, nil}, entry{"web/a", 0, nil}),
		"it is empty":                    pack(t),
		"more than 8 deep":               bomb,
		"more than the 8388608 allowed":  pack(t, entry{"web/a", 0, make([]byte, maxFile+1)}),
		"is not a .tgz":                  []byte("hello"),
		"unexpected EOF":                 inner[:len(inner)-20],
	} {
		if _, err := ReadArchive(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}

// Whatever is in an archive, reading and rendering it neither panics nor gives
// a name outside.
func FuzzArchive(f *testing.F) {
	var entries []entry
	for _, p := range parts(good) {
		entries = append(entries, entry{"web/" + p.Name, 0, p.Data})
	}
	f.Add(pack(f, entries...))
	f.Add(pack(f, entry{"web/charts/db-1.tgz", 0, pack(f, entries...)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := ReadArchive(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, file := range files {
			if strings.HasPrefix(file.Name, "/") || slices.Contains(strings.Split(file.Name, "/"), "..") {
				t.Errorf("a file %q", file.Name)
			}
		}
		if c, err := Load(files); err == nil {
			_, _ = c.Render(Release{Name: "a", Namespace: "a", Kubernetes: "v1.36.3"})
		}
	})
}
