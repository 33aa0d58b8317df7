package deb

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

const maxIndex = 1 << 30 // bytes of an uncompressed Packages file

// Package is one entry of a Packages index. Relations are kept as written;
// [ParseRelations] reads them.
type Package struct {
	Name, Version, Arch   string
	Archive               string // the name given to ParsePackages, such as "debian"
	Filename              string // below the archive's base URL: pool/…
	Content               store.Content
	Source, SourceVersion string
	Priority              string
	MultiArch             string
	Essential             bool
	InstalledSize         int64 // KiB, as dpkg counts

	PreDepends, Depends, Recommends, Provides, Conflicts, Breaks string
}

func (p Package) String() string { return p.Name + "=" + p.Version }

// Index is the packages of one or more archives for one architecture.
type Index struct {
	Arch      string
	packages  map[string][]Package  // by name, highest version first
	providers map[string][]provider // by provided name
}

type provider struct{ name, version string } // of a package

// Len is the number of packages, older versions included.
func (ix *Index) Len() int {
	n := 0
	for _, ps := range ix.packages {
		n += len(ps)
	}
	return n
}

// Get returns the highest version of a package.
func (ix *Index) Get(name string) (Package, bool) {
	ps := ix.packages[name]
	if len(ps) == 0 {
		return Package{}, false
	}
	return ps[0], true
}

// GetVersion returns one version of a package.
func (ix *Index) GetVersion(name, version string) (Package, bool) {
	for _, p := range ix.packages[name] {
		if p.Version == version {
			return p, true
		}
	}
	return Package{}, false
}

// ParsePackages reads an uncompressed Packages file. Entries for an
// architecture other than arch or "all" are an error.
func ParsePackages(r io.Reader, archive, arch string) (*Index, error) {
	ix := &Index{Arch: arch, packages: map[string][]Package{}, providers: map[string][]provider{}}
	err := ReadParagraphs(&limited{r, maxIndex}, func(para Paragraph) error {
		p, err := packageOf(para)
		if err != nil {
			return err
		}
		if p.Arch != arch && p.Arch != "all" {
			return fmt.Errorf("%s is for %q, not for %q", p, p.Arch, arch)
		}
		p.Archive = archive
		return ix.add(p)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the Packages index of %s: %w", archive, err)
	}
	return ix, nil
}

// Merge returns an index of all packages of several; where name and version
// are the same, the earlier index has precedence.
func Merge(all ...*Index) (*Index, error) {
	if len(all) == 0 {
		return nil, errors.New("cannot merge indices: none given")
	}
	if len(all) == 1 {
		return all[0], nil
	}
	m := &Index{Arch: all[0].Arch, packages: map[string][]Package{}, providers: map[string][]provider{}}
	for _, ix := range all {
		if ix.Arch != m.Arch {
			return nil, fmt.Errorf("cannot merge indices: one is for %s, another for %s", m.Arch, ix.Arch)
		}
		for _, ps := range ix.packages {
			for _, p := range ps {
				if err := m.add(p); err != nil {
					return nil, fmt.Errorf("cannot merge indices: %w", err)
				}
			}
		}
	}
	return m, nil
}

func (ix *Index) add(p Package) error {
	ps := ix.packages[p.Name]
	at := len(ps)
	for i, q := range ps {
		c := CompareVersions(p.Version, q.Version)
		if c == 0 {
			return nil
		}
		if c > 0 {
			at = i
			break
		}
	}
	provides, err := ParseRelations(p.Provides, ix.Arch)
	if err != nil {
		return fmt.Errorf("%s provides: %w", p, err)
	}
	for _, alts := range provides {
		for _, r := range alts {
			ix.providers[r.Name] = append(ix.providers[r.Name], provider{p.Name, r.Version})
		}
	}
	ix.packages[p.Name] = slices.Insert(ps, at, p)
	return nil
}

func packageOf(para Paragraph) (Package, error) {
	var p Package
	var size, sum, installed, essential string
	for _, f := range para {
		var at *string
		switch f.Name {
		case "Package":
			at = &p.Name
		case "Version":
			at = &p.Version
		case "Architecture":
			at = &p.Arch
		case "Filename":
			at = &p.Filename
		case "Source":
			at = &p.Source
		case "Priority":
			at = &p.Priority
		case "Multi-Arch":
			at = &p.MultiArch
		case "Essential":
			at = &essential
		case "Size":
			at = &size
		case "SHA256":
			at = &sum
		case "Installed-Size":
			at = &installed
		case "Pre-Depends":
			at = &p.PreDepends
		case "Depends":
			at = &p.Depends
		case "Recommends":
			at = &p.Recommends
		case "Provides":
			at = &p.Provides
		case "Conflicts":
			at = &p.Conflicts
		case "Breaks":
			at = &p.Breaks
		default:
			continue
		}
		*at = strings.Clone(f.Value)
	}
	if !ValidName(p.Name) {
		return Package{}, fmt.Errorf("%.40q is no package name", p.Name)
	}
	if err := CheckVersion(p.Version); err != nil {
		return Package{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	if !safePath(p.Filename) {
		return Package{}, fmt.Errorf("%s: bad Filename %.80q", p, p.Filename)
	}
	var err error
	if p.Content.Digest, err = store.ParseDigest("sha256:" + sum); err != nil {
		return Package{}, fmt.Errorf("%s: %w", p, err)
	}
	if p.Content.Size, err = strconv.ParseInt(size, 10, 64); err != nil || p.Content.Size < 0 {
		return Package{}, fmt.Errorf("%s: bad Size %.40q", p, size)
	}
	if installed != "" {
		if p.InstalledSize, err = strconv.ParseInt(installed, 10, 64); err != nil || p.InstalledSize < 0 {
			return Package{}, fmt.Errorf("%s: bad Installed-Size %.40q", p, installed)
		}
	}
	p.Essential = essential == "yes"
	p.SourceVersion = p.Version
	if p.Source == "" {
		p.Source = p.Name
	}
	if s, v, ok := strings.Cut(p.Source, " "); ok {
		p.Source, p.SourceVersion = s, strings.Trim(v, "()")
	}
	return p, nil
}

// safePath reports whether s can be put below a base URL or directory.
func safePath(s string) bool {
	return s != "" && s[0] != '/' && path.Clean(s) == s && s != ".." && !strings.HasPrefix(s, "../") &&
		!strings.ContainsAny(s, "\x00\\?#")
}
