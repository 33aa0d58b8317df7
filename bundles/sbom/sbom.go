// Package sbom writes what a release is made of, as SPDX 2.3 in JSON
// (https://spdx.github.io/spdx-spec/v2.3/). The document describes the
// release; the release contains packages, and a package, such as an image, may
// contain others. Files of packages are not analysed, and nothing is guessed:
// what is not known says NOASSERTION.
package sbom

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Kind is what a package is.
type Kind string

// Kinds of packages.
const (
	Deb    Kind = "deb"
	Golang Kind = "golang"
	Maven  Kind = "maven"
	File   Kind = "file"
	Image  Kind = "image"
)

// Unknown is SPDX's word for what is not known.
const Unknown = "NOASSERTION"

// maxDepth bounds packages inside packages.
const maxDepth = 8

// Input is what a document says.
type Input struct {
	Name      string // of the release
	Version   string
	Namespace string    // an absolute URI of this document alone; see [Namespace]
	Created   time.Time // written in UTC, in whole seconds
	Tool      string    // the creator, as in holdfast-1.2.3; "" means holdfast
	Packages  []Package // what the release contains
}

// Package is one part. Two packages equal in all but Contains are one, written
// once, which contains what either does.
type Package struct {
	Kind     Kind
	Name     string
	Version  string    // may be empty
	Source   string    // where it comes from, in words; may be empty
	SHA256   string    // 64 hexadecimal digits; may be empty
	PURL     string    // package URL; may be empty
	License  string    // an SPDX expression; "" means NOASSERTION
	Supplier string    // an organisation; "" means NOASSERTION
	Contains []Package // of an image: what is in it
}

// Namespace is the URI of the document about the thing with that digest
// ("sha256:…" or the bare digits); nothing is ever fetched from it.
func Namespace(digest string) string {
	return "https://holdfast.dev/spdx/" + strings.TrimPrefix(digest, "sha256:")
}

// Write writes the document: the same bytes for the same content, in whatever
// order it is given. All that is wrong with in is in the error, and nothing is
// written then.
func Write(w io.Writer, in Input) error {
	f := flat{packages: map[string]packageJSON{}, contains: map[[2]string]bool{}}
	errs := checkInput(in)
	for _, p := range in.Packages {
		errs = append(errs, f.add(releaseID, p, 1))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot write the SBOM of %s: %w", in.Name, err)
	}
	if err := write(w, in, f); err != nil {
		return fmt.Errorf("cannot write the SBOM of %s: %w", in.Name, err)
	}
	return nil
}

const (
	documentID = "SPDXRef-DOCUMENT"
	releaseID  = "SPDXRef-Release"
)

func checkInput(in Input) []error {
	var errs []error
	if strings.TrimSpace(in.Name) == "" {
		errs = append(errs, errors.New("the release has no name"))
	}
	if u, err := url.Parse(in.Namespace); err != nil || !u.IsAbs() || strings.Contains(in.Namespace, "#") {
		errs = append(errs, fmt.Errorf("the namespace %q is not an absolute URI without #", in.Namespace))
	}
	if in.Created.IsZero() || in.Created.UTC().Year() > 9999 {
		errs = append(errs, errors.New("no time of creation"))
	}
	if strings.ContainsAny(in.Tool, "\r\n") {
		errs = append(errs, fmt.Errorf("the tool %q has more than one line", in.Tool))
	}
	return errs
}

// flat is the tree of packages as SPDX has it.
type flat struct {
	packages map[string]packageJSON // by SPDXID
	contains map[[2]string]bool     // parent, child
}

func (f flat) add(parent string, p Package, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s %s: packages inside packages more than %d deep", p.Kind, p.Name, maxDepth)
	}
	j, err := convert(p)
	errs := []error{err}
	f.packages[j.ID] = j
	f.contains[[2]string{parent, j.ID}] = true
	for _, c := range p.Contains {
		errs = append(errs, f.add(j.ID, c, depth+1))
	}
	return errors.Join(errs...)
}

var (
	shaForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	purlForm    = regexp.MustCompile(`^pkg:[A-Za-z][A-Za-z0-9.+-]*/\S+$`)
	licenseForm = regexp.MustCompile(`^[A-Za-z0-9.+() -]+$`)
	notID       = regexp.MustCompile(`[^A-Za-z0-9.-]+`)
)

