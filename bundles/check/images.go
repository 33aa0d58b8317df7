package check

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

const declare = "list it, by its full name with registry and tag, under images in site.yaml"

// pinned says what is wrong with the image in a field that Render pins, and
// what to do; nothing if it resolves.
func (s Site) pinned(name string) (message, hint string) {
	base, digest, _ := strings.Cut(name, "@")
	d, ok := s.Images[base]
	switch {
	case name == "":
		return "no image", declare
	case !ok:
		return fmt.Sprintf("image %q is not in the release", name), declare + s.near(base)
	case digest != "" && d.Composed:
		return composed(name)
	case digest != "" && d.Manifest != "" && digest != string(d.Manifest) && digest != string(d.Index):
		return fmt.Sprintf("image %q is not in the release with that digest, but with %s", name, d.Manifest), "remove the digest: the lock has it"
	}
	return "", ""
}

// named says the same of an image that is named elsewhere, in an argument for
// example. Nothing puts a digest there: the node's store must serve the name as
// it stands, and it serves the names and digests of the release.
func (s Site) named(name string) (message, hint string) {
	base, digest, pinned := strings.Cut(name, "@")
	d, ok := s.Images[base]
	switch {
	case !ok && pinned && s.holds(base, digest):
		return "", ""
	case !ok:
		return fmt.Sprintf("image %q is not in the release", name), declare + s.near(base)
	case pinned && d.Composed:
		return composed(name)
	case !pinned || d.Manifest == "" || digest == string(d.Manifest):
		return "", ""
	case digest == string(d.Index):
		return fmt.Sprintf("image %q is named by its index, and the release has the image for the nodes' platform alone", name), fmt.Sprintf("write @%s, or the tag alone", d.Manifest)
	}
	return fmt.Sprintf("image %q is not in the release with that digest, but with %s", name, d.Manifest), "write that, or the tag alone"
}

func composed(name string) (message, hint string) {
	return fmt.Sprintf("image %q is composed by build, and has its digest only then", name), "remove the digest"
}

// holds reports whether the release has an image of that repository with that
// digest, whatever its tag.
func (s Site) holds(repository, digest string) bool {
	for name, d := range s.Images {
		if digest == string(d.Manifest) && digest != "" && strings.HasPrefix(name, repository+":") {
			return true
		}
	}
	return false
}

// near is a remark on images of the release that may be meant.
func (s Site) near(base string) string {
	repository := func(name string) string {
		name, _, _ = strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
		return name
	}
	var found []string
	for name := range s.Images {
		if repository(name) == repository(base) {
			found = append(found, name)
		}
	}
	if len(found) == 0 || len(found) > 3 {
		return ""
	}
	slices.Sort(found)
	return "; the release has " + strings.Join(found, ", ")
}

// The parts of an image's name, as the distribution specification has them.
const (
	component = `[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*`
	tag       = `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
	digest    = `sha256:[0-9a-f]{64}`
)

var (
	fullImage  = regexp.MustCompile(`^([A-Za-z0-9.-]+(?::[0-9]{1,5})?)/(` + component + `(?:/` + component + `)*)(?::(` + tag + `))?(?:@(` + digest + `))?$`)
	shortImage = regexp.MustCompile(`^` + component + `(?:/` + component + `)*(?::` + tag + `)?(?:@` + digest + `)?$`)
	taint      = regexp.MustCompile(`^(NoSchedule|PreferNoSchedule|NoExecute)-?$`)
)

// isImage reports whether a word has the form of an image's full name: a host
// with a dot or a port, or localhost; a path; a tag or a digest. Names of API
// groups, modules, files, networks, taints and the like have not.
func isImage(word string) bool {
	if len(word) > 512 {
		return false
	}
	m := fullImage.FindStringSubmatch(word)
	if m == nil || m[3] == "" && m[4] == "" || taint.MatchString(m[3]) {
		return false
	}
	host, port, hasPort := strings.Cut(m[1], ":")
	if hasPort {
		return isLabel(host) || isName(host) || isAddress(host)
	}
	if isAddress(host) {
		return strings.Trim(m[2], "0123456789") != "" // 10.0.0.0/8:… is a network
	}
	return port == "" && (host == "localhost" || isName(host))
}

// isUntagged reports whether a value that is called an image is a full name
// that lacks nothing but tag and digest, which a registry would make :latest.
func isUntagged(s string) bool {
	return strings.LastIndexByte(s, ':') <= strings.LastIndexByte(s, '/') && isImage(s+":latest")
}

// isShortImage reports whether a value that is called an image is one whose
// registry is left out, with a tag or a digest.
func isShortImage(s string) bool {
	return len(s) <= 512 && strings.ContainsAny(s, ":@") && shortImage.MatchString(s)
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isDigest reports whether a text is the digest of an image.
func isDigest(s string) bool {
	_, err := store.ParseDigest(s)
	return err == nil
}
