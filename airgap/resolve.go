package airgap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/origin/gomod"
	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/maven"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/image/gobuild"
)

// GoVersion is the toolchain that compiles every recipe, and GoH1 the hash of
// its module: both move together with this holdfast.
const (
	GoVersion = "go1.26.8"
	GoH1      = "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM="
)

// Want is a set of packages to be selected.
type Want struct {
	Name     string // of the set
	Packages []string
	Exclude  []deb.Exclude
}

// Request is everything that a site needs locked.
type Request struct {
	Suite      string // Debian release
	Sections   []string
	Sets       []Want
	Recipes    []gobuild.Recipe
	Components []Component
	Files      []File
	Engine     WantEngine
	Images     []WantImage
	Charts     []WantChart
	Maven      []Artifact
}

// Network is how the origins are reached.
type Network struct {
	Debian   *debian.Client
	Go       gomod.Proxy
	Registry *registry.Client
	Files    *fetch.Client // for files of servers, and of this machine
	Maven    *maven.Client
}

// Options of Resolve.
type Options struct {
	// Update names inputs to move: a package or an image, "chart/NAME", "debian",
	// "images", "charts", "k3s", "all". "gone" is nothing but what the archives and registries lost;
	// packages that are lost move with each.
	Update  []string
	Verdict func(pkg, version, script string, d store.Digest) string // what reviewers said of a maintainer script
	Notice  func(string)                                             // things the user should know
	Fetched func(done, total int64, name string)                     // bytes of packages
	Taken   func(done, total int64, name string)                     // bytes of images from archives
	Pinned  func(done, total int, name string)                       // images
}

func (o Options) moves(name string) bool {
	return slices.Contains(o.Update, name) || slices.Contains(o.Update, "all")
}

// Request's local part, which needs no network: recipes, components and files.
func (r Request) local(l Lock) Lock {
	l.APIVersion, l.Kind = "holdfast/v1alpha1", "SiteLock"
	l.Toolchain = Toolchain{Version: GoVersion, H1: GoH1}
	l.Recipes = nil
	for _, rc := range r.Recipes {
		lr := Recipe{Name: rc.Name, Digest: rc.Digest(), GoMod: store.FromBytes(rc.Files["go.mod"])}
		if sum, ok := rc.Files["go.sum"]; ok {
			lr.GoSum = store.FromBytes(sum)
		}
		l.Recipes = append(l.Recipes, lr)
	}
	l.Components = slices.Clone(r.Components)
	l.Files = slices.Clone(r.Files)
	l.Maven = slices.Clone(r.Maven)
	return l
}

