package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/overlays"
)

// imageBuilder has a lock with one image of the site, all of it in the store.
func imageBuilder(t *testing.T) builder {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) store.Content {
		c, err := s.WriteBytes([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	config, layer := put(`{"os":"linux"}`), put("a layer")
	manifest := put(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"` +
		string(config.Digest) + `","size":14},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"` + string(layer.Digest) + `","size":7}]}`)
	return builder{
		app:   &app{Host: Host{Stdout: io.Discard, Stderr: io.Discard, Now: time.Now}},
		store: s,
		lock: airgap.Lock{Images: []airgap.Image{{Name: "registry.example/team/app:1", Origin: "registry", Platform: "linux/amd64",
			MediaType: "application/vnd.docker.distribution.manifest.v2+json", Content: manifest,
			Index: store.FromBytes([]byte("index")), Bytes: 21, Signature: "not asked for"}}},
	}
}

// An image of the site becomes a part of the release, and manifests may call
// it by its name, with its digest or that of its index; no other digest passes.
func TestImagesOfTheSite(t *testing.T) {
	b := imageBuilder(t)
	im := b.lock.Images[0]
	images, err := b.images(context.Background(), nil)
	if err != nil || len(images) != 1 || images[0] != (bundles.Image{Name: im.Name, Component: "site", MediaType: im.MediaType, Manifest: im.Content}) {
		t.Fatalf("got %+v, %v", images, err)
	}
	pod := func(image string) []overlays.Manifest {
		return []overlays.Manifest{{Name: "a.yaml", Data: []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: " + image + "\n")}}
	}
	for _, as := range []string{im.Name, im.Name + "@" + string(im.Digest), im.Name + "@" + string(im.Index)} {
		b.in.site.Manifests = pod(as)
		ms, err := b.manifests(b.digests(images))
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.store.ReadFile(ms[0].Files[0].Content, 1<<20)
		if err != nil || !bytes.Contains(y, []byte("image: "+im.Name+"@"+string(im.Digest)+"\n")) {
			t.Errorf("%s became\n%s%v", as, y, err)
		}
	}
	for _, as := range []string{"registry.example/team/app:2", im.Name + "@" + string(store.FromBytes(nil))} {
		b.in.site.Manifests = pod(as)
		if _, err := b.manifests(b.digests(images)); err == nil || !strings.Contains(err.Error(), "under images of the component or of site.yaml") {
			t.Errorf("%s: got %v", as, err)
		}
	}
	if c, err := b.nodeConfig(images, b.digests(images)); err != nil || len(c.Images) != 1 || c.Images[0].Ref() != im.Name+"@"+string(im.Digest) {
		t.Errorf("node.json has %+v", c.Images)
	}
	if rs := b.lockedResources(); len(rs) != 1 || rs[0].URI != "pkg:oci/app@sha256%3A"+im.Digest.Hex()+"?repository_url=registry.example%2Fteam%2Fapp&tag=1" || rs[0].Digest["sha256"] != im.Digest.Hex() {
		t.Errorf("the provenance has %+v", rs)
	}
	if missing := airgap.MissingImages(b.lock, b.store); len(missing) != 0 {
		t.Errorf("missing: %v", missing)
	}
	if err := os.Remove(filepath.Join(b.store.Dir(), "blobs", "sha256", store.FromBytes([]byte("a layer")).Hex())); err != nil {
		t.Fatal(err)
	}
	if missing := airgap.MissingImages(b.lock, b.store); len(missing) != 1 {
		t.Errorf("missing: %v", missing)
	}
}

// A component of origin upstream asks for its project's images, and composes
// none; one without them is refused.
func TestUpstreamComponent(t *testing.T) {
	c := catalog.Component{Name: "app", Images: []catalog.Image{{Name: "docker.io/library/app:1", Upstream: catalog.Upstream{Ref: "registry.example/app:1"}}}}
	var in inputs
	if err := in.askUpstream(c); err != nil {
		t.Fatal(err)
	}
	if w := in.request.Images; len(w) != 1 || w[0].Name != "docker.io/library/app:1" || w[0].Ref.Name() != "registry.example/app:1" || w[0].Component != "app" {
		t.Errorf("asked for %+v", w)
	}
	site := func(origin string) overlays.Site {
		return overlays.Site{Kubernetes: overlays.Kubernetes{Engine: "kubeadm"}, Components: []overlays.Component{{Name: "app", Origin: origin}}}
	}
	if err := supported(site("upstream"), overlays.Rules{}, []catalog.Component{c}); err != nil {
		t.Error(err)
	}
	if err := supported(site("source"), overlays.Rules{}, []catalog.Component{c}); err == nil || !strings.Contains(err.Error(), "hint: set origin: upstream") {
		t.Errorf("got %v", err)
	}
	c.Images[0].Upstream = catalog.Upstream{}
	if err := supported(site("upstream"), overlays.Rules{}, []catalog.Component{c}); err == nil || !strings.Contains(err.Error(), "hint: set origin: source") {
		t.Errorf("got %v", err)
	}
	// With the lock's image in place, nothing is composed for the component.
	b := imageBuilder(t)
	c.Images[0].Name = b.lock.Images[0].Name
	b.lock.Images[0].Component = "app"
	b.in.components = []catalog.Component{c}
	images, err := b.images(context.Background(), nil)
	if err != nil || len(images) != 1 || images[0].Component != "app" {
		t.Errorf("got %+v, %v", images, err)
	}
}

// What a component puts over its project's image is a layer of its own, and the
// project's image is among what the composed one was made of.
func TestOverUpstream(t *testing.T) {
	b := imageBuilder(t)
	put := func(text string) store.Content {
		c, err := b.store.WriteBytes([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	below, program := put("a layer"), put("a program")
	config := put(`{"os":"linux","config":{"User":"0","Entrypoint":["/app"],"Cmd":["run"]},"rootfs":{"type":"layers","diff_ids":["` + string(below.Digest) + `"]}}`)
	im := &b.lock.Images[0]
	im.Content = put(fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":%q,"size":%d}]}`,
		config.Digest, config.Size, below.Digest, below.Size))
	im.Component = "app"
	b.lock.Epoch = 1_700_000_000
	b.in.components = []catalog.Component{{Name: "app", Images: []catalog.Image{{Name: im.Name, Upstream: catalog.Upstream{Ref: im.Name, Add: &catalog.Source{
		Go: []catalog.GoProgram{{Recipe: "start", Program: "start", Path: "/usr/bin/start"}}, Entrypoint: []string{"/usr/bin/start", "/app"}, User: "1000:1000",
	}}}}}}
	images, err := b.images(t.Context(), map[string]store.Content{"start/start": program})
	if err != nil || len(images) != 1 || images[0].Component != "app" || images[0].Manifest == im.Content {
		t.Fatalf("got %+v, %v", images, err)
	}
	layers, says, err := oci.Base(b.store, images[0].Manifest)
	if err != nil || len(layers) != 2 || layers[0].Content != below {
		t.Errorf("layers %+v, %v", layers, err)
	}
	if strings.Join(says.Entrypoint, " ") != "/usr/bin/start /app" || len(says.Cmd) != 0 || says.User != "1000:1000" {
		t.Errorf("it runs %+v", says)
	}
	if d := b.digests(images); d[im.Name] != images[0].Manifest.Digest {
		t.Errorf("manifests call it %v", d)
	}
	rs, err := b.resources(ingredients{image: images[0], over: *im})
	if err != nil || len(rs) != 1 || rs[0].Digest["sha256"] != im.Digest.Hex() {
		t.Errorf("it was made of %+v, %v", rs, err)
	}
}