func convert(p Package) (packageJSON, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s %s %s: %s", p.Kind, p.Name, p.Version, fmt.Sprintf(format, args...)))
	}
	purposes := map[Kind]string{Deb: "LIBRARY", Golang: "LIBRARY", Maven: "LIBRARY", File: "FILE", Image: "CONTAINER"}
	j := packageJSON{
		Name: p.Name, Version: p.Version, Source: p.Source,
		Download: Unknown, Copyright: Unknown, Concluded: Unknown,
		Declared: cmp.Or(p.License, Unknown), Supplier: Unknown, Purpose: purposes[p.Kind],
	}
	if j.Purpose == "" {
		bad("an unknown kind")
	}
	if strings.TrimSpace(p.Name) == "" {
		bad("no name")
	}
	// References to licences outside SPDX's list would need their text.
	if !licenseForm.MatchString(j.Declared) || strings.Contains(j.Declared, "Ref-") {
		bad("%q is not an expression of SPDX licences", p.License)
	}
	if p.Supplier != "" && p.Supplier != Unknown {
		j.Supplier = "Organization: " + p.Supplier
	}
	if strings.ContainsAny(p.Supplier, "\r\n") {
		bad("the supplier %q has more than one line", p.Supplier)
	}
	if p.SHA256 != "" {
		j.Checksums = []checksumJSON{{"SHA256", p.SHA256}}
		if !shaForm.MatchString(p.SHA256) {
			bad("%q is not 64 lower-case hexadecimal digits", p.SHA256)
		}
	}
	if p.PURL != "" {
		j.Refs = []refJSON{{"PACKAGE-MANAGER", "purl", p.PURL}}
		if !purlForm.MatchString(p.PURL) {
			bad("%q is not a package URL", p.PURL)
		}
	}
	j.ID = packageID(p)
	return j, errors.Join(errs...)
}

// packageID can be read, and differs whenever the package does.
func packageID(p Package) string {
	h := sha256.New()
	for _, s := range []string{string(p.Kind), p.Name, p.Version, p.Source, p.SHA256, p.PURL, p.License, p.Supplier} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	name := strings.Trim(notID.ReplaceAllString(p.Name, "-"), "-")
	if len(name) > 80 {
		name = name[:80]
	}
	return fmt.Sprintf("SPDXRef-%s-%s-%s", notID.ReplaceAllString(string(p.Kind), "-"), name, hex.EncodeToString(h.Sum(nil)[:8]))
}

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

// write puts one package or relationship on a line, encoding one at a time.
func write(w io.Writer, in Input, f flat) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false) // & is common in package URLs; Encode ends each value with a newline
	var err error
	put := func(before string, v any) {
		b.WriteString(before) // the writer keeps its first error for Flush
		err = errors.Join(err, e.Encode(v))
	}
	type creation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	put(`{"spdxVersion":`, "SPDX-2.3")
	put(`,"dataLicense":`, "CC0-1.0")
	put(`,"SPDXID":`, documentID)
	put(`,"name":`, strings.TrimSpace(in.Name+" "+in.Version))
	put(`,"documentNamespace":`, in.Namespace)
	put(`,"creationInfo":`, creation{in.Created.UTC().Format("2006-01-02T15:04:05Z"), []string{"Tool: " + cmp.Or(in.Tool, "holdfast")}})
	put(`,"packages":[`, packageJSON{
		ID: releaseID, Name: in.Name, Version: in.Version, Purpose: "OPERATING-SYSTEM", Supplier: Unknown,
		Download: Unknown, Concluded: Unknown, Declared: Unknown, Copyright: Unknown,
	})
	for _, id := range slices.Sorted(maps.Keys(f.packages)) {
		put(",", f.packages[id])
	}
	put(`],"relationships":[`, relationJSON{documentID, "DESCRIBES", releaseID})
	for _, r := range slices.SortedFunc(maps.Keys(f.contains), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	}) {
		put(",", relationJSON{r[0], "CONTAINS", r[1]})
	}
	b.WriteString("]}\n")
	return errors.Join(err, b.Flush())
}
