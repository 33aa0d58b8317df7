package kmod

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"holdfast.dev/holdfast/image/rootfs"
)

// Index is what a kernel's modules say of themselves. Making one means
// decompressing every module, so it is worth keeping: it is plain data, depends
// on nothing but the files below Dir(version), and can be encoded as JSON.
type Index struct {
	Modules []Module `json:"modules"` // in the order of modules.order, the rest by path
}

// Dir is where the modules of a kernel lie.
func Dir(version string) string { return "usr/lib/modules/" + version }

// Depmod puts the index files of the kernel's modules into t, with time mtime.
func Depmod(t *rootfs.Tree, version string, mtime int64) error {
	x, err := Scan(t, version)
	if err != nil {
		return err
	}
	return x.Write(t, version, mtime)
}

// Scan reads the modules of a kernel. Its error names every module that cannot
// be read.
func Scan(t *rootfs.Tree, version string) (Index, error) {
	var files []rootfs.File
	dir := Dir(version) + "/"
	for _, f := range t.Files() {
		if f.IsRegular() && strings.HasPrefix(f.Path, dir) && isModule(f.Path) {
			files = append(files, f)
		}
	}
	if d, ok := t.Stat(Dir(version)); !ok || !d.IsDir() {
		return Index{}, fmt.Errorf("cannot find the modules of kernel %s: no /%s\nhint: is the kernel's package in the tree, and the version its full name?", version, Dir(version))
	}
	files, err := unique(files, dir)
	if err != nil {
		return Index{}, err
	}
	mods := make([]Module, len(files))
	errs := make([]error, len(files))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range files {
		g.Go(func() error {
			mods[i], errs[i] = read(f, dir)
			return nil
		})
	}
	if err := errors.Join(g.Wait(), errors.Join(errs...)); err != nil {
		return Index{}, err
	}
	order, err := loadOrder(t, version)
	if err != nil {
		return Index{}, err
	}
	slices.SortStableFunc(mods, func(a, b Module) int {
		ra, oka := order[uncompressed(a.Path)]
		rb, okb := order[uncompressed(b.Path)]
		switch {
		case oka && okb:
			return cmp.Compare(ra, rb)
		case oka:
			return -1
		case okb:
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
	resolve(mods)
	return Index{mods}, nil
}

// unique drops a module where one of the same name lies below updates/.
func unique(files []rootfs.File, dir string) ([]rootfs.File, error) {
	var errs []error
	at := map[string]int{} // by name, in out
	var out []rootfs.File
	for _, f := range files {
		name := Name(f.Path)
		i, ok := at[name]
		if !ok {
			at[name] = len(out)
			out = append(out, f)
			continue
		}
		older := strings.HasPrefix(out[i].Path, dir+"updates/")
		newer := strings.HasPrefix(f.Path, dir+"updates/")
		if older == newer {
			errs = append(errs, fmt.Errorf("cannot index module %s: it is there twice: /%s, /%s", name, out[i].Path, f.Path))
		}
		if newer {
			out[i] = f
		}
	}
	return out, errors.Join(errs...)
}

func read(f rootfs.File, dir string) (Module, error) {
	b, err := Decompress(f)
	if err != nil {
		return Module{}, err
	}
	m, err := parse(b)
	if err != nil {
		return Module{}, fmt.Errorf("cannot read module /%s: %w", f.Path, err)
	}
	m.Path = strings.TrimPrefix(f.Path, dir)
	m.Name = Name(f.Path)
	return m, nil
}

// loadOrder reads modules.order: the place of each module, by its path without
// a compression's extension.
func loadOrder(t *rootfs.Tree, version string) (map[string]int, error) {
	order := map[string]int{}
	lines, err := readLines(t, Dir(version)+"/modules.order")
	for i, l := range lines {
		if _, ok := order[l]; !ok {
			order[l] = i
		}
	}
	return order, err
}

func uncompressed(p string) string {
	return strings.TrimSuffix(strings.TrimSuffix(p, ".xz"), ".zst")
}

// resolve finds which modules each module needs: the owners of its undefined
// symbols, in the order of its symbol table.
func resolve(mods []Module) {
	owner := map[string]int{}
	for i, m := range mods {
		for _, s := range m.Exports {
			owner[s] = i
		}
	}
	// The kernel's loader supplies these two itself.
	delete(owner, "__this_module")
	delete(owner, "_GLOBAL_OFFSET_TABLE_")
	for i := range mods {
		seen := map[int]bool{i: true}
		for _, s := range mods[i].undefined {
			if o, ok := owner[s]; ok && !seen[o] {
				seen[o] = true
				mods[i].Deps = append(mods[i].Deps, mods[o].Name)
			}
		}
		mods[i].undefined = nil
	}
}

// readLines reads a small text file; a file that is not there has no lines.
func readLines(t *rootfs.Tree, name string) ([]string, error) {
	b, err := t.ReadFile(name, maxText)
	if err != nil {
		return nil, err
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// maxText bounds the text files beside the modules.
const maxText = 64 << 20
