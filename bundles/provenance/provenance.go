// Package provenance writes and reads how releases and images were made: as
// in-toto statements of version 1 (https://github.com/in-toto/attestation)
// with SLSA's predicate of version 1 (https://slsa.dev/spec/v1.0/provenance).
// docs/provenance.md describes what holdfast's build types say.
//
// The types are written here, as protobuf's JSON differs from one build of a
// program to the next, by intent; tests read the result with the types of
// in-toto itself.
package provenance

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// What statements of holdfast are.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"

	ReleaseBuild = "https://holdfast.dev/provenance/release/v1" // build type
	ImageBuild   = "https://holdfast.dev/provenance/image/v1"   // build type
	BuilderID    = "https://holdfast.dev/provenance/builder/v1"
)

// MaxStatement bounds a statement, in bytes.
const MaxStatement = 16 << 20

// Statement says of its subjects how they were made.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Predicate  `json:"predicate"`
}

// Resource is a thing by its name or URI, and by its digests: of an algorithm,
// lower-case hexadecimal.
type Resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	MediaType   string            `json:"mediaType,omitempty"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

// Predicate is SLSA's.
type Predicate struct {
	BuildDefinition Build `json:"buildDefinition"`
	RunDetails      Run   `json:"runDetails"`
}

// Build is everything that went in.
type Build struct {
	Type         string         `json:"buildType"`
	External     map[string]any `json:"externalParameters"`
	Internal     map[string]any `json:"internalParameters,omitempty"`
	Dependencies []Resource     `json:"resolvedDependencies,omitempty"`
}

// Run is who built. There is no time in it: the same input gives the same bytes.
type Run struct {
	Builder Builder `json:"builder"`
}

// Builder is the program that built.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// New makes a statement by the holdfast of that version.
func New(subject []Resource, b Build, version string) Statement {
	return Statement{
		Type: StatementType, Subject: subject, PredicateType: PredicateType,
		Predicate: Predicate{b, Run{Builder{BuilderID, map[string]string{"holdfast": version}}}},
	}
}

// SHA256 is a digest set of one digest, with or without its "sha256:".
func SHA256(digest string) map[string]string {
	return map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}
}

// DirHash is the digest set of a Go module by its h1 hash, as go.sum has it.
func DirHash(h1 string) (map[string]string, error) {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(h1, "h1:"))
	if err != nil || len(sum) != 32 || !strings.HasPrefix(h1, "h1:") {
		return nil, fmt.Errorf("%q is not the h1 hash of a module", h1)
	}
	return map[string]string{"dirHash": hex.EncodeToString(sum)}, nil
}

// Encode gives the statement's bytes: the same for the same content, in
// whatever order dependencies come and as often as they are there. Subjects
// stay in their order. All that is wrong with s is in the error.
func (s Statement) Encode() ([]byte, error) {
	b := &s.Predicate.BuildDefinition
	var err error
	if b.Dependencies, err = sorted(b.Dependencies); err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write provenance: %w", err)
	}
	doc, err := encode(s)
	if err != nil {
		return nil, fmt.Errorf("cannot write provenance: %w", err)
	}
	if len(doc) > MaxStatement {
		return nil, fmt.Errorf("cannot write provenance: %d bytes, more than the %d allowed", len(doc), MaxStatement)
	}
	return doc, nil
}

func encode(v any) ([]byte, error) {
	var doc bytes.Buffer
	e := json.NewEncoder(&doc)
	e.SetEscapeHTML(false) // & is common in package URLs
	err := e.Encode(v)
	return doc.Bytes(), err
}

// sorted orders resources by their URI or name and drops those that are there
// twice.
func sorted(rs []Resource) ([]Resource, error) {
	type keyed struct {
		by, form string
		Resource
	}
	var ks []keyed
	for _, r := range rs {
		form, err := encode(r)
		if err != nil {
			return nil, err
		}
		ks = append(ks, keyed{cmp.Or(r.URI, r.Name), string(form), r})
	}
	slices.SortFunc(ks, func(a, b keyed) int { return cmp.Or(cmp.Compare(a.by, b.by), cmp.Compare(a.form, b.form)) })
	ks = slices.CompactFunc(ks, func(a, b keyed) bool { return a.form == b.form })
	var out []Resource
	for _, k := range ks {
		out = append(out, k.Resource)
	}
	return out, nil
}

// Read reads a statement and checks its form; what it says of itself is the
// caller's to compare.
func Read(r io.Reader) (Statement, error) {
	s, err := read(r)
	if err != nil {
		return Statement{}, fmt.Errorf("cannot read provenance: %w", err)
	}
	return s, nil
}

func read(r io.Reader) (Statement, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxStatement+1))
	if err != nil {
		return Statement{}, err
	}
	if len(b) > MaxStatement {
		return Statement{}, fmt.Errorf("more than the %d bytes allowed", MaxStatement)
	}
	var s Statement
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&s); err != nil {
		return Statement{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Statement{}, errors.New("something follows the statement")
	}
	return s, s.check()
}

// check tells all that is wrong with the statement's form.
func (s Statement) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Type != StatementType {
		bad("its type is %.80q, not %s", s.Type, StatementType)
	}
	if s.PredicateType != PredicateType {
		bad("its predicate is %.80q, not %s", s.PredicateType, PredicateType)
	}
	if len(s.Subject) == 0 {
		bad("it has no subject")
	}
	seen := map[string]bool{}
	for _, r := range s.Subject {
		if r.Name == "" || seen[r.Name] {
			bad("the subject %.80q has no name, or is there twice", r.Name)
		}
		seen[r.Name] = true
		if len(r.Digest["sha256"]) == 0 {
			bad("the subject %.80q has no SHA-256", r.Name)
		}
		errs = append(errs, r.check())
	}
	b := s.Predicate.BuildDefinition
	if !absolute(b.Type) {
		bad("its build type %.80q is not an absolute URI", b.Type)
	}
	if len(b.External) == 0 {
		bad("it has no external parameters")
	}
	for _, r := range b.Dependencies {
		errs = append(errs, r.check())
	}
	if id := s.Predicate.RunDetails.Builder.ID; !absolute(id) {
		bad("its builder %.80q is not an absolute URI", id)
	}
	return errors.Join(errs...)
}

// digestForm is that of the algorithms that holdfast uses, all of 32 bytes.
var digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (r Resource) check() error {
	what := cmp.Or(r.URI, r.Name)
	var errs []error
	if what == "" {
		errs = append(errs, errors.New("a thing without name and URI"))
	}
	if r.URI != "" && !absolute(r.URI) {
		errs = append(errs, fmt.Errorf("%.200q is not an absolute URI", r.URI))
	}
	for _, algorithm := range []string{"sha256", "dirHash"} {
		if d, ok := r.Digest[algorithm]; ok && !digestForm.MatchString(d) {
			errs = append(errs, fmt.Errorf("%.200s: its %s %.80q is not 64 lower-case hexadecimal digits", what, algorithm, d))
		}
	}
	return errors.Join(errs...)
}

func absolute(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && u.IsAbs()
}
