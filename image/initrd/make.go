// Package initrd makes the first file system of a boot out of the files of the
// root file system: a list of files, what these need to run, and kernel modules
// with what they need. Nothing is run, and nothing comes from the host.
package initrd

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"holdfast.dev/holdfast/image/kmod"
	"holdfast.dev/holdfast/image/rootfs"
)

// Options say what goes into an initrd.
type Options struct {
	KernelVersion string
	// Files are paths or patterns of path.Match, relative to the root. A link
	// brings what it leads to, a directory all that it holds.
	Files []string
	// Modules are names of kernel modules; OptionalModules are those that not
	// every kernel has.
	Modules, OptionalModules []string
	// Features are libraries that programs open at run time without listing
	// them as needed, by the names in their .note.dlopen. What a program says
	// it requires or recommends comes without being named here.
	Features []string
	// Extra is laid over the rest, in place of files that are there.
	Extra *rootfs.Tree
	MTime int64
}

// Make picks from root what o says. Programs and libraries bring the libraries
// they need, and modules those they depend on; modules are stored decompressed
// and get an index of their own. root must have gone through kmod.Depmod. The
// error names every file, library, feature and module that is not there.
func Make(root *rootfs.Tree, o Options) (*rootfs.Tree, error) {
	p := &picker{root: root, out: rootfs.New(o.MTime), mtime: o.MTime, features: map[string]bool{}}
	for _, f := range o.Features {
		p.features[f] = false
	}
	// Programs name their interpreter and scripts their shell by way of the
	// old top directories.
	for _, f := range root.Files() {
		if f.Type() == rootfs.TypeSymlink && !strings.Contains(f.Path, "/") {
			if d, ok := root.Stat(f.Path); ok && d.IsDir() {
				p.fail(p.put(f))
			}
		}
	}
	for _, name := range o.Files {
		p.pick(name)
	}
	for f, found := range p.features {
		if !found {
			p.fail(fmt.Errorf("cannot find a library for the feature %q that any program opens", f))
		}
	}
	if o.Extra != nil {
		for _, f := range o.Extra.Files() {
			if f.Path != "." {
				p.fail(p.out.Put(f))
			}
		}
	}
	p.modules(o)
	slices.SortFunc(p.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if err := errors.Join(p.errs...); err != nil {
		return nil, fmt.Errorf("cannot make initrd:\n%w", err)
	}
	return p.out, nil
}

// picker copies files from root to out, each with what it needs.
type picker struct {
	root, out *rootfs.Tree
	mtime     int64
	features  map[string]bool // wanted ones, and whether a library was found
	missing   map[string]bool // what was already complained of
	errs      []error
}

func (p *picker) fail(err error) {
	if err == nil {
		return
	}
	if p.missing == nil {
		p.missing = map[string]bool{}
	}
	if s := err.Error(); !p.missing[s] {
		p.missing[s] = true
		p.errs = append(p.errs, err)
	}
}

// pick adds the files that a path or pattern names.
func (p *picker) pick(name string) {
	name = strings.Trim(name, "/")
	if !strings.ContainsAny(name, `*?[\`) {
		p.add(name, "")
		return
	}
	found := false
	for _, f := range p.root.Files() {
		ok, err := path.Match(name, f.Path)
		if err != nil {
			p.fail(fmt.Errorf("cannot read pattern %q: %w", name, err))
			return
		}
		if ok {
			found = true
			p.add(f.Path, "")
		}
	}
	if !found {
		p.fail(fmt.Errorf("cannot find /%s", name))
	}
}

// add copies the file at name, with what it needs; by says who wants it.
func (p *picker) add(name, by string) {
	f, ok := p.root.Get(name)
	if !ok {
		p.fail(fmt.Errorf("cannot find /%s%s", name, by))
		return
	}
	if _, done := p.out.Get(f.Path); done && !f.IsDir() {
		return
	}
	p.fail(p.put(f))
	switch {
	case f.IsDir():
		for _, c := range p.root.Files() {
			if path.Dir(c.Path) == f.Path && c.Path != "." {
				p.add(c.Path, "")
			}
		}
	case f.Type() == rootfs.TypeSymlink:
		if f.Target == "/dev/null" { // a masked unit
			return
		}
		target := f.Target
		if !path.IsAbs(target) {
			target = path.Dir(f.Path) + "/" + target
		}
		p.add(strings.TrimPrefix(target, "/"), ", to which /"+f.Path+" leads")
	case f.IsRegular():
		p.needs(f)
	}
}

// put copies f and its parents, which keep their modes.
func (p *picker) put(f rootfs.File) error {
	for i, c := range f.Path {
		if c != '/' {
			continue
		}
		if _, ok := p.out.Get(f.Path[:i]); ok {
			continue
		}
		if d, ok := p.root.Get(f.Path[:i]); ok && d.IsDir() {
			d.MTime = p.mtime
			if err := p.out.Put(d); err != nil {
				return err
			}
		}
	}
	f.MTime = p.mtime
	return p.out.Put(f)
}

// modules copies kernel modules and writes their index.
func (p *picker) modules(o Options) {
	if len(o.Modules)+len(o.OptionalModules) == 0 {
		return
	}
	deps, err := kmod.ReadDeps(p.root, o.KernelVersion)
	if err != nil {
		p.fail(err)
		return
	}
	names := slices.Clone(o.Modules)
	for _, n := range o.OptionalModules {
		if deps.Has(n) {
			names = append(names, n)
		}
	}
	paths, err := deps.Closure(names)
	p.fail(err)
	if len(p.errs) > 0 {
		return
	}
	dir := kmod.Dir(o.KernelVersion) + "/"
	for _, name := range paths {
		f, ok := p.root.Get(name)
		if !ok {
			p.fail(fmt.Errorf("cannot find module /%s, which modules.dep names", name))
			continue
		}
		b, err := kmod.Decompress(f)
		if err != nil {
			p.fail(err)
			continue
		}
		// Kernels load .ko whatever they were built with, and the initrd
		// is compressed as a whole.
		f.Path = strings.TrimSuffix(strings.TrimSuffix(f.Path, ".xz"), ".zst")
		f.Data = rootfs.Bytes(b)
		p.fail(p.put(f))
	}
	// These three are read for the index and not needed at run time.
	inputs := []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"}
	for _, n := range inputs {
		if f, ok := p.root.Get(dir + n); ok {
			p.fail(p.put(f))
		}
	}
	p.fail(kmod.Depmod(p.out, o.KernelVersion, o.MTime))
	// libkmod reads the .bin files; of these texts it reads none.
	for _, n := range append(inputs, "modules.dep", "modules.alias", "modules.symbols") {
		p.out.Remove(dir + n)
	}
}

// literal is the pattern that matches only the path p.
func literal(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}
