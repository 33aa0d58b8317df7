package deb

import (
	"fmt"
	"slices"
	"strings"

	version "github.com/knqyf263/go-deb-version"
)

// Relation names a package and, perhaps, the versions that will do.
type Relation struct {
	Name    string
	Arch    string // qualifier after the colon: "any", an architecture or ""
	Op      string // "<<", "<=", "=", ">=", ">>" or "" for any version
	Version string
}

func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// Alternatives are relations of which one is enough.
type Alternatives []Relation

func (a Alternatives) String() string {
	s := make([]string, len(a))
	for i, r := range a {
		s[i] = r.String()
	}
	return strings.Join(s, " | ")
}

// ParseRelations reads the value of a field such as Depends. Restrictions in
// brackets are evaluated for arch, those in angle brackets for a build without
// profiles; an alternative that they switch off is left out.
func ParseRelations(s, arch string) ([]Alternatives, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var all []Alternatives
	for group := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(group) == "" {
			continue // a trailing comma is allowed
		}
		var alts Alternatives
		for alt := range strings.SplitSeq(group, "|") {
			r, on, err := parseRelation(alt, arch)
			if err != nil {
				return nil, fmt.Errorf("cannot read the relation %.80q: %w", strings.TrimSpace(alt), err)
			}
			if on {
				alts = append(alts, r)
			}
		}
		if len(alts) > 0 {
			all = append(all, alts)
		}
	}
	return all, nil
}

// parseRelation reads one alternative; on is false if its restrictions say
// that it does not apply.
func parseRelation(s, arch string) (r Relation, on bool, err error) {
	s = strings.TrimSpace(s)
	end := strings.IndexAny(s, " \t\n([<")
	if end < 0 {
		end = len(s)
	}
	name, qualifier, colon := strings.Cut(s[:end], ":")
	r = Relation{Name: name, Arch: qualifier}
	if !ValidName(name) || colon && !ValidName(qualifier) {
		return Relation{}, false, fmt.Errorf("%.40q is no package name", s[:end])
	}
	on = true
	profiles, met := false, false
	for s = strings.TrimSpace(s[end:]); s != ""; s = strings.TrimSpace(s) {
		closing := map[byte]string{'(': ")", '[': "]", '<': ">"}[s[0]]
		inside, rest, ok := strings.Cut(s[1:], closing)
		if closing == "" || !ok {
			return Relation{}, false, fmt.Errorf("cannot read %.40q", s)
		}
		switch s[0] {
		case '(':
			if r.Op != "" {
				return Relation{}, false, fmt.Errorf("two versions")
			}
			if r.Op, r.Version, err = parseConstraint(inside); err != nil {
				return Relation{}, false, err
			}
		case '[':
			on = on && archMatches(inside, arch)
		case '<':
			// Lists in angle brackets are alternatives of each other.
			profiles = true
			met = met || profileMet(inside)
		}
		s = rest
	}
	return r, on && (!profiles || met), nil
}

func parseConstraint(s string) (op, ver string, err error) {
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, func(c rune) bool { return !strings.ContainsRune("<=>", c) })
	if i < 0 {
		i = len(s)
	}
	op, ver = s[:i], strings.TrimSpace(s[i:])
	switch op {
	case "<": // as dpkg reads these old forms
		op = "<="
	case ">":
		op = ">="
	case "<<", "<=", "=", ">=", ">>":
	default:
		return "", "", fmt.Errorf("%.20q is no comparison", op)
	}
	if err := CheckVersion(ver); err != nil {
		return "", "", err
	}
	return op, ver, nil
}

// archMatches evaluates "amd64 arm64" or "!amd64 !arm64".
func archMatches(list, arch string) bool {
	negative := false
	for a := range strings.FieldsSeq(list) {
		not := strings.HasPrefix(a, "!")
		a = strings.TrimPrefix(a, "!")
		negative = negative || not
		if a == arch || a == "any" || a == "linux-any" || a == "any-"+arch {
			return !not
		}
	}
	return negative
}

// profileMet evaluates one list of build profiles when none is active.
func profileMet(list string) bool {
	for p := range strings.FieldsSeq(list) {
		if !strings.HasPrefix(p, "!") {
			return false
		}
	}
	return true
}

// ValidName reports whether s can be a package's name.
func ValidName(s string) bool {
	if s == "" || len(s) > 255 || !alnum(s[0]) {
		return false
	}
	for i := range len(s) {
		if !alnum(s[i]) && !slices.Contains([]byte("+-."), s[i]) {
			return false
		}
	}
	return true
}

func alnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// CheckVersion says what is wrong with a version (deb-version(7)).
func CheckVersion(s string) error {
	if len(s) > 255 {
		return fmt.Errorf("a version of %d characters", len(s))
	}
	for i := range len(s) {
		// Printable ASCII only: the library takes any letter and digit.
		if s[i] <= ' ' || s[i] >= 0x7f {
			return fmt.Errorf("%.40q is no version", s)
		}
	}
	if _, err := version.NewVersion(s); err != nil {
		return fmt.Errorf("%.40q is no version: %w", s, err)
	}
	return nil
}

// CompareVersions orders versions as dpkg does: -1, 0 or 1. A version that
// cannot be read counts as lower than any other.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	va, errA := version.NewVersion(a)
	vb, errB := version.NewVersion(b)
	switch {
	case errA != nil && errB != nil:
		return strings.Compare(a, b)
	case errA != nil:
		return -1
	case errB != nil:
		return 1
	}
	c := va.Compare(vb) // any size; only its sign counts
	switch {
	case c < 0:
		return -1
	case c > 0:
		return 1
	}
	return 0
}

// allows reports whether version v will do for r.
func (r Relation) allows(v string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareVersions(v, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}
