// Package kustomize renders kustomizations of a site's directory with
// kustomize's own library, from files that were read before: nothing outside
// the directory, no network, no plugins and no programs.
package kustomize

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
)

// What a kustomization may consist of, its bases included.
const (
	maxFile  = 4 << 20 // bytes
	maxBytes = 32 << 20
	maxFiles = 2000
)

// File is a file by its path below the site's directory.
type File struct {
	Name string
	Data []byte
}

// Source is a kustomization with everything that it refers to.
type Source struct {
	Dir   string
	Files []File // sorted by name
}

// Load reads the kustomization in dir and all that it refers to, below fsys. A
// reference to somewhere else, and a field that would run a program or a
// plugin, is an error that names the file; all are told together.
func Load(fsys fs.FS, dir string) (Source, error) {
	l := &loader{fsys: fsys, files: map[string][]byte{}, left: maxBytes}
	l.kustomization(path.Clean(dir), nil)
	if err := errors.Join(l.errs...); err != nil {
		return Source{}, err
	}
	s := Source{Dir: path.Clean(dir)}
	for name, data := range l.files {
		s.Files = append(s.Files, File{name, data})
	}
	slices.SortFunc(s.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

type loader struct {
	fsys  fs.FS
	files map[string][]byte
	left  int64
	errs  []error
}

func (l *loader) fail(file, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("cannot use %s: "+format, slices.Concat([]any{file}, args)...))
}

// names are those that a kustomization's file may have.
var names = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// kustomization reads the one in dir; around are those that led here.
func (l *loader) kustomization(dir string, around []string) {
	if slices.Contains(around, dir) {
		l.fail(dir, "it refers to itself, by %s", strings.Join(around, ", "))
		return
	}
	var there []string
	for _, n := range names {
		if _, err := fs.Stat(l.fsys, path.Join(dir, n)); err == nil {
			there = append(there, path.Join(dir, n))
		}
	}
	if len(there) != 1 {
		l.fail(dir, "want one file kustomization.yaml in it, found %d", len(there))
		return
	}
	file := there[0]
	if _, ok := l.files[file]; ok {
		return // a base of two
	}
	data, err := l.read(file)
	if err != nil {
		l.fail(file, "%w", err)
		return
	}
	var k types.Kustomization
	if err := k.Unmarshal(data); err != nil {
		l.fail(file, "%w", err)
		return
	}
	k.FixKustomization() // old fields become new ones
	l.refuse(file, k)
	around = slices.Concat(around, []string{dir})
	for _, r := range slices.Concat(k.Resources, k.Components) {
		l.resource(file, r, around)
	}
	for _, r := range references(k) {
		l.file(file, r)
	}
}

// refuse names the fields that would run something, or hold secrets.
func (l *loader) refuse(file string, k types.Kustomization) {
	for _, f := range []struct {
		used              bool
		name, why, remedy string
	}{
		{len(k.HelmCharts) > 0 || k.HelmGlobals != nil, "helmCharts", "runs the program helm", "list the chart under charts in site.yaml"},
		{len(k.Generators) > 0, "generators", "may run programs", "write what it makes as resources, or use configMapGenerator"},
		{len(k.Transformers) > 0, "transformers", "may run programs", "use patches, labels, images and the like in the kustomization itself"},
		{len(k.Validators) > 0, "validators", "may run programs", "remove it"},
		{len(k.SecretGenerator) > 0, "secretGenerator", "puts secrets into the release", "let the program take a secret that is made on the node"},
	} {
		if f.used {
			l.fail(file, "%s %s, which build does not\nhint: %s", f.name, f.why, f.remedy)
		}
	}
}

// references are the files that a kustomization names, resources left out.
func references(k types.Kustomization) []string {
	out := slices.Concat(k.Crds, k.Configurations)
	//lint:ignore SA1019 files that people have use it, and the library takes it
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) {
		out = append(out, p.Path)
	}
	//lint:ignore SA1019 the same
	for _, p := range k.PatchesStrategicMerge {
		if s := string(p); !strings.Contains(s, "\n") && !strings.Contains(s, ": ") { // else it is the patch
			out = append(out, s)
		}
	}
	for _, r := range k.Replacements {
		out = append(out, r.Path)
	}
	for _, g := range k.ConfigMapGenerator {
		for _, f := range g.FileSources {
			if _, file, ok := strings.Cut(f, "="); ok {
				f = file
			}
			out = append(out, f)
		}
		out = append(out, g.EnvSources...)
	}
	out = append(out, k.OpenAPI["path"])
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

// elsewhere is what kustomize takes for a URL or a repository.
var elsewhere = regexp.MustCompile(`(?i)://|^git::|^[a-z][a-z0-9-]*@|^github\.com[/:]|\?`)

// local is the path below the site that a file refers to; ok is false, and it
// is told, where that is none.
func (l *loader) local(file, ref string) (name string, ok bool) {
	switch {
	case elsewhere.MatchString(ref):
		l.fail(file, "%.200q lies elsewhere, and build fetches nothing\nhint: put what is there into the site's directory, and refer to it by its path", ref)
	case path.IsAbs(ref), !fs.ValidPath(path.Join(path.Dir(file), ref)):
		l.fail(file, "%.200q leads out of the site's directory", ref)
	default:
		return path.Join(path.Dir(file), ref), true
	}
	return "", false
}

// resource reads a file of objects, or a directory with a kustomization.
func (l *loader) resource(file, ref string, around []string) {
	name, ok := l.local(file, ref)
	if !ok {
		return
	}
	fi, err := fs.Stat(l.fsys, name)
	switch {
	case err != nil:
		l.fail(file, "%.200q: %w", ref, err)
	case fi.IsDir():
		l.kustomization(name, around)
	default:
		l.file(file, ref)
	}
}

func (l *loader) file(file, ref string) {
	name, ok := l.local(file, ref)
	if !ok {
		return
	}
	if _, err := l.read(name); err != nil {
		l.fail(file, "%.200q: %w", ref, err)
	}
}

// read adds a file to those that were read.
func (l *loader) read(name string) ([]byte, error) {
	if data, ok := l.files[name]; ok {
		return data, nil
	}
	f, err := l.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is not a regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	l.left -= int64(len(data))
	switch {
	case len(data) > maxFile:
		return nil, fmt.Errorf("more than the %d bytes allowed", maxFile)
	case l.left < 0:
		return nil, fmt.Errorf("with it the kustomization has more than the %d bytes allowed", maxBytes)
	case len(l.files) == maxFiles:
		return nil, fmt.Errorf("with it the kustomization has more than the %d files allowed", maxFiles)
	}
	l.files[name] = data
	return data, nil
}
