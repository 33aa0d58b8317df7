package onto

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-registry/registry"
)

func TestPort(t *testing.T) {
	if got := fmt.Sprintf("127.0.0.1:%d", DefaultPort); got != node.BroughtRegistry {
		t.Errorf("nodes of holdfast ask %s, the registry is at %s", node.BroughtRegistry, got)
	}
}

// TestRewrite changes images wherever they stand, and refuses what it cannot.
func TestRewrite(t *testing.T) {
	d := store.FromBytes([]byte("app"))
	ref, other := "registry.example/app:1@"+string(d), "registry.example/other:1@"+string(store.FromBytes(nil))
	want := registry.Ref(5002, "registry.example/app:1", d)
	run := func(doc string) (*unstructured.Unstructured, error) {
		objects, err := apply.Parse([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		r := rewriter{port: 5002, images: map[store.Digest]bundles.Image{d: {Name: "registry.example/app:1", Manifest: store.Content{Digest: d}}}, used: map[store.Digest]bool{}}
		r.object("site", objects[0])
		return objects[0], errors.Join(r.errs...)
	}
	o, err := run(fmt.Sprintf(`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {
		"initContainers": [{"image": %q}], "containers": [{"image": %[1]q, "args": ["--image", %[1]q, "plain"]}], "volumes": [{"image": {"reference": %[1]q}}]}}, "deep": {"x": [{"y": %[1]q}]}}}`, ref))
	if err != nil {
		t.Fatal(err)
	}
	b, err := o.MarshalJSON()
	if err != nil || strings.Count(string(b), want) != 5 || strings.Contains(string(b), `"`+ref) {
		t.Errorf("%s, %v", b, err)
	}
	for doc, says := range map[string]string{
		fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"image": %q}]}}`, other):                     "is not in the release",
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"image": "busybox"}]}}`:                                  "is not in the release",
		fmt.Sprintf(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"values": "image: %s\nmore: x\n"}}`, ref):              "inside a longer text",
		fmt.Sprintf(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"values": "image: %s\nmore: x\n"}}`, other):            "",
		`{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "no image"}], "image": "a text"}}`: "",
	} {
		if _, err := run(doc); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", doc, err, says)
		}
	}
}

func TestStartImage(t *testing.T) {
	on := func(images ...corev1.ContainerImage) (n corev1.Node) {
		n.Status.Images = images
		return n
	}
	im := func(size int64, names ...string) corev1.ContainerImage {
		return corev1.ContainerImage{SizeBytes: size, Names: names}
	}
	pause := im(1, "pause:1", "pause@sha256:aa")
	nodes := []corev1.Node{on(pause, im(9, "big:1"), im(0, "127.0.0.1:5002/x@sha256:bb")), on(im(9, "big:1"), pause, im(0, "only-here:1"), im(0, "127.0.0.1:5002/x@sha256:bb"))}
	for _, c := range []struct {
		nodes            []corev1.Node
		asked, was, want string
	}{
		{nodes, "", "", "pause@sha256:aa"},
		{nodes, "", "big:1", "big:1"},
		{nodes, "", "gone:1", "pause@sha256:aa"},
		{nodes, "big:1", "pause:1", "big:1"},
		{nodes, "only-here:1", "", ""},
		{append(nodes, on()), "", "", ""},
	} {
		got, err := startImage(c.nodes, c.asked, c.was)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("asked %q, was %q: %q, %v, want %q", c.asked, c.was, got, err, c.want)
		}
	}
}

// TestProgram is in pieces that ConfigMaps take, and whole together.
func TestProgram(t *testing.T) {
	registry := bytes.Repeat([]byte("0123456789"), 250_000)
	p := programOf(registry)
	if len(p.parts) != 4 || !bytes.Equal(slices.Concat(p.parts[1:]...), registry) {
		t.Errorf("%d parts", len(p.parts))
	}
	for i, b := range p.parts {
		if len(b)+len(p.key(i)) > 1<<20 {
			t.Errorf("part %d has %d bytes", i, len(b))
		}
	}
	if q := programOf(append(registry, 'x')); q.configMap(1) == p.configMap(1) {
		t.Error("another program has the same name")
	}
	plan := Plan{Registry: Registry{Port: 5002, Image: `a"b`, GiB: 10}}
	objects, err := plan.registryObjects(p, "http://10.43.0.9:5000")
	if err != nil || len(objects) != 5 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	containers, _, err := unstructured.NestedSlice(objects[4].Object, "spec", "template", "spec", "containers")
	if err != nil {
		t.Fatal(err)
	}
	c := containers[0].(map[string]any)
	if got := fmt.Sprint(c["command"], c["args"], c["image"]); got != `[/program/joiner holdfast-registry /program/part-01 /program/part-02 /program/part-03] [-- forward --to http://10.43.0.9:5000 --listen 127.0.0.1:5002 --tokens /tokens]a"b` {
		t.Error(got)
	}
}

func TestOlder(t *testing.T) {
	is := Plan{site: "demo", Release: bundles.Facts{Release: 5, Zone: "official"}, Index: store.Content{Digest: "sha256:5"}}
	for _, c := range []struct {
		was  Record
		says string
	}{
		{Record{}, ""},
		{Record{Release: 4, Index: "sha256:4", Zone: "official"}, ""},
		{Record{Release: 5, Index: "sha256:5", Zone: "official"}, ""},
		{Record{Release: 5, Index: "sha256:6", Zone: "official"}, "another release 5"},
		{Record{Release: 6, Index: "sha256:6", Zone: "official"}, "has release 6"},
		{Record{Release: 4, Index: "sha256:4", Zone: "secret"}, "for zone secret"},
	} {
		is.Was = c.was
		if err := is.older(); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.was, err, c.says)
		}
	}
}
