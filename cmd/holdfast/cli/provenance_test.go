package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/provenance"
	"holdfast.dev/holdfast/image/inventory"
)

// Titles are those that a release allows, and differ as names do.
func TestStatementTitle(t *testing.T) {
	long := "registry.example/" + strings.Repeat("a", 400)
	seen := map[string]string{}
	for _, name := range []string{"registry.example/a_b:1", "registry.example/a/b:1", "registry.example/a/b_1", long + ":1", long + ":2"} {
		title := statementTitle(name)
		if other, ok := seen[title]; ok {
			t.Errorf("%s and %s share %s", name, other, title)
		}
		seen[title] = name
		if len(title) > 128 || strings.ContainsAny(title, "/:@") {
			t.Errorf("%s: %s", name, title)
		}
	}
	if got := statementTitle("registry.k8s.io/pause:3.10.2"); got != "image-registry.k8s.io_pause_3.10.2-5e7aff91bd62e19e.json" {
		t.Errorf("got %s", got)
	}
}

// A statement that does not say what the release has is found out, whatever
// the difference.
func TestSubjectsAreCompared(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	want := []provenance.Resource{{Name: "root.erofs", Digest: provenance.SHA256(a)}, {Name: "node.json", Digest: provenance.SHA256(b)}}
	if err := sameSubjects(want, want); err != nil {
		t.Error(err)
	}
	got := []provenance.Resource{{Name: "root.erofs", Digest: provenance.SHA256(b)}, {Name: "other", Digest: provenance.SHA256(b)}}
	err := sameSubjects(got, want)
	for _, text := range []string{"its subject root.erofs has sha256:" + b + ", the release sha256:" + a, "its subject other is not in the release", "it says nothing of node.json"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q in %v", text, err)
		}
	}
	more := []provenance.Resource{want[1], {Name: "root.erofs", Digest: map[string]string{"sha256": a, "sha512": b}}}
	if err := sameSubjects(more, want); err == nil {
		t.Error("a digest that nobody checked passes")
	}
}

func TestPackageURLs(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for _, x := range []struct{ got, want string }{
		{moduleURL("std", "go1.26.8"), "pkg:golang/stdlib@1.26.8"},
		{moduleURL("github.com/docker/cli", "v29.7.2+incompatible"), "pkg:golang/github.com/docker/cli@v29.7.2%2Bincompatible"},
		{mavenURL("org.keycloak:keycloak-quarkus-dist:26.8.0:tar.gz"), "pkg:maven/org.keycloak/keycloak-quarkus-dist@26.8.0?type=tar.gz"},
		{imageURL("r.example:5000/a/app", bundles.Image{}.Manifest.Digest), "pkg:oci/app?repository_url=r.example%3A5000%2Fa%2Fapp"},
		{imageURL("r.example/app:1@"+digest, "sha256:1"), "pkg:oci/app@sha256%3A1?repository_url=r.example%2Fapp&tag=1"},
	} {
		if x.got != x.want {
			t.Errorf("got %s, want %s", x.got, x.want)
		}
	}
	ps := contentsOf(inventory.Contents{Packages: []inventory.Package{{Kind: inventory.APK, Name: "musl", Version: "1.2.5-r0", Arch: "x86_64"}}})
	if len(ps) != 1 || ps[0].PURL != "" {
		t.Errorf("a URL without a distribution: %+v", ps)
	}
	ps = contentsOf(inventory.Contents{OS: inventory.OS{ID: "alpine", Version: "3.20.1"}, Packages: []inventory.Package{{Kind: inventory.APK, Name: "musl", Version: "1.2.5-r0", Arch: "x86_64"}}})
	if len(ps) != 1 || ps[0].PURL != "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1" {
		t.Errorf("got %+v", ps)
	}
	ps = contentsOf(inventory.Contents{OS: inventory.OS{ID: "rhel", Version: "9.7"}, Packages: []inventory.Package{{Kind: inventory.RPM, Name: "shadow-utils", Version: "2:4.9-12.el9", Arch: "x86_64"}}})
	if len(ps) != 1 || ps[0].PURL != "pkg:rpm/redhat/shadow-utils@4.9-12.el9?arch=x86_64&distro=rhel-9.7&epoch=2" || ps[0].Version != "2:4.9-12.el9" {
		t.Errorf("got %+v", ps)
	}
}

// The script in docs/provenance.md is the one that provenance.txtar runs.
func TestDocumentedCheck(t *testing.T) {
	a, err := txtar.ParseFile("testdata/script/provenance.txtar")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../../docs/provenance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Files {
		if f.Name == "check.sh" && strings.Contains(string(doc), "```\n"+string(f.Data)+"```\n") {
			return
		}
	}
	t.Error("docs/provenance.md does not have check.sh of provenance.txtar")
}
