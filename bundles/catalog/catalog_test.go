package catalog

import (
	"bytes"
	"fmt"
	"go/format"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast.dev/holdfast/airgap/store"
)

func TestEmbedded(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	digests := placeholders(all)
	for _, c := range all {
		files, err := Render(c, digests)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Render(c, digests)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range files {
			if !bytes.Equal(f.Data, again[i].Data) {
				t.Errorf("%s: %s is not the same twice", c.Name, f.Name)
			}
			for _, shell := range []string{"sh\n          - -c", "- sh\n", "- /bin/sh\n", "\"sh\", \"-c\""} {
				if bytes.Contains(f.Data, []byte(shell)) {
					t.Errorf("%s: %s calls a shell", c.Name, f.Name)
				}
			}
			images := bytes.Count(f.Data, []byte(" image: "))
			pinned := bytes.Count(f.Data, []byte("@"+digests["registry.k8s.io/pause:3.10.2"]))
			policies := bytes.Count(f.Data, []byte("imagePullPolicy: IfNotPresent"))
			if images != pinned || images != policies {
				t.Errorf("%s: %s has %d images, %d pinned, %d pulled only if not present", c.Name, f.Name, images, pinned, policies)
			}
		}
	}
}

func TestEveryRecipeIsUsedAndFormatted(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	recipes, err := Recipes()
	if err != nil {
		t.Fatal(err)
	}
	used := map[[2]string]bool{}
	for _, c := range all {
		for _, p := range c.HostPrograms {
			used[[2]string{p.Recipe, p.Program}] = true
		}
		for _, im := range c.Images {
			programs := im.Source.Go
			if im.Upstream.Add != nil {
				programs = slices.Concat(programs, im.Upstream.Add.Go)
			}
			for _, p := range programs {
				used[[2]string{p.Recipe, p.Program}] = true
			}
		}
	}
	for _, r := range recipes {
		for _, p := range r.Programs {
			if !used[[2]string{r.Name, p.Name}] {
				t.Errorf("nothing uses %s of %s", p.Name, r.Name)
			}
		}
		for name, b := range r.Files {
			if path.Ext(name) != ".go" {
				continue
			}
			if want, err := format.Source(b); err != nil || !bytes.Equal(b, want) {
				t.Errorf("%s of recipe %s is not formatted: %v", name, r.Name, err)
			}
		}
	}
}

func names(cs []Component) string {
	var out []string
	for _, c := range cs {
		out = append(out, c.Name)
	}
	return strings.Join(out, " ")
}

func TestOrder(t *testing.T) {
	got, err := Order([]string{"postgresql"})
	if want := "containerd kubernetes kube-proxy storage postgresql"; err != nil || names(got) != want {
		t.Errorf("order is %s, %v; want %s", names(got), err, want)
	}
	// The longest way comes first.
	got, err = Order([]string{"coredns", "postgresql"})
	if want := "containerd kubernetes kube-proxy storage postgresql coredns"; err != nil || names(got) != want {
		t.Errorf("order is %s, %v; want %s", names(got), err, want)
	}
	all := []Component{{Name: "a", Needs: []string{"b"}}, {Name: "b", Needs: []string{"c"}, After: []string{"a"}}, {Name: "d"}}
	for _, c := range []struct{ name, want string }{
		{"a", "a → b → a need each other"},
		{"a", `"c", which b needs`},
		{"x", `cannot find component "x"`},
	} {
		if _, err := order(all, []string{c.name}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("order of %s: error is %v, want %q", c.name, err, c.want)
		}
	}
	if got, err := order(all, []string{"d", "d"}); err != nil || names(got) != "d" {
		t.Errorf("twice the same: %s, %v", names(got), err)
	}
}

const web = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: web}
---
# A comment.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
spec:
  template:
    spec:
      initContainers:
        - name: first
          image: example.org/init:1
      containers:
        - image: example.org/web:2
          name: web
---
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: helper, namespace: web}
data: {key: value}
`

func webComponent() Component {
	return Component{Name: "web", Manifests: []File{{"web/manifests/web.yaml", []byte(web)}}}
}

func TestRender(t *testing.T) {
	digests := map[string]store.Digest{"example.org/init:1": store.FromBytes([]byte("1")),
		"example.org/web:2": store.FromBytes([]byte("2"))}
	files, err := Render(webComponent(), digests)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	var all string
	for _, f := range files {
		order = append(order, f.Name)
		all += string(f.Data)
	}
	if want := []string{"10-namespaces.yaml", "40-config.yaml", "50-workloads.yaml"}; !slices.Equal(order, want) {
		t.Errorf("files are %v, want %v", order, want)
	}
	for name, d := range digests {
		if !strings.Contains(all, "image: "+name+"@"+string(d)+"\n") {
			t.Errorf("%s is not pinned:\n%s", name, all)
		}
	}

	// All images that lack a digest, each with its line.
	_, err = Render(webComponent(), nil)
	for _, want := range []string{`web.yaml:14: "example.org/init:1"`, `web.yaml:16: "example.org/web:2"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %s in it", err, want)
		}
	}
}

