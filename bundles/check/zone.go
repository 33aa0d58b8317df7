package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/signing"
)

// Secured is what the rules of a zone are held against.
type Secured struct {
	Zone     string
	Policy   signing.Policy
	KeyFile  string   // the private release key, if it is a file
	Packages []string // of the OS root
}

// logins are the packages that let somebody log in over the network by SSH.
var logins = []string{"openssh-server", "dropbear-bin", "dropbear", "dropbear-initramfs", "tinysshd"}

// Rules returns the rules of the zone that are not kept, as far as they are to
// be seen before a build.
func Rules(r overlays.Rules, s Secured) []Finding {
	var out []Finding
	add := func(file, value, hint, format string, a ...any) {
		out = append(out, Finding{Kind: Zone, File: file, Value: value, Message: fmt.Sprintf(format, a...), Hint: hint})
	}
	const policy = "trust/policy.json"
	rule, ok := s.Policy.Rule(s.Zone)
	switch {
	case !ok:
		add(policy, s.Zone, "add a rule for it", "the trust policy has no rule for zone %s", s.Zone)
	case rule.Threshold < r.Signers:
		add(policy, s.Zone, fmt.Sprintf("raise the threshold of the rule to %d", r.Signers), "zone %s asks for %d signers, and the trust policy for %d", s.Zone, r.Signers, rule.Threshold)
	}
	for _, k := range s.Policy.Keys() {
		if k.Development && !r.DevelopmentKeys {
			add(policy, k.Name, "make keys without --development", "zone %s does not allow the development key %s", s.Zone, k.Name)
		}
	}
	if r.HSM && s.KeyFile != "" {
		add(s.KeyFile, s.KeyFile, "", "zone %s asks for signing keys in hardware, and this one is a file", s.Zone)
	}
	for _, p := range s.Packages {
		if r.SSH == "forbidden" && slices.Contains(logins, p) {
			add("site.lock", p, "remove it from os.packages, or exclude it", "zone %s forbids SSH, and the root has the package %s", s.Zone, p)
		}
	}
	return out
}

// Engine returns what the engine's own programs need and the release lacks:
// images by the last part of their names.
func Engine(name string, needs []string, images map[string]Digests) []Finding {
	var out []Finding
	for _, n := range needs {
		found := false
		for image := range images {
			found = found || strings.HasPrefix(image[strings.LastIndexByte(image, '/')+1:], n+":")
		}
		if !found {
			out = append(out, Finding{Kind: Image, Value: n, Message: fmt.Sprintf("the engine %s needs an image %s, and the release has none", name, n)})
		}
	}
	return out
}

// Composed gives what the images of c that are composed run, over a project's
// image or not, with which variables and files, in the form of objects.
func Composed(c catalog.Component) ([]catalog.Object, error) {
	var out []catalog.Object
	for _, im := range c.Images {
		b, err := json.Marshal(im.Source)
		o := catalog.Object{Component: c.Name, File: c.Name + "/component.yaml", Kind: "Image", Name: im.Name}
		if err == nil {
			err = json.Unmarshal(b, &o.Data)
		}
		if err != nil {
			return nil, fmt.Errorf("internal error: image %s of the catalog: %w", im.Name, err)
		}
		out = append(out, o)
	}
	return out, nil
}