// Fits reports, all at once, where lock does not hold what r asks for.
func (r Request) Fits(l Lock) error {
	var errs []error
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	for _, w := range r.Sets {
		s, ok := l.Set(w.Name)
		switch {
		case !ok:
			fail("package set %s is not locked", w.Name)
		case !slices.Equal(s.Want, w.Packages) || !slices.Equal(s.Excluded, excludedNames(w)):
			fail("package set %s asks for other packages than when it was locked", w.Name)
		}
	}
	if len(l.Sets) > len(r.Sets) {
		fail("it holds package sets that the site does not ask for any more")
	}
	now := r.local(l)
	if l.Toolchain != now.Toolchain {
		fail("toolchain %s is locked, this holdfast compiles with %s", l.Toolchain.Version, GoVersion)
	}
	if !slices.Equal(l.Recipes, now.Recipes) {
		fail("recipes are not those of this holdfast: %s", changed(names(l.Recipes, func(r Recipe) string { return r.Name + string(r.Digest) }), names(now.Recipes, func(r Recipe) string { return r.Name + string(r.Digest) })))
	}
	if !slices.Equal(l.Components, now.Components) {
		key := func(c Component) string { return c.Name + string(c.Digest) }
		which := changed(names(l.Components, key), names(now.Components, key))
		if which == "" {
			which = "their order or origin"
		}
		fail("components are not those of site.yaml and this holdfast: %s", which)
	}
	for _, f := range now.Files {
		if !slices.Contains(l.Files, f) {
			fail("file %s is not the one that was locked", f.Name)
		}
	}
	for _, f := range l.Files {
		if !slices.ContainsFunc(now.Files, func(g File) bool { return g.Name == f.Name }) {
			fail("file %s is locked and is not there", f.Name)
		}
	}
	errs = append(append(errs, r.engineFits(l)), r.imagesFit(l)...)
	errs = append(errs, r.chartsFit(l)...)
	if !slices.Equal(l.Maven, now.Maven) {
		fail("Maven artifacts are not those of this holdfast: %s", changed(names(l.Maven, Artifact.key), names(now.Maven, Artifact.key)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot use %s, it does not fit the site:\n%w\nhint: run \"holdfast lock\"", LockName, err)
	}
	return nil
}

func names[T any](ts []T, f func(T) string) []string {
	var out []string
	for _, t := range ts {
		out = append(out, f(t))
	}
	return out
}

// changed names what stands in one list only, without the digests.
func changed(a, b []string) string {
	var out []string
	for _, s := range append(slices.Clone(a), b...) {
		if slices.Contains(a, s) != slices.Contains(b, s) {
			name, _, _ := strings.Cut(s, "sha256:")
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return strings.Join(out, " ")
}

func excludedNames(w Want) []string {
	return names(w.Exclude, func(e deb.Exclude) string { return e.Name })
}

// Resolve pins what r asks for. What previous holds stays as it is, unless
// opt.Update names it or the archive has it no longer; a lock that fits
// already is returned without a network. Packages are fetched into s, as their
// maintainer scripts are part of the lock, and the manifests of images, as
// these say what is to be collected.
func Resolve(ctx context.Context, r Request, previous Lock, net Network, s *store.Store, opt Options) (Lock, error) {
	if err := opt.known(previous); err != nil {
		return Lock{}, err
	}
	lock, err := r.packages(ctx, previous, net, s, opt)
	images, ierr := r.images(ctx, previous, net, s, opt)
	engine, more, eerr := r.engine(ctx, previous, net, s, opt)
	charts, cerr := r.charts(ctx, previous, net, s, opt)
	lock.Engine, lock.Images, lock.Charts = engine, append(images, more...), charts
	return lock, errors.Join(err, ierr, eerr, cerr)
}

// packages is the lock of all but images and charts.
func (r Request) packages(ctx context.Context, previous Lock, net Network, s *store.Store, opt Options) (Lock, error) {
	if opt.noPackages() && r.setsFit(previous) {
		return r.local(previous).judge(opt), nil
	}
	lock := r.local(Lock{})
	index, results, err := r.index(ctx, net)
	if err != nil {
		return Lock{}, fmt.Errorf("cannot lock: %w", err)
	}
	for _, res := range results {
		lock.Epoch = max(lock.Epoch, res.Release.Date.Unix())
		la := Archive{Name: res.Archive.Name, Suite: res.Archive.Suite, Date: res.Release.Date.UTC().Format(time.RFC3339), InRelease: res.InReleaseContent}
		if !res.Release.ValidUntil.IsZero() {
			la.ValidUntil = res.Release.ValidUntil.UTC().Format(time.RFC3339)
		}
		lock.Archives = append(lock.Archives, la)
	}
	pinned := pin(index, previous, opt)
	var errs []error
	chosen := map[string]Package{}
	for _, w := range r.Sets {
		sel, err := deb.Resolve(pinned, w.Packages, w.Exclude)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot choose packages of %s: %w", w.Name, err))
			continue
		}
		set := Set{Name: w.Name, Want: w.Packages, Excluded: excludedNames(w)}
		for _, p := range sel.Packages {
			set.Packages = append(set.Packages, p.Name+"="+p.Version)
			chosen[p.Name+"="+p.Version] = Package{
				Name: p.Name, Version: p.Version, Arch: p.Arch, Source: p.Source + "=" + p.SourceVersion,
				Archive: p.Archive, Path: p.Filename, Content: p.Content,
			}
		}
		lock.Sets = append(lock.Sets, set)
	}
	if err := errors.Join(errs...); err != nil {
		return Lock{}, err
	}
	for _, p := range chosen {
		lock.Packages = append(lock.Packages, p)
	}
	sort.Slice(lock.Packages, func(i, j int) bool { return lock.Packages[i].ID() < lock.Packages[j].ID() })
	if err := roomFor(lock, s); err != nil {
		return Lock{}, fmt.Errorf("cannot lock: %w", err)
	}
	if err := debian.Fetch(ctx, net.Debian, s, items(lock), opt.Fetched); err != nil {
		return Lock{}, fmt.Errorf("cannot lock: %w", err)
	}
	return lock, inspect(&lock, s, opt)
}

func (r Request) setsFit(l Lock) bool {
	if len(l.Sets) != len(r.Sets) {
		return false
	}
	for _, w := range r.Sets {
		s, ok := l.Set(w.Name)
		if !ok || !slices.Equal(s.Want, w.Packages) || !slices.Equal(s.Excluded, excludedNames(w)) {
			return false
		}
	}
	return true
}

// known refuses names to update that the lock does not hold.
func (o Options) known(previous Lock) error {
	known := map[string]bool{"all": true, "debian": true, "images": true, "charts": true, "gone": true}
	for _, p := range previous.Packages {
		known[p.Name] = true
	}
	for _, im := range previous.Images {
		known[im.Name] = true
	}
	for _, c := range previous.Charts {
		known[chartUpdate(c.Name)] = true
	}
	known[previous.Engine.Name] = true
	delete(known, "")
	var errs []error
	for _, u := range o.Update {
		if !known[u] {
			errs = append(errs, fmt.Errorf("cannot update %q: the lock has no input of that name\nhint: the name of a package or an image, \"chart/NAME\", \"gone\", \"debian\", \"images\", \"charts\", \"k3s\", or \"all\"", u))
		}
	}
	return errors.Join(errs...)
}

// pin holds the packages of the previous lock where they were, but for those
// that are to move.
func pin(index *deb.Index, previous Lock, opt Options) *deb.Index {
	versions := map[string]string{}
	for _, p := range previous.Packages {
		if !opt.moves(p.Name) && !opt.moves("debian") {
			versions[p.Name] = p.Version
		}
	}
	pinned, gone := index.Pin(versions)
	for _, name := range gone {
		now := "nothing"
		if p, ok := index.Get(name); ok {
			now = p.Version
		}
		opt.notice(fmt.Sprintf("%s %s is no longer in the archive, which has %s", name, versions[name], now))
	}
	return pinned
}

func (o Options) notice(s string) {
	if o.Notice != nil {
		o.Notice(s)
	}
}

// inspect records the maintainer scripts of every package, with the verdict.
func inspect(l *Lock, s *store.Store, opt Options) error {
	var errs []error
	for i, p := range l.Packages {
		f, err := s.Open(p.Content)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m, err := deb.Inspect(f)
		if err := errors.Join(err, f.Close()); err != nil {
			errs = append(errs, fmt.Errorf("cannot read package %s: %w", p.ID(), err))
			continue
		}
		for _, name := range []string{"config", "preinst", "postinst", "prerm", "postrm"} {
			d, ok := m.Scripts[name]
			if !ok {
				continue
			}
			l.Packages[i].Scripts = append(l.Packages[i].Scripts, Script{name, d, Unreviewed})
		}
	}
	*l = l.judge(opt)
	return errors.Join(errs...)
}

// judge gives every script the reviewers' verdict; one that they have none for
// keeps the word it has.
func (l Lock) judge(opt Options) Lock {
	if opt.Verdict == nil {
		return l
	}
	return l.eachScript(func(p Package, s Script) string {
		if v := opt.Verdict(p.Name, p.Version, s.Name, s.Digest); v != "" {
			return v
		}
		return s.Verdict
	})
}

func items(l Lock) []debian.Item {
	var out []debian.Item
	for _, p := range l.Packages {
		out = append(out, debian.Item{Archive: p.Archive, Path: p.Path, Content: p.Content, Name: p.ID()})
	}
	return out
}

// LocalFile is a file of the site's directory as an input.
func LocalFile(dir, name string) (File, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return File{}, fmt.Errorf("cannot lock %s: %w", name, err)
	}
	return File{name, store.Content{Digest: store.FromBytes(b), Size: int64(len(b))}}, nil
}
