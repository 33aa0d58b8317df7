package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"path"
	"regexp"
	"strings"
)

// maxMetadata bounds what is read of a file in which one package of a language
// names itself, in bytes.
const maxMetadata = 1 << 20

// language is the kind of package that a file is about by its place, or "".
func language(name string) string {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	above := path.Dir(dir) // of the package's own directory
	if strings.HasPrefix(path.Base(above), "@") {
		above = path.Dir(above)
	}
	switch {
	case base == "package.json" && path.Base(above) == "node_modules":
		return NPM
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info"), strings.HasSuffix(base, ".egg-info"):
		return PyPI
	case strings.HasSuffix(base, ".gemspec") && (path.Base(dir) == "specifications" || strings.HasSuffix(dir, "/specifications/default")):
		return Gem
	case strings.HasSuffix(base, ".jar"), strings.HasSuffix(base, ".war"), strings.HasSuffix(base, ".ear"):
		return Maven
	}
	return ""
}

// Names and versions, each as its registry allows them.
var (
	npmName     = regexp.MustCompile(`^(@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~_-][A-Za-z0-9._~-]*$`)
	pypiName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	gemName     = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	anyVersion  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+!~-]*$`)
	gemNameLine = regexp.MustCompile(`(?m)^\s*[a-z_]+\.name\s*=\s*"([^"\\]+)"`)
	gemVersion  = regexp.MustCompile(`(?m)^\s*[a-z_]+\.version\s*=\s*"([^"\\]+)"`)
	pypiRuns    = regexp.MustCompile(`[-_.]+`)
)

// package1 reads the one package of npm, Python or Ruby that a file is about.
// Which has no name or version is none: such files lie beside programs too.
func package1(kind string, t io.Reader) (finding, error) {
	data, err := io.ReadAll(io.LimitReader(t, maxMetadata))
	if err != nil {
		return finding{}, err
	}
	p := Package{Kind: kind}
	form := npmName
	switch kind {
	case NPM:
		var f struct{ Name, Version string }
		if err := json.Unmarshal(data, &f); err != nil {
			return finding{note: "package.json that is not JSON"}, nil
		}
		p.Name, p.Version = f.Name, f.Version
	case PyPI:
		p.Name, p.Version = headers(data)
		form = pypiName
	case Gem:
		if m := gemNameLine.FindSubmatch(data); m != nil {
			p.Name = string(m[1])
		}
		if m := gemVersion.FindSubmatch(data); m != nil {
			p.Version = string(m[1])
		}
		form = gemName
	}
	switch {
	case p.Name == "" || p.Version == "":
		return finding{}, nil
	case !form.MatchString(p.Name), !anyVersion.MatchString(p.Version), long(p):
		return finding{note: "a package whose name or version could not be understood"}, nil
	}
	if kind == PyPI { // its names are equal beyond that (PEP 503)
		p.Name = strings.ToLower(pypiRuns.ReplaceAllString(p.Name, "-"))
	}
	return finding{packages: []Package{p}}, nil
}

// headers reads Name and Version of Python's metadata, which are like those of
// mail; what comes after an empty line is a description.
func headers(data []byte) (name, version string) {
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, maxMetadata)
	for sc.Scan() && sc.Text() != "" {
		key, value, _ := strings.Cut(sc.Text(), ":")
		switch value = strings.TrimSpace(value); {
		case strings.EqualFold(key, "Name") && name == "":
			name = value
		case strings.EqualFold(key, "Version") && version == "":
			version = value
		}
	}
	return name, version
}
