package bundles_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/sbom"
)

// putSBOM lists a package libc of that version in the root, and one in web.
func putSBOM(t *testing.T, s *store.Store, libc, web string) store.Content {
	t.Helper()
	var b bytes.Buffer
	if err := sbom.Write(&b, sbom.Input{
		Name: "demo", Namespace: sbom.Namespace("x"), Created: time.Unix(1700000000, 0),
		Packages: []sbom.Package{
			{Kind: sbom.File, Name: "root.erofs", Contains: []sbom.Package{
				{Kind: sbom.Deb, Name: "libc6", Version: libc}, {Kind: sbom.Deb, Name: "bash", Version: "5"}}},
			{Kind: sbom.Image, Name: "registry.example/web:v2", Contains: []sbom.Package{
				{Kind: sbom.Deb, Name: "libc6", Version: libc}, {Kind: sbom.Golang, Name: "example/web", Version: web}}},
			{Kind: sbom.Image, Name: "registry.example/db:v1", Contains: []sbom.Package{{Kind: sbom.Deb, Name: "libc6", Version: "1"}}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	return put(t, s, b.String())
}

func TestDiff(t *testing.T) {
	s := openStore(t)
	p := pair{trust: trustFor(t, "official", mine)}
	in := input(t, s)
	in.SBOM = putSBOM(t, s, "1", "v2.0")
	rel := compose(t, s, in)
	base := p.open(t, pack(t, s, rel, signWith(t, rel, mine)))
	in = later(t, s)
	in.SBOM = putSBOM(t, s, "2", "v2.1")
	in.OS[0].Content = put(t, s, strings.Repeat("new root ", 1000))
	in.Images[1].Name = "registry.example/db:v1.1" // the same image under another tag
	in.Manifests[0].Files = in.Manifests[0].Files[1:]
	in.Manifests = append(in.Manifests, bundles.ComponentManifests{Component: "new", Files: []bundles.File{{Title: "a.yaml", Content: put(t, s, "kind: New\n")}}})
	rel = compose(t, s, in)
	next := p.open(t, pack(t, s, rel, signWith(t, rel, mine)))
	d, err := bundles.DiffPacked(t.Context(), next, base, nil)
	if err != nil {
		t.Fatal(err)
	}
	if size := int64(len(packSince(t, next, base))); d.Size != size || d.Whole != int64(len(packSince(t, next, nil))) || d.Since.Release != 7 {
		t.Errorf("priced at %d of %d bytes since %s, the difference has %d", d.Size, d.Whole, d.Since, size)
	}
	var got []string
	total, last := int64(0), d.Size
	for _, it := range d.Items {
		if it.Bytes > last {
			t.Errorf("%s is dearer than what is before it", it.Name)
		}
		total, last = total+it.Bytes, it.Bytes
		if it.Kind != bundles.PartForm && it.Kind != bundles.PartSBOM {
			got = append(got, fmt.Sprintf("%s %s %s%s %d", it.Change, it.Kind, it.From, it.Name, it.Bytes))
		}
	}
	if total != d.Size {
		t.Errorf("the items are of %d bytes together, the file of %d", total, d.Size)
	}
	want := []string{
		"changed os root.erofs 9000",
		"changed site node.json 27",
		"changed manifests web.yaml 23",
		"added manifests a.yaml 10",
		"changed image registry.example/web:v2 7",
		"changed image registry.example/db:v1.0registry.example/db:v1.1 0",
		"removed manifests 00-namespace.yaml 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := fmt.Sprint(d.Packages); got != "[{libc6 1 2 [registry.example/web root.erofs] 9007} {example/web v2.0 v2.1 [registry.example/web] 7}]" {
		t.Errorf("packages %s", got)
	}
}
