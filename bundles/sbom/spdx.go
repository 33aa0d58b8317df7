package sbom

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

type packageJSON struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Version   string         `json:"versionInfo,omitempty"`
	Purpose   string         `json:"primaryPackagePurpose"`
	Supplier  string         `json:"supplier"`
	Download  string         `json:"downloadLocation"`
	Analyzed  bool           `json:"filesAnalyzed"`
	Checksums []checksumJSON `json:"checksums,omitempty"`
	Source    string         `json:"sourceInfo,omitempty"`
	Concluded string         `json:"licenseConcluded"`
	Declared  string         `json:"licenseDeclared"`
	Copyright string         `json:"copyrightText"`
	Comment   string         `json:"comment,omitempty"`
	Refs      []refJSON      `json:"externalRefs,omitempty"`
}

type checksumJSON struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type refJSON struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationJSON struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

type creationJSON struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

const (
	timeForm     = "2006-01-02T15:04:05Z"
	organisation = "Organization: "
	toolWord     = "Tool: "
)

// encodePackage is p as SPDX has it.
func encodePackage(id string, p Package) packageJSON {
	j := packageJSON{
		ID: id, Name: p.Name, Version: p.Version, Source: p.Source, Comment: p.Comment,
		Download: Unknown, Copyright: Unknown, Concluded: Unknown,
		Declared: cmp.Or(p.License, Unknown), Supplier: Unknown, Purpose: purposes[p.Kind],
	}
	if p.Supplier != "" && p.Supplier != Unknown {
		j.Supplier = organisation + p.Supplier
	}
	if p.SHA256 != "" {
		j.Checksums = []checksumJSON{{"SHA256", p.SHA256}}
	}
	if p.PURL != "" {
		j.Refs = []refJSON{{"PACKAGE-MANAGER", "purl", p.PURL}}
	}
	return j
}

// decodePackage is what encodePackage encoded; what it would not have written
// is an error.
func decodePackage(j packageJSON) (Package, error) {
	p := Package{Name: j.Name, Version: j.Version, Source: j.Source, Comment: j.Comment}
	if j.ID == releaseID {
		p.Kind = Release
	} else {
		kind, _, _ := strings.Cut(strings.TrimPrefix(j.ID, "SPDXRef-"), "-")
		p.Kind = Kind(kind)
	}
	if j.Declared != Unknown {
		p.License = j.Declared
	}
	if j.Supplier != Unknown {
		p.Supplier = strings.TrimPrefix(j.Supplier, organisation)
	}
	for _, c := range j.Checksums {
		if c.Algorithm == "SHA256" {
			p.SHA256 = c.Value
		}
	}
	for _, r := range j.Refs {
		if r.Type == "purl" {
			p.PURL = r.Locator
		}
	}
	if err := p.check(); err != nil {
		return Package{}, err
	}
	if id := packageID(p); id != j.ID && p.Kind != Release {
		return Package{}, fmt.Errorf("the package %.200q has an ID that does not come from what it says", j.ID)
	}
	return p, nil
}

// Write writes the document as SPDX: the same bytes for the same content. It
// puts one package or relationship on a line, encoding one at a time.
func (d Document) Write(w io.Writer) error {
	if err := d.write(w); err != nil {
		return fmt.Errorf("cannot write the SBOM of %s: %w", d.Name, err)
	}
	return nil
}

