// Package airgap pins every input of a release (Resolve), brings them in
// (Collect), and is the last thing that needs a network.
package airgap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/airgap/store"
)

// LockName is the lock's file name in the site's directory.
const LockName = "site.lock"

// maxLock bounds the lock that is read, in bytes.
const maxLock = 16 << 20

// Lock names every input of a site by digest and size. It is committed beside
// site.yaml, and names no mirror.
type Lock struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Epoch      int64       `json:"epoch"` // seconds; the newest date of the locked archives
	Toolchain  Toolchain   `json:"toolchain"`
	Archives   []Archive   `json:"archives"`
	Sets       []Set       `json:"sets"`
	Packages   []Package   `json:"packages"`
	Recipes    []Recipe    `json:"recipes"`
	Components []Component `json:"components"`
	Files      []File      `json:"files"`
	Engine     Engine      `json:"engine,omitzero"` // taken as released
	Images     []Image     `json:"images,omitempty"`
	Charts     []Chart     `json:"charts,omitempty"`
	Maven      []Artifact  `json:"maven,omitempty"`
}

// Toolchain is the Go toolchain that compiles every recipe; it is a module.
type Toolchain struct {
	Version string `json:"version"` // go1.26.8
	H1      string `json:"h1"`      // dirhash of the module's archive
}

// Archive is a Debian archive as it stood when the lock was made.
type Archive struct {
	Name       string        `json:"name"`  // debian | debian-security
	Suite      string        `json:"suite"` // trixie-updates
	Date       string        `json:"date"`
	ValidUntil string        `json:"validUntil,omitempty"`
	InRelease  store.Content `json:"inRelease"`
}

// Set is a selection of packages: the OS root, or a container image.
type Set struct {
	Name     string   `json:"name"`
	Want     []string `json:"want"`
	Excluded []string `json:"excluded,omitempty"`
	Packages []string `json:"packages"` // NAME=VERSION, in order of unpacking
}

// Package is a .deb.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Source  string `json:"source,omitempty"`
	Archive string `json:"archive"`
	Path    string `json:"path"` // below the archive's base
	store.Content
	Scripts []Script `json:"scripts,omitempty"`
}

// ID is NAME=VERSION, by which sets refer to packages.
func (p Package) ID() string { return p.Name + "=" + p.Version }

// Script is a maintainer script, which holdfast never runs.
type Script struct {
	Name    string       `json:"name"` // postinst
	Digest  store.Digest `json:"digest"`
	Verdict string       `json:"verdict"`
}

// Unreviewed is the verdict on a script that nobody has looked at, or that
// changed since.
const Unreviewed = "unreviewed"

// Recipe is a Go module of ours that compiles programs of others.
type Recipe struct {
	Name   string       `json:"name"`
	Digest store.Digest `json:"digest"` // of all its files, go.mod and go.sum among them
	GoMod  store.Digest `json:"goMod"`
	GoSum  store.Digest `json:"goSum,omitempty"`
}

// Component is a part of the platform as this holdfast carries it.
type Component struct {
	Name   string       `json:"name"`
	Origin string       `json:"origin"`
	Digest store.Digest `json:"digest"` // of its folder in the catalog
}

// Image is a container image that is not composed here; its content is the
// manifest for the platform, which names all else.
type Image struct {
	Name      string `json:"name"`               // as manifests call it
	Upstream  string `json:"upstream,omitempty"` // what it is called where it comes from, if otherwise
	Component string `json:"component,omitempty"`
	Origin    string `json:"origin"` // registry | archive | engine
	Platform  string `json:"platform"`
	MediaType string `json:"mediaType"`
	store.Content
	Index     store.Digest  `json:"index,omitempty"` // that the manifest was chosen from
	Bytes     int64         `json:"bytes"`           // of configuration and layers
	File      store.Content `json:"file,omitzero"`   // of a server or a release, that it is taken from
	Signature string        `json:"signature"`       // the verdict: "not asked for", or who signed
}

// File is a local input of the site.
type File struct {
	Name string `json:"name"` // relative to the site's directory
	store.Content
}

// Set returns the named selection.
func (l Lock) Set(name string) (Set, bool) {
	i := slices.IndexFunc(l.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return Set{}, false
	}
	return l.Sets[i], true
}

