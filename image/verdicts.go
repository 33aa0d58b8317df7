package image

import (
	_ "embed"
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
	Verdict string         `json:"verdict"`
}

var verdicts = sync.OnceValues(func() (map[string][]verdict, error) {
	var v map[string][]verdict
	err := yaml.UnmarshalStrict(verdictsYAML, &v)
	return v, err
})

// Verdict is what the reviewers said of a package's maintainer script: that
// it is ignored, and why, or which fix-up does its work. It is empty where
// nobody has read this script in this form.
func Verdict(pkg, script string, d store.Digest) string {
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
		if v.Script != script {
			continue
		}
		for _, have := range v.Digests {
			if have == d {
				return v.Verdict
			}
		}
	}
	return ""
}
