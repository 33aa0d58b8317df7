package overlays

import (
	"errors"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

var (
	registryForm = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+(:[0-9]{1,5})?|[a-z0-9-]+:[0-9]{1,5}|localhost)$`)
	// Path components as the distribution specification has them.
	imageForm     = regexp.MustCompile(`^([^/]+)/[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	sha256Form    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	trustFileForm = regexp.MustCompile(`^trust/[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

func checkImageName(s string) error {
	m := imageForm.FindStringSubmatch(s)
	switch {
	case len(s) > 512 || m == nil || !registryForm.MatchString(m[1]):
		return errors.New("want registry/repository:tag, as in registry.example/team/app:1.4, and nothing left out")
	case m[5] == "" && m[6] == "":
		return errors.New("want a tag, as in :1.4, or a digest, @sha256:…")
	}
	return nil
}

func checkRegistry(s string) error {
	if len(s) > 253 || !registryForm.MatchString(s) {
		return errors.New("want a registry as images are named after it, as in docker.io or registry.example:5000")
	}
	return nil
}

func checkRegistryURL(s string) error {
	if err := checkMirror(s); err != nil {
		return err
	}
	if u, err := url.Parse(s); err != nil || u.Scheme == "file" {
		return errors.New("want a URL that starts with https:// or http://")
	}
	return nil
}

func checkRegexp(s string) error {
	if _, err := regexp.Compile(s); err != nil || len(s) > 500 {
		return errors.New("want a regular expression, as in ^library/")
	}
	return nil
}

func checkIdentity(s string) error {
	if s == "" || len(s) > 1000 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return errors.New("want an address or URL, as it stands in the certificate")
	}
	return nil
}

func checkSHA256(s string) error {
	if !sha256Form.MatchString(s) {
		return errors.New("want 64 lower-case hexadecimal digits, as sha256sum prints them")
	}
	return nil
}

// IsURL reports whether the image is taken from a web server's file.
func (im Image) IsURL() bool { return strings.Contains(im.From, "://") }

func checkPath(s string) error {
	if strings.Contains(s, "://") {
		return checkRegistryURL(s)
	}
	if s == "" || len(s) > 1000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || filepath.Clean(s) == "/" {
		return errors.New("want the path of a file or directory")
	}
	return nil
}

func checkTrustFile(s string) error {
	if !trustFileForm.MatchString(s) || path.Clean(s) != s {
		return errors.New("want a file directly in trust/, as in trust/vendor.pub")
	}
	return nil
}