// Fields of custom resources are pinned where they are declared, and images
// that are volumes everywhere.
func TestRenderFields(t *testing.T) {
	const text = `apiVersion: example.org/v1
kind: Tools
metadata: {name: a}
spec:
  main: example.org/tool:1
  more:
    - {from: example.org/tool:1}
    - {other: example.org/tool:1}
  named:
    x: {from: "example.org/tool:1@DIGEST"}
  pod:
    volumes: [{name: a, image: {reference: "example.org/tool:1"}}, {name: b, emptyDir: {}}]
`
	d := store.FromBytes([]byte("tool"))
	c := Component{Name: "a", Manifests: []File{{"a.yaml", []byte(strings.Replace(text, "DIGEST", string(d), 1))}}}
	for _, p := range []string{"spec.main", "spec.more[].from", "spec.named[].from", "spec.pod.volumes[].image.reference"} {
		c.ImageFields = append(c.ImageFields, ImageField{Group: "example.org", Kind: "Tools", Path: p})
	}
	digests := map[string]store.Digest{"example.org/tool:1": d, "example.org/tool:1@" + string(d): d}
	files, err := Render(c, digests)
	if err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(files[0].Data, []byte("example.org/tool:1@"+string(d)+"\n")); got != 4 {
		t.Errorf("%d images are pinned, want 4:\n%s", got, files[0].Data)
	}
	objects, err := Read(c)
	if err != nil {
		t.Fatal(err)
	}
	var uses []string
	for _, u := range objects[0].Images() {
		uses = append(uses, fmt.Sprintf("%s:%d", u.Path, u.Line))
	}
	if want := []string{"spec.pod.volumes[0].image.reference:12", "spec.main:5", "spec.more[0].from:7", "spec.named.x.from:10"}; !slices.Equal(uses, want) {
		t.Errorf("images are %q, want %q", uses, want)
	}

	c.ImageFields = append(c.ImageFields, ImageField{Group: "example.org", Kind: "Tools", Path: "spec.gone"}, ImageField{Kind: "Tools", Path: "spec.main"})
	_, err = Render(c, digests)
	for _, want := range []string{`no Tools of group "example.org" has an image in spec.gone`, `no Tools of group "" has`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %s in it", err, want)
		}
	}
}

// A list is its items, each with its own line; so is a list in a list.
func TestRenderLists(t *testing.T) {
	const text = `apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a, namespace: web}
  spec:
    containers:
    - name: x
      image: example.org/web:2
- apiVersion: v1
  kind: ConfigMapList
  items:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: web}}
- kind: Service
  metadata: {name: c}
---
apiVersion: v1
kind: List
items: []
`
	c := Component{Name: "web", Manifests: []File{{"web.yaml", []byte(text)}}}
	objects, err := Read(c)
	var got []string
	for _, o := range objects {
		line, _ := o.Line()
		got = append(got, fmt.Sprintf("%s %s:%d", o.Kind, o.Name, line))
	}
	if want := []string{"Namespace web:1", "Pod a:8", "ConfigMap b:18"}; !slices.Equal(got, want) {
		t.Errorf("objects are %q, want %q", got, want)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot use web.yaml:19: an object needs apiVersion") {
		t.Errorf("error is %v, want one about line 19", err)
	}
	if u := objects[1].Images(); len(u) != 1 || u[0].Line != 14 || u[0].Path != "spec.containers[0].image" {
		t.Errorf("images are %+v", u)
	}
	c.Manifests[0].Data = []byte(strings.Replace(text, "- kind: Service\n  metadata: {name: c}\n", "", 1))
	d := store.FromBytes([]byte("web"))
	files, err := Render(c, map[string]store.Digest{"example.org/web:2": d})
	if err != nil {
		t.Fatal(err)
	}
	var all string
	for _, f := range files {
		all += string(f.Data)
	}
	if strings.Contains(all, "List") || strings.Count(all, "\nkind: ") != 3 || !strings.Contains(all, "image: example.org/web:2@"+string(d)) {
		t.Errorf("rendered:\n%s", all)
	}
	if _, err := Render(c, nil); err == nil || !strings.Contains(err.Error(), `web.yaml:14: "example.org/web:2"`) {
		t.Errorf("error is %v, want line 14", err)
	}
}

