// Package debian fetches signed indices and packages from Debian mirrors, which
// may be directories. No host name is in the code: mirrors come from the site,
// the environment or the host's apt sources.
package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"holdfast.dev/holdfast/image/deb"
)

// The archives.
const (
	Main     = "debian"
	Security = "debian-security"
)

// The environment variables that name mirrors: base URLs, separated by blanks.
const (
	EnvMain     = "HOLDFAST_DEBIAN_MIRROR"
	EnvSecurity = "HOLDFAST_DEBIAN_SECURITY_MIRROR"
)

// ErrNoMirror is wrapped by the error of Mirrors.
var ErrNoMirror = errors.New("no mirror known")

// Mirror is where the archives are to be had: base URLs without a slash at the
// end, in the order in which they are tried.
type Mirror struct{ Main, Security []string }

// URLs are the base URLs of one archive.
func (m Mirror) URLs(archive string) []string {
	switch archive {
	case Main:
		return m.Main
	case Security:
		return m.Security
	}
	return nil
}

// Mirrors finds the mirrors of both archives. For each archive the first place
// that names any counts alone: the site's list, the environment, the apt
// configuration of the host (apt is its /etc/apt; nil for none). In lists, a
// URL whose path ends in "-security" is one of the security archive.
func Mirrors(env func(string) string, apt fs.FS, site []string) (Mirror, error) {
	fromSite, err := classify(site)
	if err != nil {
		return Mirror{}, fmt.Errorf("cannot use the site's Debian mirrors: %w", err)
	}
	fromEnv, err := fromEnvironment(env)
	if err != nil {
		return Mirror{}, err
	}
	m := fill(fromSite, fromEnv)
	if apt != nil && (len(m.Main) == 0 || len(m.Security) == 0) {
		fromApt, err := aptMirrors(apt)
		if err != nil {
			return Mirror{}, fmt.Errorf("cannot read apt's sources: %w", err)
		}
		m = fill(m, fromApt)
	}
	var errs []error
	if len(m.Main) == 0 {
		errs = append(errs, fmt.Errorf("cannot find Debian's archive: %w\nhint: list a mirror in the site file, or set %s", ErrNoMirror, EnvMain))
	}
	if len(m.Security) == 0 {
		errs = append(errs, fmt.Errorf("cannot find Debian's security archive: %w\nhint: list a mirror in the site file, or set %s", ErrNoMirror, EnvSecurity))
	}
	if len(errs) > 0 {
		return Mirror{}, errors.Join(errs...)
	}
	return m, nil
}

// fill takes from b what a lacks.
func fill(a, b Mirror) Mirror {
	if len(a.Main) == 0 {
		a.Main = b.Main
	}
	if len(a.Security) == 0 {
		a.Security = b.Security
	}
	return a
}

func classify(list []string) (Mirror, error) {
	var m Mirror
	var errs []error
	for _, s := range list {
		u, err := baseURL(s)
		switch {
		case err != nil:
			errs = append(errs, err)
		case strings.HasSuffix(u, "-security"):
			m.Security = append(m.Security, u)
		default:
			m.Main = append(m.Main, u)
		}
	}
	return m, errors.Join(errs...)
}

func fromEnvironment(env func(string) string) (Mirror, error) {
	var m Mirror
	var errs []error
	for name, list := range map[string]*[]string{EnvMain: &m.Main, EnvSecurity: &m.Security} {
		for s := range strings.FieldsSeq(env(name)) {
			u, err := baseURL(s)
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot use %s: %w", name, err))
			}
			*list = append(*list, u)
		}
	}
	return m, errors.Join(errs...)
}

func baseURL(s string) (string, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	if err == nil && u.RawQuery == "" && u.Fragment == "" {
		switch {
		case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
			return u.String(), nil
		case u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path):
			return u.String(), nil
		}
	}
	return "", fmt.Errorf("%.200q is no http, https or file URL of a mirror", s)
}

// aptMirrors reads sources.list, sources.list.d/*.list and *.sources.
func aptMirrors(apt fs.FS) (Mirror, error) {
	names, err := fs.Glob(apt, "sources.list.d/*")
	if err != nil {
		return Mirror{}, err
	}
	slices.Sort(names)
	var m Mirror
	for _, name := range append([]string{"sources.list"}, names...) {
		one, style := aptOneLine, path.Ext(name)
		if style == ".sources" {
			one = aptDeb822
		} else if style != ".list" {
			continue
		}
		b, err := fs.ReadFile(apt, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Mirror{}, err
		}
		sources, err := one(string(b))
		if err != nil {
			return Mirror{}, fmt.Errorf("%s: %w", name, err)
		}
		for _, s := range sources {
			m = s.addTo(m, apt)
		}
	}
	return m, nil
}

// source is one entry of apt's sources.
type source struct{ uris, suites, components []string }

// addTo adds the source's base URLs if it is one of Debian's own archives;
// third parties are told by their paths and components.
func (s source) addTo(m Mirror, apt fs.FS) Mirror {
	if !slices.Contains(s.components, "main") && !slices.Contains(s.components, "updates/main") {
		return m
	}
	security := slices.ContainsFunc(s.suites, func(suite string) bool {
		return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
	})
	for _, uri := range s.uris {
		for _, u := range expand(uri, apt) {
			switch {
			case path.Base(u) == "debian-security" || security:
				if !slices.Contains(m.Security, u) {
					m.Security = append(m.Security, u)
				}
			case path.Base(u) == "debian":
				if !slices.Contains(m.Main, u) {
					m.Main = append(m.Main, u)
				}
			}
		}
	}
	return m
}

// expand follows apt's mirror lists, mirror+file:/etc/apt/…, to the URLs in
// them. What is no URL that a mirror can have is left out.
func expand(uri string, apt fs.FS) []string {
	lines := []string{uri}
	if name, ok := strings.CutPrefix(uri, "mirror+file:"); ok {
		b, err := fs.ReadFile(apt, strings.TrimPrefix(path.Clean(name), "/etc/apt/"))
		if err != nil {
			return nil
		}
		lines = strings.Split(string(b), "\n")
	}
	var urls []string
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 0 {
			if u, err := baseURL(f[0]); err == nil {
				urls = append(urls, u)
			}
		}
	}
	return urls
}

// aptOneLine reads "deb [options] uri suite component…".
func aptOneLine(text string) ([]source, error) {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			all = append(all, source{f[:1], f[1:2], f[2:]})
		}
	}
	return all, nil
}

func aptDeb822(text string) ([]source, error) {
	var all []source
	err := deb.ReadParagraphs(strings.NewReader(text), func(p deb.Paragraph) error {
		if slices.Contains(strings.Fields(p.Get("Types")), "deb") && !strings.EqualFold(p.Get("Enabled"), "no") {
			all = append(all, source{strings.Fields(p.Get("URIs")), strings.Fields(p.Get("Suites")), strings.Fields(p.Get("Components"))})
		}
		return nil
	})
	return all, err
}
