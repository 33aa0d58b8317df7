// Package gobuild compiles Go programs from a module cache, without a network
// and without anything of the host but its kernel: the same recipe with the
// same toolchain gives the same bytes on every machine.
//
// A recipe is a small main module: go.mod and go.sum fix every dependency, and
// its programs are packages of the module itself or of what it requires. A
// directory of the recipe may be a module that replaces one that it requires.
package gobuild

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// BuildDate stands in a program's LDFlags for the time of the build's epoch,
// in UTC and as RFC 3339. Only a recipe that names it depends on the epoch.
const BuildDate = "@BUILDDATE@"

// Platform is what programs are compiled for.
const Platform = "linux/amd64/v1"

// Recipe is what to compile. Files are keyed by slash-separated path below the
// module's root; go.mod must be among them, and go.sum unless go.mod requires
// nothing.
type Recipe struct {
	Name     string
	Files    map[string][]byte
	Programs []Program
}

// Program is one executable of a recipe.
type Program struct {
	Name    string `json:"name" yaml:"name"`       // of the executable
	Package string `json:"package" yaml:"package"` // import path, or a path that starts with "."
	LDFlags string `json:"ldflags,omitempty" yaml:"ldflags"`
	Tags    string `json:"tags,omitempty" yaml:"tags"` // separated by commas
}

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	packageForm = regexp.MustCompile(`^[A-Za-z0-9._~/-]+$`)
	tagsForm    = regexp.MustCompile(`^[A-Za-z0-9._,]*$`)
)

// Check reports everything that is wrong with the recipe itself.
func (r Recipe) Check() error {
	var errs []error
	fault := func(format string, a ...any) {
		errs = append(errs, fmt.Errorf("cannot use recipe %q: "+format, append([]any{r.Name}, a...)...))
	}
	if !nameForm.MatchString(r.Name) {
		fault("the name must match %s", nameForm)
	}
	if len(r.Files["go.mod"]) == 0 {
		fault("it has no go.mod")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			fault("file %q is not a clean path below the module", name)
		}
		if path.Base(name) == "go.work" {
			fault("file %q would join other modules", name)
		}
	}
	if len(r.Programs) == 0 {
		fault("it builds no program")
	}
	seen := map[string]bool{}
	for _, p := range r.Programs {
		if !nameForm.MatchString(p.Name) || p.Name == resultName {
			fault("program name %q must match %s", p.Name, nameForm)
		}
		if seen[p.Name] {
			fault("program %s is there twice", p.Name)
		}
		seen[p.Name] = true
		if !packageForm.MatchString(p.Package) || strings.HasPrefix(p.Package, "-") || strings.Contains(p.Package, "...") {
			fault("program %s: %q is not one package", p.Name, p.Package)
		}
		if !tagsForm.MatchString(p.Tags) {
			fault("program %s: tags %q must be words separated by commas", p.Name, p.Tags)
		}
		if strings.Contains(p.LDFlags, "-ext") || strings.Contains(p.LDFlags, "-linkmode") {
			fault("program %s: ldflags %q may not call another linker", p.Name, p.LDFlags)
		}
	}
	return errors.Join(errs...)
}

// Digest names the recipe: files, programs and flags, whatever their order.
func (r Recipe) Digest() store.Digest {
	var b bytes.Buffer
	field := func(v []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(v)))
		b.Write(n[:])
		b.Write(v)
	}
	field([]byte(r.Name))
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		field([]byte("file"))
		field([]byte(name))
		field(r.Files[name])
	}
	programs := slices.Clone(r.Programs)
	slices.SortFunc(programs, func(a, b Program) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range programs {
		for _, s := range []string{"program", p.Name, p.Package, p.LDFlags, p.Tags} {
			field([]byte(s))
		}
	}
	return store.FromBytes(b.Bytes())
}

// Key names the result of building r: it changes when any byte of it could.
func (r Recipe) Key(toolchain string, epoch int64) (string, error) {
	k := struct {
		Format                      int
		Recipe                      store.Digest
		Toolchain, Platform, Always string
		Epoch                       int64
	}{1, r.Digest(), toolchain, Platform, alwaysLDFlags + " " + alwaysGCFlags, 0}
	for _, p := range r.Programs {
		if strings.Contains(p.LDFlags, BuildDate) {
			k.Epoch = epoch
		}
	}
	b, err := json.Marshal(k)
	if err != nil {
		return "", fmt.Errorf("internal error: %w", err)
	}
	sum := sha256.Sum256(b)
	return r.Name + "-" + store.SHA256(sum[:]).Hex()[:32], nil
}
