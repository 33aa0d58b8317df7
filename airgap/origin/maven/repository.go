// Package maven fetches locked artifacts from Maven repositories, which may be
// directories. No host name is in the code: repositories come from the site,
// the environment, the user's Maven settings, or the Maven of the host.
package maven

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Env names repositories: base URLs, separated by blanks.
const Env = "HOLDFAST_MAVEN_MIRROR"

// ErrNoRepository is wrapped by errors for want of a repository.
var ErrNoRepository = errors.New("no Maven repository known")

// central is what Maven calls the repository that it knows by itself.
const central = "central"

// maxConfig bounds a configuration file that is read, in bytes.
const maxConfig = 1 << 20

// Host is the Maven of the build machine; either may be empty.
type Host struct {
	Settings string // the user's settings.xml
	Home     string // where Maven is installed
}

// Repositories finds base URLs, without a slash at the end, in the order in
// which they are tried. The first place that names any counts alone: the site's
// list, the environment, the mirrors of the central repository in the user's
// settings and in those of the installed Maven, the repository that this Maven
// has built in. None at all is no error.
func Repositories(env func(string) string, host Host, site []string) ([]string, error) {
	if len(site) > 0 {
		return baseURLs(site, "the site's Maven repositories")
	}
	if list := strings.Fields(env(Env)); len(list) > 0 {
		return baseURLs(list, Env)
	}
	files := []string{host.Settings}
	if host.Home != "" {
		files = append(files, filepath.Join(host.Home, "conf", "settings.xml"))
	}
	for _, name := range files {
		list, err := mirrors(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read Maven's settings: %w", err)
		}
		if len(list) > 0 {
			return baseURLs(list, name)
		}
	}
	list, err := builtIn(host.Home)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the host's Maven for its repository: %w", err)
	}
	return baseURLs(list, "the repository of the host's Maven")
}

func baseURLs(list []string, from string) ([]string, error) {
	var out []string
	var errs []error
	for _, s := range list {
		u, err := url.Parse(strings.TrimRight(s, "/"))
		switch {
		case err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "":
		case err == nil && u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path):
		default:
			errs = append(errs, fmt.Errorf("cannot use %s: %.200q is no http, https or file URL of a repository", from, s))
			continue
		}
		out = append(out, u.String())
	}
	return out, errors.Join(errs...)
}

// mirrors reads which URLs a settings file puts in the central repository's
// place; none where there is no such file.
func mirrors(name string) ([]string, error) {
	b, err := readSmall(name)
	if name == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s struct {
		Mirrors []struct {
			Of      string `xml:"mirrorOf"`
			URL     string `xml:"url"`
			Blocked bool   `xml:"blocked"`
		} `xml:"mirrors>mirror"`
	}
	if err := xml.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var out []string
	for _, m := range s.Mirrors {
		if !m.Blocked && mirrorsCentral(m.Of) {
			out = append(out, strings.TrimSpace(m.URL))
		}
	}
	return out, nil
}

// mirrorsCentral reads a mirrorOf: names and wildcards, "!" taking one out.
func mirrorsCentral(of string) bool {
	words := strings.FieldsFunc(of, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	has := func(w string) bool { return slices.Contains(words, w) }
	return !has("!"+central) && (has(central) || has("*") || has("external:*"))
}

// builtIn reads the model that every project of an installed Maven inherits.
func builtIn(home string) ([]string, error) {
	if home == "" {
		return nil, nil
	}
	jars, err := filepath.Glob(filepath.Join(home, "lib", "maven-model-builder-*.jar"))
	if err != nil || len(jars) == 0 {
		return nil, err
	}
	z, err := zip.OpenReader(jars[0])
	if err != nil {
		return nil, err
	}
	defer z.Close()
	f, err := z.Open("org/apache/maven/model/pom-4.0.0.xml")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, err
	}
	var model struct {
		Repositories []struct {
			ID  string `xml:"id"`
			URL string `xml:"url"`
		} `xml:"repositories>repository"`
	}
	if err := xml.NewDecoder(bytes.NewReader(b)).Decode(&model); err != nil {
		return nil, err
	}
	for _, r := range model.Repositories {
		if r.ID == central {
			return []string{r.URL}, nil
		}
	}
	return nil, nil
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxConfig)
	}
	return b, err
}
