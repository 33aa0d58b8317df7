package sbom_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles/sbom"
)

func document(t testing.TB) sbom.Document {
	t.Helper()
	d, err := sbom.New(example())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func spdx(t testing.TB, d sbom.Document) string {
	t.Helper()
	var b bytes.Buffer
	if err := d.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What is written is read again, byte by byte.
func TestParse(t *testing.T) {
	in := example()
	in.Packages[3].Comment = "its layers were read"
	in.Packages[3].Contains = append(in.Packages[3].Contains, sbom.Package{Kind: sbom.APK, Name: "musl", Version: "1.2.5-r0", License: "MIT", Supplier: "Alpine"})
	d, err := sbom.New(in)
	if err != nil {
		t.Fatal(err)
	}
	want := spdx(t, d)
	got, err := sbom.Parse(strings.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if again := spdx(t, got); again != want {
		t.Errorf("read and written again:\n%s\nwas\n%s", again, want)
	}
	if !strings.Contains(want, `"comment":"its layers were read"`) {
		t.Error("the comment is not there")
	}
}

func TestParseRefuses(t *testing.T) {
	good := spdx(t, document(t))
	for name, change := range map[string][2]string{
		"another version":       {`"SPDX-2.3"`, `"SPDX-2.2"`},
		"a changed package":     {`"versionInfo":"2.41-12"`, `"versionInfo":"2.41-13"`},
		"no root":               {`"relatedSpdxElement":"SPDXRef-Release"`, `"relatedSpdxElement":"SPDXRef-Other"`},
		"a relation to nothing": {`"spdxElementId":"SPDXRef-Release","relationshipType":"CONTAINS"`, `"spdxElementId":"SPDXRef-X","relationshipType":"CONTAINS"`},
		"another relation":      {`"CONTAINS"`, `"GENERATES"`},
		"no time":               {`"2026-01-02T02:04:05Z"`, `"yesterday"`},
		"an unknown kind":       {`"SPDXRef-deb-`, `"SPDXRef-npm-`},
	} {
		if !strings.Contains(good, change[0]) {
			t.Fatalf("%s: nothing to change", name)
		}
		if _, err := sbom.Parse(strings.NewReader(strings.ReplaceAll(good, change[0], change[1]))); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	for _, text := range []string{"", "{}", "[]", good[:len(good)/2]} {
		if _, err := sbom.Parse(strings.NewReader(text)); err == nil {
			t.Errorf("read %.30q", text)
		}
	}
}

// The document of an image has what is in it, and nothing else.
func TestImage(t *testing.T) {
	d := document(t)
	if got := d.Images(); !slices.Equal(got, []string{"docker.io/library/postgres:17", "registry.k8s.io/pause:3.10.1"}) {
		t.Errorf("images: %q", got)
	}
	im, err := d.Image("registry.k8s.io/pause:3.10.1")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, id := range im.IDs() {
		names = append(names, im.Element(id).Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"k8s.io/kubernetes", "libc6"}) || im.Element(im.Root).Name != "registry.k8s.io/pause:3.10.1" || len(im.Contained()) != 2 {
		t.Errorf("it has %q, %v", names, im.Contained())
	}
	if im.Namespace == d.Namespace || im.Name != "registry.k8s.io/pause:3.10.1" || im.Version != "3.10.1" || !im.Created.Equal(d.Created) {
		t.Errorf("got %+v", im)
	}
	text := spdx(t, im)
	if again, err := sbom.Parse(strings.NewReader(text)); err != nil || spdx(t, again) != text {
		t.Errorf("it cannot be read again: %v", err)
	}
	judge(t, text)
	if _, err := d.Image("registry.k8s.io/pause:3"); err == nil {
		t.Error("an image that is not there")
	}
}

func TestPURL(t *testing.T) {
	for _, x := range []struct{ got, want string }{
		{sbom.PURL("deb", "debian/libstdc++6", "1:14.2+x~1", [2]string{"arch", "amd64"}, [2]string{"distro", ""}), "pkg:deb/debian/libstdc%2B%2B6@1%3A14.2%2Bx~1?arch=amd64"},
		{sbom.PURL("golang", "k8s.io/api", ""), "pkg:golang/k8s.io/api"},
		{sbom.PURL("oci", "app", "sha256:ab", [2]string{"repository_url", "r.example/a/app"}, [2]string{"tag", "1"}), "pkg:oci/app@sha256%3Aab?repository_url=r.example%2Fa%2Fapp&tag=1"},
	} {
		if x.got != x.want {
			t.Errorf("got %s, want %s", x.got, x.want)
		}
	}
}

// Whatever a document says, it is read or refused, and what was read can be
// written and read again.
func FuzzParse(f *testing.F) {
	f.Add(spdx(f, document(f)))
	f.Add(`{"spdxVersion":"SPDX-2.3","packages":[{"SPDXID":"SPDXRef-Release","name":"x"}],"relationships":[{"relationshipType":"DESCRIBES","relatedSpdxElement":"SPDXRef-Release"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := sbom.Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		if _, err := sbom.Parse(strings.NewReader(spdx(t, d))); err != nil {
			t.Error(err)
		}
	})
}
