package image

import (
	_ "embed"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/airgap/store"
)

// verdictsYAML says, for each preinst and postinst that somebody has read, by
// package, what became of it. A digest that is not here has not been read.
//
//go:embed verdicts.yaml
var verdictsYAML []byte

type verdict struct {
	Script  string         `json:"script"`
	Digests []store.Digest `json:"digests"` // of the versions that were read
	Texts   []string       `json:"texts"`   // or the whole script, with upstreamVersion for the package's
	Verdict string         `json:"verdict"`
}

// upstreamVersion stands in a text for the package's version without epoch and
// Debian revision.
const upstreamVersion = "@VERSION@"

var verdicts = sync.OnceValues(func() (map[string][]verdict, error) {
	var v map[string][]verdict
	err := yaml.UnmarshalStrict(verdictsYAML, &v)
	return v, err
})

// Verdict is what the reviewers said of a maintainer script of a package in
// that version: that it is ignored, and why, or which fix-up does its work. It
// is empty where nobody has read this script in this form.
func Verdict(pkg, version, script string, d store.Digest) string {
	switch script {
	case "prerm", "postrm":
		return "ignored: nothing is removed from a node"
	case "config":
		return "ignored: nobody is asked questions"
	}
	all, err := verdicts()
	if err != nil {
		return ""
	}
	// The kernel's package has its version in its name.
	if strings.HasPrefix(pkg, "linux-image-") {
		pkg = "linux-image"
	}
	for _, v := range all[pkg] {
		if v.Script == script && v.covers(version, d) {
			return v.Verdict
		}
	}
	return ""
}

func (v verdict) covers(version string, d store.Digest) bool {
	if slices.Contains(v.Digests, d) {
		return true
	}
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	if i := strings.LastIndexByte(version, '-'); i >= 0 {
		version = version[:i]
	}
	return slices.ContainsFunc(v.Texts, func(text string) bool {
		return d == store.FromBytes([]byte(strings.ReplaceAll(text, upstreamVersion, version)))
	})
}
