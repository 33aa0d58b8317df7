// Package inventory reads what is in a container image that others made, as
// far as it names itself: the packages in the databases of dpkg, apk and rpm,
// those of npm, Python, Ruby and Java by the files that they bring, and the
// modules in the build information of Go programs. Nothing of an image is
// run or unpacked to disk, but for one program at a time.
//
// Layers come from outside: every read has a limit. Links are not followed; a
// database that can be reached through a link alone is not found.
package inventory

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// Version changes whenever the same image may give another result.
const Version = 3

// Contents are what an image says is in it.
type Contents struct {
	OS       OS        `json:"os,omitzero"`
	Packages []Package `json:"packages,omitempty"` // each once, sorted
	Modules  []Module  `json:"modules,omitempty"`  // each once, sorted
	Notes    []string  `json:"notes"`              // what was read, and what was found and not read
}

// OS is what os-release says.
type OS struct {
	ID      string `json:"id,omitempty"`      // debian, alpine, …
	Version string `json:"version,omitempty"` // 12, 3.20.1, …
}

// Kinds of packages.
const (
	Deb = "deb"
	APK = "apk"
	RPM = "rpm"

	NPM   = "npm"
	PyPI  = "pypi"
	Gem   = "gem"
	Maven = "maven"
)

// Package is an installed package of a distribution, or of a language.
type Package struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`    // of Maven: GROUP:ARTIFACT, or the artifact where its group is not known
	Version string `json:"version"` // of rpm: [EPOCH:]VERSION-RELEASE
	Arch    string `json:"arch,omitempty"`
	Source  string `json:"source,omitempty"` // the source package, if it has another name
}

// Module is a Go module that was linked into a program. The standard library
// is "std", with the toolchain's version.
type Module struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	H1      string `json:"h1,omitempty"` // as in go.sum
}

// Layer is a layer of an image: a tar file, plain or compressed by gzip or zstd.
type Layer struct {
	Name string // for messages
	Open func() (io.ReadCloser, error)
}

// Read reads the layers of an image, the lowest first. What is hidden by
// higher layers does not count. tmp makes a file that Read removes; it holds one
// program at a time, of which debug information is read here and there.
//
// A layer that is no tar file, or is beyond the limits, is an error; a database
// or program that cannot be understood is left out, and said in the notes.
func Read(ctx context.Context, layers []Layer, tmp func() (*os.File, error)) (Contents, error) {
	f, err := tmp()
	if err != nil {
		return Contents{}, fmt.Errorf("cannot read image: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	r := reader{ctx: ctx, scratch: f, left: maxUnpacked, covered: map[string]cover{}, found: map[string]finding{}}
	for i := len(layers) - 1; i >= 0; i-- {
		if err := r.layer(layers[i]); err != nil {
			return Contents{}, fmt.Errorf("cannot read layer %s: %w", layers[i].Name, err)
		}
	}
	return r.contents(), ctx.Err()
}

// contents makes one list of what was found.
func (r *reader) contents() Contents {
	var c Contents
	packages, modules := map[Package]bool{}, map[Module]bool{}
	programs, inPrograms := 0, 0
	files := map[string]int{} // of languages, by kind
	for _, name := range slices.Sorted(maps.Keys(r.found)) {
		f := r.found[name]
		if f.note != "" {
			c.Notes = append(c.Notes, name+": "+f.note)
		}
		switch {
		case f.modules != nil:
			programs++
			for _, m := range f.modules {
				modules[m] = true
			}
		case f.packages != nil:
			files[f.packages[0].Kind]++
			for _, p := range f.packages {
				packages[p] = true
			}
		case f.note != "":
		case isRelease(name):
			if os := parseOS(f.data); name == etcRelease || c.OS.ID == "" {
				c.OS = os
			}
		default:
			ps, bad, err := parseDatabase(r.ctx, name, f.data)
			if err != nil {
				c.Notes = append(c.Notes, name+": "+err.Error())
				continue
			}
			for _, p := range ps {
				packages[p] = true
			}
			note := fmt.Sprintf("%s: %d packages", name, len(ps))
			if bad > 0 {
				note += fmt.Sprintf(", and %d entries that could not be understood", bad)
			}
			c.Notes = append(c.Notes, note)
		}
	}
	if programs > 0 {
		inPrograms = len(modules)
		c.Notes = append(c.Notes, fmt.Sprintf("Go build information of %d programs: %d modules", programs, inPrograms))
	}
	for kind, n := range files {
		each := 0
		for p := range packages {
			if p.Kind == kind {
				each++
			}
		}
		c.Notes = append(c.Notes, fmt.Sprintf("%d files of %s: %d packages", n, kind, each))
	}
	if len(c.Notes) == 0 {
		c.Notes = []string{"no database of packages, no package of a language and no Go program"}
	}
	c.Notes = joinDirectory(c.Notes)
	c.Packages = slices.SortedFunc(maps.Keys(packages), func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Source, b.Source))
	})
	c.Modules = slices.SortedFunc(maps.Keys(modules), func(a, b Module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version), cmp.Compare(a.H1, b.H1))
	})
	return c
}

// maxNotes bounds what is said, as a hostile image could make it long.
const maxNotes = 40

// joinDirectory makes one note of those about files of status.d that were
// read, and cuts the rest.
func joinDirectory(notes []string) []string {
	var out []string
	n := 0
	for _, note := range notes {
		if strings.HasPrefix(note, dpkgDirectory) && strings.HasSuffix(note, ": 1 packages") {
			n++
			continue
		}
		out = append(out, note)
	}
	if n > 0 {
		out = append(out, fmt.Sprintf("%s: %d packages", strings.TrimSuffix(dpkgDirectory, "/"), n))
	}
	slices.Sort(out)
	if more := len(out) - maxNotes; more > 0 {
		out = append(out[:maxNotes], fmt.Sprintf("and %d notes more", more))
	}
	return out
}