func TestBadManifests(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		{"not YAML", "a: [", "web.yaml:1"},
		{"key twice", "---\napiVersion: v1\nkind: Namespace\nkind: Pod\nmetadata: {name: a}\n", "kind"},
		{"no kind", "apiVersion: v1\nmetadata: {name: a}\n", "needs apiVersion, kind"},
		{"a list", "- a\n", "cannot read web.yaml:1"},
		{"same object twice", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "twice"},
		{"no image", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n    - name: x\n", "web.yaml:6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Render(Component{Name: "web", Manifests: []File{{"web.yaml", []byte(c.yaml)}}}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzRender(f *testing.F) {
	f.Add([]byte(web))
	f.Add([]byte("---\n--- x\na: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := webComponent()
		c.Manifests[0].Data = b
		if _, err := Render(c, nil); err == nil && bytes.Contains(b, []byte("image")) {
			t.Skip() // words in comments and values
		}
	})
}

func TestBadComponents(t *testing.T) {
	good := "name: a\ndescription: A.\n"
	image := "images:\n  - name: example.org/a:1\n    source: {debs: [a], user: \"1:1\", cmd: [/a]}\n"
	for _, c := range []struct{ name, yaml, want string }{
		{"unknown field", good + "colour: red\n", "colour"},
		{"other name", "name: b\ndescription: A.\n", `its name is "b"`},
		{"no description", "name: a\n", "no description"},
		{"unknown need", good + "needs: [z]\n", "needs z"},
		{"unknown program", good + "hostPrograms: [{recipe: r, program: p, path: /p}]\n", "builds no program p"},
		{"relative path", good + "hostPrograms: [{recipe: r, program: p, path: p}]\n", "clean absolute path"},
		{"no tag", good + strings.Replace(image, ":1\n", "\n", 1), "registry/repository:tag"},
		{"named user", good + strings.Replace(image, "1:1", "web", 1), "not uid:gid"},
		{"no command", good + strings.Replace(image, ", cmd: [/a]", "", 1), "runs nothing"},
		{"no reason", good + strings.Replace(image, "user", "exclude: [{name: b}], user", 1), "name and reason"},
		{"bad mode", good + strings.Replace(image, "user", "dirs: [{path: /b, mode: \"7\"}], user", 1), "four octal digits"},
		{"image twice", good + image + strings.TrimPrefix(image, "images:\n"), "too"},
		{"short secret", good + "secrets: [{name: s, namespace: n, generate: {k: 8}}]\n", "16 to 1024"},
		{"readiness of another's", good + "ready: [{kind: Job, namespace: n, name: j}]\n", "not in its manifests"},
		{"yielding to nothing", good + "yields: [b]\n", "it yields to b, which is not in the catalog"},
		{"yielding to itself", good + "yields: [a]\n", "which stands on it"},
		{"upstream without a tag", good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/a}}]\n", "upstream reference"},
		{"upstream with no key", good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/a:1, key: x}}]\n", "cannot read public key"},
		{"upstream by nobody's word", good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/a:1, keyless: {identity: x}}}]\n", "counts only with its issuer"},
		{"upstream by a key and without", good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/a:1, key: x, keyless: {identity: x, issuer: y}}}]\n", "two ways to sign"},
		{"archives over upstream", good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/a:1, add: {debs: [a], maven: [{}], user: \"1:1\", cmd: [/a]}}}]\n", "no archives are put over"},
		{"nothing over upstream", good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/a:1, add: {cmd: [/a]}}}]\n", "holds nothing"},
		{"neither source nor upstream", good + "images: [{name: registry.example/a:1}]\n", "holds nothing"},
		{"a list of images", good + "imageFields: [{kind: A, path: 'spec.images[]'}]\n", "the last without []"},
		{"a field that is nowhere", good + "imageFields: [{kind: A, path: spec.image}]\n", "no A of group"},
		{"host without a reason", good + "allow: {hosts: [{name: a.example}]}\n", "needs name and reason"},
		{"readiness of nothing", good + "ready: [{kind: Service, namespace: n, name: s}]\n", "cannot wait for Service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(fstest.MapFS{"components/a/component.yaml": {Data: []byte(c.yaml)}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
	if _, err := load(fstest.MapFS{"components/a/component.yaml": {Data: []byte(good + image)}}); err != nil {
		t.Errorf("the good one: %v", err)
	}
	all, err := load(fstest.MapFS{"components/a/component.yaml": {Data: []byte(good + "images: [{name: registry.example/a:1, upstream: {ref: registry.example/b:2}}]\n")}})
	if err != nil || !all[0].HasUpstream() || all[0].HasSource() {
		t.Errorf("upstream alone: %+v, %v", all, err)
	}
}

func TestBadRecipes(t *testing.T) {
	good := map[string]string{"recipe.mod": "module a\n", "recipe.yaml": "programs: [{name: a, package: .}]\n"}
	for _, c := range []struct{ name, file, text, want string }{
		{"no list", "recipe.yaml", "", "cannot load recipe a"},
		{"unknown field", "recipe.yaml", "program: []\n", "program"},
		{"no module", "recipe.mod", "", "no go.mod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := maps.Clone(good)
			files[c.file] = c.text
			fsys := fstest.MapFS{"components/a/component.yaml": {Data: []byte("name: a\ndescription: A.\n")}}
			for name, s := range files {
				if s != "" {
					fsys["components/a/recipes/a/"+name] = &fstest.MapFile{Data: []byte(s), Mode: fs.ModePerm}
				}
			}
			if _, err := load(fsys); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}