// PackagesOf returns the packages of the named set in order of unpacking.
func (l Lock) PackagesOf(set string) ([]Package, error) {
	s, ok := l.Set(set)
	if !ok {
		return nil, fmt.Errorf("cannot find package set %q in %s\nhint: run \"holdfast lock\" to pin it", set, LockName)
	}
	byID := make(map[string]Package, len(l.Packages))
	for _, p := range l.Packages {
		byID[p.ID()] = p
	}
	var ps []Package
	for _, id := range s.Packages {
		p, ok := byID[id]
		if !ok {
			return nil, fmt.Errorf("cannot find package %s of set %q in %s\nhint: the lock was edited; run \"holdfast lock\"", id, set, LockName)
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// UnreviewedScripts lists PACKAGE=VERSION:SCRIPT for each script without a verdict.
func (l Lock) UnreviewedScripts() []string {
	var names []string
	for _, p := range l.Packages {
		for _, s := range p.Scripts {
			if s.Verdict == Unreviewed {
				names = append(names, p.ID()+":"+s.Name)
			}
		}
	}
	return names
}

// ReadLock reads the lock of the site in dir; the error wraps os.ErrNotExist
// where there is none.
func ReadLock(dir string) (Lock, error) {
	name := filepath.Join(dir, LockName)
	fi, err := os.Stat(name)
	if err != nil {
		return Lock{}, fmt.Errorf("cannot read lock: %w\nhint: run \"holdfast lock\"", err)
	}
	if fi.Size() > maxLock {
		return Lock{}, fmt.Errorf("cannot read %s: %d bytes, more than %d", name, fi.Size(), maxLock)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return Lock{}, fmt.Errorf("cannot read lock: %w", err)
	}
	var l Lock
	if err := yaml.UnmarshalStrict(b, &l); err != nil {
		return Lock{}, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if err := l.validate(); err != nil {
		return Lock{}, fmt.Errorf("cannot use %s: %w", name, err)
	}
	return l, nil
}

func (l Lock) validate() error {
	var errs []error
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if l.APIVersion != "holdfast/v1alpha1" || l.Kind != "SiteLock" {
		fail("it is %s %s, not holdfast/v1alpha1 SiteLock", l.APIVersion, l.Kind)
	}
	digest := func(what string, c store.Content) {
		if _, err := store.ParseDigest(string(c.Digest)); err != nil {
			fail("%s: %w", what, err)
		}
		if c.Size < 0 {
			fail("%s: negative size", what)
		}
	}
	for _, a := range l.Archives {
		digest(a.Name+"/"+a.Suite, a.InRelease)
	}
	for _, p := range l.Packages {
		digest(p.ID(), p.Content)
		if strings.HasPrefix(p.Path, "/") || slices.Contains(strings.Split(p.Path, "/"), "..") {
			fail("%s: path %q leaves the archive", p.ID(), p.Path)
		}
	}
	for _, f := range slices.Concat(l.Files, l.Engine.Files) {
		digest(f.Name, f.Content)
	}
	seen := map[string]bool{}
	for _, im := range l.Images {
		digest(im.Name, im.Content)
		if im.File != (store.Content{}) {
			digest(im.Name+"'s file", im.File)
		}
		if im.Bytes < 0 {
			fail("%s: negative size", im.Name)
		}
		if seen[im.Name] {
			fail("image %s is there twice", im.Name)
		}
		seen[im.Name] = true
	}
	errs = append(errs, l.artifactsValid(digest)...)
	errs = append(errs, l.chartsValid(digest)...)
	for _, s := range l.Sets {
		if _, err := l.PackagesOf(s.Name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Encode gives the lock's bytes; equal locks give equal bytes.
func (l Lock) Encode() ([]byte, error) {
	b, err := yaml.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("cannot encode lock: %w", err)
	}
	return append([]byte("# Made by \"holdfast lock\"; commit it, do not edit it.\n"), b...), nil
}

// Write puts the lock into the site's directory, whole or not at all.
func (l Lock) Write(dir string) error {
	b, err := l.Encode()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".site.lock-*")
	if err != nil {
		return fmt.Errorf("cannot write lock: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, LockName))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot write lock: %w", err)
	}
	return nil
}
