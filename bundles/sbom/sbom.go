// Package sbom says what a release is made of, as SPDX 2.3 in JSON
// (https://spdx.github.io/spdx-spec/v2.3/); package cyclonedx below it writes
// the same in the other usual form. A document describes a release or one of
// its images; that contains packages, and a package, such as an image, may
// contain others. Files of packages are not analysed, and nothing is guessed:
// what is not known says NOASSERTION.
package sbom

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
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
	Deb     Kind = "deb"
	APK     Kind = "apk"
	RPM     Kind = "rpm"
	Golang  Kind = "golang"
	Maven   Kind = "maven"
	NPM     Kind = "npm"
	PyPI    Kind = "pypi"
	Gem     Kind = "gem"
	File    Kind = "file"
	Image   Kind = "image"
	Release Kind = "release" // what a release's document describes
)

// purposes is SPDX's word for each kind.
var purposes = map[Kind]string{
	Deb: "LIBRARY", APK: "LIBRARY", RPM: "LIBRARY", Golang: "LIBRARY", Maven: "LIBRARY", NPM: "LIBRARY", PyPI: "LIBRARY", Gem: "LIBRARY", File: "FILE", Image: "CONTAINER", Release: "OPERATING-SYSTEM",
}

// Unknown is SPDX's word for what is not known.
const Unknown = "NOASSERTION"

// maxDepth bounds packages inside packages.
const maxDepth = 8

// Input is what a release's document says.
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
	Comment  string    // what else there is to know; may be empty
	Contains []Package // of an image: what is in it
}

// Namespace is the URI of the document about the thing with that digest
// ("sha256:…" or the bare digits); nothing is ever fetched from it.
func Namespace(digest string) string {
	return "https://holdfast.dev/spdx/" + strings.TrimPrefix(digest, "sha256:")
}

// Document is what is known of a release, or of one image, as a graph. Each
// element has an ID, which differs whenever the element does.
type Document struct {
	Name      string
	Version   string
	Namespace string
	Created   time.Time
	Tool      string
	Root      string // the ID of what is described

	elements map[string]Package // by ID, without Contains
	contains map[[2]string]bool // parent, child
}

// New makes the document about a release. All that is wrong with in is in the
// error.
func New(in Input) (Document, error) {
	d := Document{
		Name: in.Name, Version: in.Version, Namespace: in.Namespace, Created: in.Created.UTC().Truncate(time.Second),
		Tool: cmp.Or(in.Tool, "holdfast"), Root: releaseID,
		elements: map[string]Package{releaseID: {Kind: Release, Name: in.Name, Version: in.Version}}, contains: map[[2]string]bool{},
	}
	errs := d.check()
	for _, p := range in.Packages {
		errs = append(errs, d.add(releaseID, p, 1))
	}
	if err := errors.Join(errs...); err != nil {
		return Document{}, fmt.Errorf("cannot write the SBOM of %s: %w", in.Name, err)
	}
	return d, nil
}

// Write writes in as SPDX: the same bytes for the same content, in whatever
// order it is given. All that is wrong with in is in the error, and nothing is
// written then.
func Write(w io.Writer, in Input) error {
	d, err := New(in)
	if err != nil {
		return err
	}
	return d.Write(w)
}

const (
	documentID = "SPDXRef-DOCUMENT"
	releaseID  = "SPDXRef-Release"
)

func (d Document) check() []error {
	var errs []error
	if strings.TrimSpace(d.Name) == "" {
		errs = append(errs, errors.New("the release has no name"))
	}
	if u, err := url.Parse(d.Namespace); err != nil || !u.IsAbs() || strings.Contains(d.Namespace, "#") {
		errs = append(errs, fmt.Errorf("the namespace %q is not an absolute URI without #", d.Namespace))
	}
	if d.Created.IsZero() || d.Created.UTC().Year() > 9999 {
		errs = append(errs, errors.New("no time of creation"))
	}
	if strings.ContainsAny(d.Tool, "\r\n") {
		errs = append(errs, fmt.Errorf("the tool %q has more than one line", d.Tool))
	}
	return errs
}

