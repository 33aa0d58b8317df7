package catalog

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast.dev/holdfast/airgap/store"
)

const upstreamComponent = `name: web
description: A.
namespace: web
images:
  - name: example.org/web:1
    source: {debs: [a], user: "1:1", cmd: [/a]}
    upstream:
      # A comment of it.
      ref: registry.example/web:1
      add:
        debs: [more]

        user: "1:1"
        cmd: [/b]
  - name: example.org/other:1
    source: {debs: [a], user: "1:1", cmd: [/a]}
    upstream: {ref: "registry.example/other:1"}
# The rest.
needs: []
`

func upstreamSite() fstest.MapFS {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: web}\nspec:\n  containers:\n    - {name: web, image: \"example.org/web:1\", args: [a]}\n"
	const patch = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: web}\nspec:\n  containers:\n    - {name: web, args: [b, c]}\n---\n" +
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more, namespace: web}\n"
	fsys := fstest.MapFS{}
	for name, text := range map[string]string{"component.yaml": upstreamComponent, "manifests/web.yaml": pod, "upstream/web.yaml": patch} {
		fsys["components/web/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// What is otherwise with a project's images is so with that origin alone.
func TestFromUpstream(t *testing.T) {
	all, err := load(upstreamSite())
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]store.Digest{"example.org/web:1": store.FromBytes(nil)}
	for _, upstream := range []bool{true, false} {
		cs, err := FromUpstream(all, func(string) bool { return upstream })
		if err != nil {
			t.Fatal(err)
		}
		files, err := Render(cs[0], digests)
		if err != nil {
			t.Fatal(err)
		}
		var text string
		for _, f := range files {
			text += string(f.Data)
		}
		if over := cs[0].Images; (over[0].Source.Debs[0] == "more") != upstream || (len(over[1].Source.Debs) == 0) != upstream {
			t.Errorf("upstream %t: composed is %+v", upstream, over)
		}
		if got := strings.Contains(text, "- b\n    - c\n") && strings.Contains(text, "name: more"); got != upstream || strings.Contains(text, "- a\n") == upstream {
			t.Errorf("upstream %t:\n%s", upstream, text)
		}
	}
	if bytes.Contains(all[0].Manifests[0].Data, []byte("b, c")) || len(all[0].Images[1].Source.Debs) == 0 {
		t.Error("what was loaded is changed")
	}
}

func TestBadUpstream(t *testing.T) {
	for _, c := range []struct{ name, file, old, new, want string }{
		{"no image", "component.yaml", `    upstream: {ref: "registry.example/other:1"}` + "\n", "", "does not say for each image"},
		{"not YAML", "upstream/web.yaml", "kind: Pod", "kind: [", "upstream/web.yaml"},
		{"an image of nobody", "upstream/web.yaml", "args: [b, c]", "image: example.org/nobody:1", `from upstream: cannot pin the image`},
		{"a container of nothing", "upstream/web.yaml", "name: web, args", "name: side, args", "from upstream: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := upstreamSite()
			f := fsys["components/web/"+c.file]
			if !bytes.Contains(f.Data, []byte(c.old)) {
				t.Fatalf("no %q", c.old)
			}
			f.Data = bytes.Replace(f.Data, []byte(c.old), []byte(c.new), 1)
			if _, err := load(fsys); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}

// What a project publishes is nothing to a component that is composed: its
// digest stays, and with it the lock.
func TestDigestOfOrigin(t *testing.T) {
	of := func(fsys fstest.MapFS, origin string) store.Digest {
		t.Helper()
		d, err := digest(fsys, "web", origin)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	plain := upstreamSite()
	delete(plain, "components/web/upstream/web.yaml")
	text := strings.Replace(upstreamComponent, `    upstream: {ref: "registry.example/other:1"}`+"\n", "", 1)
	text = text[:strings.Index(text, "    upstream:")] + text[strings.Index(text, "  - name: example.org/other"):]
	plain["components/web/component.yaml"].Data = []byte(text)
	if of(plain, "source") != of(upstreamSite(), "source") {
		t.Error("source has another digest where upstream is known")
	}
	if of(upstreamSite(), "source") == of(upstreamSite(), "upstream") {
		t.Error("both origins have one digest")
	}
	for _, file := range []string{"component.yaml", "manifests/web.yaml", "upstream/web.yaml"} {
		for _, origin := range []string{"source", "upstream"} {
			changed := upstreamSite()
			f := changed["components/web/"+file]
			f.Data = slices.Concat(f.Data, []byte("# More.\n"))
			same := origin == "source" && file == "upstream/web.yaml"
			if (of(changed, origin) == of(upstreamSite(), origin)) != same {
				t.Errorf("%s changed: the digest for %s stays %t", file, origin, !same)
			}
		}
	}
	moved := upstreamSite()
	f := moved["components/web/component.yaml"]
	f.Data = bytes.Replace(f.Data, []byte("registry.example/web:1"), []byte("registry.example/web:2"), 1)
	if of(moved, "source") != of(upstreamSite(), "source") || of(moved, "upstream") == of(upstreamSite(), "upstream") {
		t.Error("another image of the project")
	}
}

// Lines that cannot be told apart for certain are kept.
func TestWithoutUpstream(t *testing.T) {
	odd := "name: web\ndescription: |\n  upstream:\n    is what this is about\n"
	if got := string(withoutUpstream([]byte(odd))); got != odd {
		t.Errorf("cut to\n%s", got)
	}
	if got := string(withoutUpstream([]byte(upstreamComponent))); strings.Contains(got, "registry.example") || strings.Contains(got, "A comment of it") || !strings.Contains(got, "# The rest.\n") {
		t.Errorf("cut to\n%s", got)
	}
}

// Everything that the profile reference names has its project's images.
func TestHasUpstream(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"certificates", "collector", "coredns", "ingress", "keycloak", "loki", "minio", "monitoring", "postgresql", "registry"} {
		c := byName(all)[name]
		if len(c.Images) == 0 || !c.HasUpstream() {
			t.Errorf("%s has none", name)
		}
		for _, im := range c.Images {
			if im.Upstream.Ref != "" && im.Upstream.Add == nil && len(c.Withs) == 0 && strings.HasPrefix(im.Name, "holdfast.dev/") && len(c.OfUpstream) == 0 {
				t.Errorf("%s runs what its project runs by itself", im.Name)
			}
		}
	}
}
