package cyclonedx_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"holdfast.dev/holdfast/bundles/sbom"
	"holdfast.dev/holdfast/bundles/sbom/cyclonedx"
)

var sum = strings.Repeat("ab", 32)

func example(t *testing.T) sbom.Document {
	t.Helper()
	libc := sbom.Package{Kind: sbom.Deb, Name: "libc6", Version: "2.41-12", Source: "glibc", SHA256: sum,
		PURL: "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=trixie", License: "LGPL-2.1-or-later", Supplier: "Debian"}
	d, err := sbom.New(sbom.Input{
		Name: "demo", Version: "1", Namespace: sbom.Namespace(sum), Created: time.Unix(1700000000, 0), Tool: "holdfast-0.1.0",
		Packages: []sbom.Package{
			{Kind: sbom.File, Name: "root.erofs", SHA256: sum, Contains: []sbom.Package{libc}},
			{Kind: sbom.Image, Name: "registry.example/own:1", SHA256: sum, Contains: []sbom.Package{
				libc, {Kind: sbom.Golang, Name: "k8s.io/api", Version: "v0.36.3"}, {Kind: sbom.Maven, Name: "a:b", Version: "1", SHA256: sum}}},
			{Kind: sbom.Image, Name: "registry.example/others:1", SHA256: sum, Comment: "read", Contains: []sbom.Package{{Kind: sbom.APK, Name: "musl", Version: "1.2.5-r0"}}},
			{Kind: sbom.Image, Name: "registry.example/empty:1", SHA256: sum, Comment: "read"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func write(t *testing.T, d sbom.Document) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := cyclonedx.Write(&b, d); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDecoder has CycloneDX's own library read what was written.
func TestDecoder(t *testing.T) {
	d := example(t)
	b := write(t, d)
	if again := write(t, example(t)); !bytes.Equal(b, again) {
		t.Error("not the same bytes again")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(b), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.Metadata.Component.Name != "demo" || bom.Metadata.Component.Version != "1" ||
		bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" || (*bom.Metadata.Tools.Components)[0].Version != "0.1.0" {
		t.Errorf("got %+v", bom)
	}
	ref := map[string]string{bom.Metadata.Component.BOMRef: "demo"}
	for _, c := range *bom.Components {
		ref[c.BOMRef] = c.Name
	}
	if len(ref) != 9 || len(ref) != len(*bom.Components)+1 {
		t.Errorf("components: %v", ref)
	}
	var depends []string
	for _, d := range *bom.Dependencies {
		for _, on := range *d.Dependencies {
			depends = append(depends, ref[d.Ref]+" "+ref[on])
		}
	}
	slices.Sort(depends)
	want := []string{
		"demo registry.example/empty:1", "demo registry.example/others:1", "demo registry.example/own:1", "demo root.erofs",
		"registry.example/others:1 musl", "registry.example/own:1 a:b", "registry.example/own:1 k8s.io/api", "registry.example/own:1 libc6", "root.erofs libc6",
	}
	if !slices.Equal(depends, want) {
		t.Errorf("depends: %q", depends)
	}
	var unknown []string
	for _, c := range *bom.Compositions {
		for _, r := range *c.Dependencies {
			unknown = append(unknown, string(c.Aggregate)+" "+ref[string(r)])
		}
	}
	slices.Sort(unknown)
	if !slices.Equal(unknown, []string{"unknown registry.example/empty:1", "unknown registry.example/others:1"}) {
		t.Errorf("compositions: %q", unknown)
	}
}

// TestSchema holds documents against CycloneDX's own schema, which its library
// carries beside its source.
func TestSchema(t *testing.T) {
	schema := compile(t)
	d := example(t)
	image, err := d.Image("registry.example/own:1")
	if err != nil {
		t.Fatal(err)
	}
	empty, err := d.Image("registry.example/empty:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []sbom.Document{d, image, empty} {
		b := write(t, d)
		if err := valid(t, schema, b); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
		if err := valid(t, schema, bytes.Replace(b, []byte(`"type": "container"`), []byte(`"type": "box"`), 1)); err == nil {
			t.Errorf("%s: the schema takes anything", d.Name)
		}
	}
}

func valid(t *testing.T, schema *jsonschema.Schema, b []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to find the schema with")
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "schema")
	c := jsonschema.NewCompiler()
	const base = "http://cyclonedx.org/schema/"
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(base+name, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile(base + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