func (d Document) add(parent string, p Package, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s %s: packages inside packages more than %d deep", p.Kind, p.Name, maxDepth)
	}
	errs := []error{p.check()}
	if p.Kind == Release {
		errs = append(errs, fmt.Errorf("%s: a release inside a release", p.Name))
	}
	id := packageID(p)
	d.contains[[2]string{parent, id}] = true
	for _, c := range p.Contains {
		errs = append(errs, d.add(id, c, depth+1))
	}
	p.Contains = nil
	d.elements[id] = p
	return errors.Join(errs...)
}

// IDs are those of all elements but the root, sorted.
func (d Document) IDs() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(d.elements)), func(id string) bool { return id == d.Root })
}

// Element is the package with that ID, without what it contains.
func (d Document) Element(id string) Package { return d.elements[id] }

// Contained are all pairs of a parent's and a child's ID, sorted.
func (d Document) Contained() [][2]string {
	return slices.SortedFunc(maps.Keys(d.contains), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
}

// Images are the names of the images of a release, sorted.
func (d Document) Images() []string {
	var out []string
	for id, p := range d.elements {
		if p.Kind == Image && id != d.Root {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Image is the document about one image of a release; it is made from that of
// the release alone, and so is always the same.
func (d Document) Image(name string) (Document, error) {
	for _, id := range d.IDs() {
		if p := d.elements[id]; p.Kind == Image && p.Name == name {
			return d.about(id), nil
		}
	}
	return Document{}, fmt.Errorf("cannot make the SBOM of image %s: the release's names no such image", name)
}

// about is the part of d below an element.
func (d Document) about(id string) Document {
	p := d.elements[id]
	out := Document{
		Name: p.Name, Version: p.Version, Namespace: d.Namespace + "/" + url.PathEscape(p.Name), Created: d.Created, Tool: d.Tool, Root: id,
		elements: map[string]Package{}, contains: map[[2]string]bool{},
	}
	children := map[string][]string{}
	for c := range d.contains {
		children[c[0]] = append(children[c[0]], c[1])
	}
	for todo := []string{id}; len(todo) > 0; {
		at := todo[0]
		todo = todo[1:]
		if _, ok := out.elements[at]; ok {
			continue
		}
		out.elements[at] = d.elements[at]
		for _, c := range children[at] {
			out.contains[[2]string{at, c}] = true
			todo = append(todo, c)
		}
	}
	return out
}

var (
	shaForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	purlForm    = regexp.MustCompile(`^pkg:[A-Za-z][A-Za-z0-9.+-]*/\S+$`)
	licenseForm = regexp.MustCompile(`^[A-Za-z0-9.+() -]+$`)
	notID       = regexp.MustCompile(`[^A-Za-z0-9.-]+`)
)

// check tells all that is wrong with a package, but for what it contains.
func (p Package) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s %s %s: %s", p.Kind, p.Name, p.Version, fmt.Sprintf(format, args...)))
	}
	if purposes[p.Kind] == "" {
		bad("an unknown kind")
	}
	if strings.TrimSpace(p.Name) == "" {
		bad("no name")
	}
	// References to licences outside SPDX's list would need their text.
	if l := cmp.Or(p.License, Unknown); !licenseForm.MatchString(l) || strings.Contains(l, "Ref-") {
		bad("%q is not an expression of SPDX licences", p.License)
	}
	if strings.ContainsAny(p.Supplier, "\r\n") {
		bad("the supplier %q has more than one line", p.Supplier)
	}
	if p.SHA256 != "" && !shaForm.MatchString(p.SHA256) {
		bad("%q is not 64 lower-case hexadecimal digits", p.SHA256)
	}
	if p.PURL != "" && !purlForm.MatchString(p.PURL) {
		bad("%q is not a package URL", p.PURL)
	}
	return errors.Join(errs...)
}

// packageID can be read, and differs whenever the package does.
func packageID(p Package) string {
	fields := []string{string(p.Kind), p.Name, p.Version, p.Source, p.SHA256, p.PURL, p.License, p.Supplier}
	if p.Comment != "" {
		fields = append(fields, p.Comment)
	}
	h := sha256.New()
	for _, s := range fields {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	name := strings.Trim(notID.ReplaceAllString(p.Name, "-"), "-")
	if len(name) > 80 {
		name = name[:80]
	}
	return fmt.Sprintf("SPDXRef-%s-%s-%s", notID.ReplaceAllString(string(p.Kind), "-"), name, hex.EncodeToString(h.Sum(nil)[:8]))
}