func (d Document) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false) // & is common in package URLs; Encode ends each value with a newline
	var err error
	put := func(before string, v any) {
		b.WriteString(before) // the writer keeps its first error for Flush
		err = errors.Join(err, e.Encode(v))
	}
	put(`{"spdxVersion":`, spdxVersion)
	put(`,"dataLicense":`, "CC0-1.0")
	put(`,"SPDXID":`, documentID)
	put(`,"name":`, strings.TrimSpace(d.Name+" "+d.Version))
	put(`,"documentNamespace":`, d.Namespace)
	put(`,"creationInfo":`, creationJSON{d.Created.UTC().Format(timeForm), []string{toolWord + d.Tool}})
	put(`,"packages":[`, encodePackage(d.Root, d.elements[d.Root]))
	for _, id := range d.IDs() {
		put(",", encodePackage(id, d.elements[id]))
	}
	put(`],"relationships":[`, relationJSON{documentID, "DESCRIBES", d.Root})
	for _, r := range d.Contained() {
		put(",", relationJSON{r[0], "CONTAINS", r[1]})
	}
	b.WriteString("]}\n")
	return errors.Join(err, b.Flush())
}

const spdxVersion = "SPDX-2.3"

// Parse reads a document that Write wrote; anything else is an error. What r
// gives after the document is the caller's.
func Parse(r io.Reader) (Document, error) {
	p := parser{doc: Document{elements: map[string]Package{}, contains: map[[2]string]bool{}}}
	d := json.NewDecoder(r)
	err := object(d, func(name string) error {
		switch name {
		case "packages":
			return array(d, p.pkg)
		case "relationships":
			return array(d, p.relation)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return err
		}
		return p.head(name, v)
	})
	if err == nil {
		err = p.finish()
	}
	if err != nil {
		return Document{}, fmt.Errorf("cannot read SBOM: %w", err)
	}
	return p.doc, nil
}

type parser struct {
	bound
	doc     Document
	version string
}

// head reads a member that is neither packages nor relationships.
func (p *parser) head(name string, v json.RawMessage) error {
	switch name {
	case "spdxVersion":
		return json.Unmarshal(v, &p.version)
	case "documentNamespace":
		return json.Unmarshal(v, &p.doc.Namespace)
	case "creationInfo":
		var c creationJSON
		if err := json.Unmarshal(v, &c); err != nil {
			return err
		}
		for _, by := range c.Creators {
			if tool, ok := strings.CutPrefix(by, toolWord); ok {
				p.doc.Tool = tool
			}
		}
		var err error
		p.doc.Created, err = time.Parse(timeForm, c.Created)
		return err
	}
	return nil
}

func (p *parser) pkg(b json.RawMessage) error {
	var j packageJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if len(p.doc.elements) == MaxElements {
		return fmt.Errorf("more than the %d packages allowed", MaxElements)
	}
	if _, ok := p.doc.elements[j.ID]; ok {
		return fmt.Errorf("the package %.200q is there twice", j.ID)
	}
	x, err := decodePackage(j)
	if err != nil {
		return err
	}
	p.doc.elements[j.ID] = x
	return p.keep(j.ID, x.Name, x.Version, x.Source, x.SHA256, x.PURL, x.License, x.Supplier, x.Comment)
}

func (p *parser) relation(b json.RawMessage) error {
	var r relationJSON
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	if len(p.doc.contains) == MaxElements {
		return fmt.Errorf("more than the %d relationships allowed", MaxElements)
	}
	switch r.Type {
	case "DESCRIBES":
		p.doc.Root = r.To
	case "CONTAINS":
		p.doc.contains[[2]string{r.From, r.To}] = true
	default:
		return fmt.Errorf("a relationship %.80q", r.Type)
	}
	return p.keep(r.From, r.To)
}

// finish checks what can only be seen of the whole.
func (p *parser) finish() error {
	d := &p.doc
	root, ok := d.elements[d.Root]
	if !ok {
		return errors.New("it describes nothing that it has")
	}
	d.Name, d.Version = root.Name, root.Version
	errs := d.check()
	if p.version != spdxVersion {
		errs = append(errs, fmt.Errorf("its version is %.80q, not %s", p.version, spdxVersion))
	}
	for _, c := range d.Contained() {
		for _, id := range c {
			if _, ok := d.elements[id]; !ok {
				return errors.Join(append(errs, fmt.Errorf("a relationship with %.200q, which it does not have", id))...)
			}
		}
	}
	return errors.Join(errs...)
}
