// Package cyclonedx writes a document of package sbom as CycloneDX 1.6 in JSON
// (https://cyclonedx.org/docs/1.6/json/). What contains something depends on
// it there: components are flat, each once.
package cyclonedx

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"

	"holdfast.dev/holdfast/bundles/sbom"
)

// types are the kinds of packages in CycloneDX's words.
var types = map[sbom.Kind]cdx.ComponentType{
	sbom.Deb: cdx.ComponentTypeLibrary, sbom.APK: cdx.ComponentTypeLibrary, sbom.RPM: cdx.ComponentTypeLibrary, sbom.Golang: cdx.ComponentTypeLibrary, sbom.Maven: cdx.ComponentTypeLibrary,
	sbom.NPM: cdx.ComponentTypeLibrary, sbom.PyPI: cdx.ComponentTypeLibrary, sbom.Gem: cdx.ComponentTypeLibrary,
	sbom.File: cdx.ComponentTypeFile, sbom.Image: cdx.ComponentTypeContainer, sbom.Release: cdx.ComponentTypeOS,
}

// Write writes d: the same bytes for the same document. Its serial number is
// derived from the namespace.
func Write(w io.Writer, d sbom.Document) error {
	name, version, _ := strings.Cut(d.Tool, "-")
	root := component(d.Root, d.Element(d.Root))
	components := []cdx.Component{}
	for _, id := range d.IDs() {
		components = append(components, component(id, d.Element(id)))
	}
	bom := cdx.BOM{
		JSONSchema: "http://cyclonedx.org/schema/bom-1.6.schema.json", BOMFormat: cdx.BOMFormat, SpecVersion: cdx.SpecVersion1_6,
		SerialNumber: uuid.NewSHA1(uuid.NameSpaceURL, []byte(d.Namespace)).URN(), Version: 1,
		Metadata: &cdx.Metadata{
			Timestamp: d.Created.Format("2006-01-02T15:04:05Z"), Component: &root,
			Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: name, Version: version}}},
		},
		Components: &components, Dependencies: dependencies(d), Compositions: compositions(d),
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(bom); err != nil {
		return fmt.Errorf("cannot write the SBOM of %s: %w", d.Name, err)
	}
	return nil
}

func component(id string, p sbom.Package) cdx.Component {
	c := cdx.Component{BOMRef: id, Type: types[p.Kind], Name: p.Name, Version: p.Version, PackageURL: p.PURL}
	if p.Supplier != "" && p.Supplier != sbom.Unknown {
		c.Supplier = &cdx.OrganizationalEntity{Name: p.Supplier}
	}
	if p.SHA256 != "" {
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}}
	}
	if p.License != "" && p.License != sbom.Unknown {
		c.Licenses = &cdx.Licenses{{Expression: p.License}}
	}
	var ps []cdx.Property
	for _, x := range [][2]string{{"dev.holdfast.source", p.Source}, {"dev.holdfast.comment", p.Comment}} {
		if x[1] != "" {
			ps = append(ps, cdx.Property{Name: x[0], Value: x[1]})
		}
	}
	if ps != nil {
		c.Properties = &ps
	}
	return c
}

func dependencies(d sbom.Document) *[]cdx.Dependency {
	out := []cdx.Dependency{}
	for _, c := range d.Contained() {
		if n := len(out); n == 0 || out[n-1].Ref != c[0] {
			out = append(out, cdx.Dependency{Ref: c[0], Dependencies: &[]string{}})
		}
		list := out[len(out)-1].Dependencies
		*list = append(*list, c[1])
	}
	return &out
}

// compositions says of images that were read, not composed, that nobody knows
// what else lies in them, beside what is listed.
func compositions(d sbom.Document) *[]cdx.Composition {
	var refs []cdx.BOMReference
	for _, id := range append([]string{d.Root}, d.IDs()...) {
		if p := d.Element(id); p.Kind == sbom.Image && p.Comment != "" {
			refs = append(refs, cdx.BOMReference(id))
		}
	}
	if refs == nil {
		return nil
	}
	return &[]cdx.Composition{{Aggregate: cdx.CompositionAggregateUnknown, Dependencies: &refs}}
}
