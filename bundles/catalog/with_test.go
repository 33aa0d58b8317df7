package catalog

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast.dev/holdfast/airgap/store"
)

const withStore = `apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: web}
data: {keep: in the store}
---
apiVersion: v1
kind: Service
metadata: {name: more, namespace: web}
`

func withSite() (fstest.MapFS, map[string]store.Digest) {
	const image = "images:\n  - name: example.org/NAME:1\n    source: {debs: [a], user: \"1:1\", cmd: [/a]}\n"
	digests := map[string]store.Digest{}
	fsys := fstest.MapFS{}
	for name, text := range map[string]string{
		"web":   "with:\n  - component: store\n    after: true\n    uses: [{component: store, offer: bucket, secret: bucket}]\n",
		"store": "offers: [{name: bucket, hook: bucket.yaml, generate: {key: 32}}]\n",
	} {
		fsys["components/"+name+"/component.yaml"] = &fstest.MapFile{Data: []byte("name: " + name + "\ndescription: A.\nnamespace: " + name + "\n" +
			text + strings.ReplaceAll(image, "NAME", name))}
		digests["example.org/"+name+":1"] = store.FromBytes([]byte(name))
	}
	fsys["components/web/manifests/web.yaml"] = &fstest.MapFile{Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: web}\ndata: {keep: here, a: b}\n")}
	fsys["components/web/with/store/web.yaml"] = &fstest.MapFile{Data: []byte(withStore)}
	fsys["components/store/hooks/bucket.yaml"] = &fstest.MapFile{Data: []byte(strings.NewReplacer("database-", "bucket-", "namespace: db", "namespace: store", "/db:1", "/store:1").Replace(hook))}
	return fsys, digests
}

// What a component has with another one is there only where that one is, and
// the other one's Job for it waits for nobody and keeps nobody waiting.
func TestWith(t *testing.T) {
	fsys, digests := withSite()
	all, err := load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	rendered := func(names ...string) (order []string, files map[string]string, first int) {
		t.Helper()
		cs, err := inOrder(all, names)
		if err != nil {
			t.Fatal(err)
		}
		files = map[string]string{}
		for _, c := range cs {
			order = append(order, c.Name)
			fs, err := Render(c, digests)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fs {
				files[c.Name] += string(f.Data)
			}
			f, err := First(c, digests)
			if err != nil {
				t.Fatal(err)
			}
			first += len(f)
			for _, s := range c.Secrets {
				files[c.Name] += "secret " + s.Namespace + "/" + s.Name + "\n"
			}
		}
		return order, files, first
	}
	if _, files, _ := rendered("web"); !strings.Contains(files["web"], "keep: here") || strings.Contains(files["web"], "more") {
		t.Errorf("alone it is\n%s", files["web"])
	}
	order, files, first := rendered("web", "store")
	for _, want := range []string{"keep: in the store", "a: b", "name: more", "secret web/bucket", "secret store/bucket-web"} {
		if !strings.Contains(files["web"], want) {
			t.Errorf("no %q in\n%s", want, files["web"])
		}
	}
	if !strings.Contains(files["store"], "name: bucket-web-") || strings.Contains(files["web"], "Job") || first != 0 {
		t.Errorf("the Job is not the other one's, or is waited for (%d):\n%s", first, files["store"])
	}
	if !slices.Equal(order, []string{"store", "web"}) {
		t.Errorf("the order is %v", order)
	}
	if c := all[slices.IndexFunc(all, func(c Component) bool { return c.Name == "web" })]; bytes.Contains(c.Manifests[0].Data, []byte("store")) {
		t.Error("what was loaded is changed")
	}
}

func inOrder(all []Component, names []string) ([]Component, error) {
	cs, err := order(all, names)
	if err != nil {
		return nil, err
	}
	return Wire(cs)
}

func TestBadWith(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"nothing of it", "components/web/with/other/a.yaml", withStore, "nothing of that in component.yaml"},
		{"nobody", "components/web/component.yaml", "with: [{component: nobody}]\n", "with nobody: it is not in the catalog"},
		{"nothing otherwise", "components/web/component.yaml", "with: [{component: web}]\n", "with web: nothing is otherwise"},
		{"who need not be there", "components/web/component.yaml", "with:\n  - component: web\n    uses: [{component: store, offer: bucket, secret: b}]\n", "uses bucket of store, which need not be there"},
		{"no YAML", "components/web/with/store/b.yaml", "a: [", "with/store/b.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys, _ := withSite()
			text := c.text
			if strings.HasSuffix(c.file, "component.yaml") {
				delete(fsys, "components/web/with/store/web.yaml")
				text = "name: web\ndescription: A.\nnamespace: web\n" + text
			}
			fsys[c.file] = &fstest.MapFile{Data: []byte(text)}
			if _, err := load(fsys); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}
