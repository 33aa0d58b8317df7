package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/bundles/check"
	"holdfast.dev/holdfast/bundles/kustomize"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/image/gobuild"
	"holdfast.dev/holdfast/overlays"
)

// inputs is a site and everything that it asks for, before any digest of
// what lies elsewhere.
type inputs struct {
	site       overlays.Site
	rules      overlays.Rules
	components []catalog.Component // in order of dependency
	recipes    []gobuild.Recipe
	programs   []image.Program // in the OS root
	request    airgap.Request

	charts         []chartInput
	kustomizations []kustomize.Source // as in site

	// What render adds:
	own          []catalog.Component   // of charts and kustomizations, in the order in which they are applied
	unusedFields []overlays.ImageField // imageFields that none of them has
	broken       []check.Finding       // what could not be rendered
	skipped      []string              // hooks that are left out, for the user
}

// engineComponents are the components that each engine consists of. k3s brings
// its own; see provided.
var engineComponents = map[string][]string{
	"k3s":     {},
	"kubeadm": {"kubernetes", "containerd", "kube-proxy", "coredns", "storage"},
	"none":    {},
}

// engineImages are the images that the agent starts each engine with, by the
// last part of their names.
var engineImages = map[string][]string{
	"kubeadm": {"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "pause"},
}

// load reads the site and works out what it needs. It reads nothing outside
// the site's directory.
func (a *app) load() (inputs, error) {
	var in inputs
	var err error
	if in.site, err = overlays.Load(a.dir); err != nil {
		return in, err
	}
	in.site.Release = cmp.Or(a.release, in.site.Release)
	all, err := catalog.Load()
	if err != nil {
		return in, err
	}
	var known []string
	for _, c := range all {
		known = append(known, c.Name)
	}
	if err := in.site.Validate(known); err != nil {
		return in, err
	}
	if in.rules, err = overlays.Zone(in.site.Zone); err != nil {
		return in, err
	}
	if err := supported(in.site, in.rules, all); err != nil {
		return in, err
	}
	names := slices.Clone(engineComponents[in.site.Kubernetes.Engine])
	origins := map[string]string{}
	for _, c := range in.site.Components {
		names = append(names, c.Name)
		origins[c.Name] = c.Origin
	}
	if in.components, err = catalog.Order(names, provided(in.site.Kubernetes)...); err != nil {
		return in, err
	}
	if err := ownNames(in.site.Kubernetes, in.components); err != nil {
		return in, err
	}
	if in.components, err = catalog.FromUpstream(in.components, func(name string) bool { return origins[name] == "upstream" }); err != nil {
		return in, err
	}
	if in.components, err = catalog.Sized(in.components, in.site.Size); err != nil {
		return in, err
	}
	in.components = in.words().Of(in.components)
	if err := catalog.OneAName(in.components); err != nil {
		return in, err
	}
	if in.components, err = catalog.Wire(in.components); err != nil {
		return in, err
	}
	if err := in.engineVersion(); err != nil {
		return in, err
	}
	recipes, err := catalog.Recipes()
	if err != nil {
		return in, err
	}
	return in, in.ask(a.dir, recipes, origins)
}

// words are what components say of the site. Its services are reached at its
// first server.
func (in inputs) words() catalog.Site {
	for _, n := range in.site.Nodes {
		if n.Role == "server" {
			ip, _, _ := strings.Cut(n.Address, "/")
			return catalog.Site{Domain: in.site.Domain, Address: ip}
		}
	}
	return catalog.Site{Domain: in.site.Domain}
}

// supported refuses what this version cannot build, rather than building less.
func supported(s overlays.Site, r overlays.Rules, known []catalog.Component) error {
	var errs []error
	if _, ok := engineComponents[s.Kubernetes.Engine]; !ok {
		errs = append(errs, fmt.Errorf("internal error: no engine %q", s.Kubernetes.Engine))
	}
	errs = append(errs, notTwice(s))
	origins := map[string]string{}
	for _, c := range s.Components {
		origins[c.Name] = c.Origin
	}
	for _, c := range known {
		switch origin := origins[c.Name]; {
		case origin == "upstream" && !c.HasUpstream():
			errs = append(errs, fmt.Errorf("cannot build component %s from origin upstream: this holdfast does not know its project's images\nhint: set origin: source", c.Name))
		case origin == "source" && !c.HasSource():
			errs = append(errs, fmt.Errorf("cannot build component %s from origin source: this holdfast cannot compose its images\nhint: set origin: upstream", c.Name))
		}
	}
	if r.VarEncryption {
		errs = append(errs, fmt.Errorf("cannot build for zone %s: its rules ask for an encrypted writable partition, which this holdfast does not make yet (%w)", s.Zone, errPolicy))
	}
	if s.Backups.EveryHours > 0 && s.Kubernetes.Engine == node.NoEngine {
		errs = append(errs, errors.New("cannot have backups made: a site without Kubernetes keeps nothing beyond its release\nhint: leave backups out of site.yaml"))
	}
	if len(s.Nodes) > 1 {
		errs = append(errs, errors.New("cannot build for more than one node yet: clusters come later"))
	}
	return errors.Join(errs...)
}

// engineVersion checks that the catalog carries the version the site names.
func (in inputs) engineVersion() error {
	for _, c := range in.components {
		if c.Name != "kubernetes" {
			continue
		}
		for _, im := range c.Images {
			if v, ok := strings.CutPrefix(im.Name, "registry.k8s.io/kube-apiserver:"); ok && v != in.site.Kubernetes.Version {
				return fmt.Errorf("cannot build Kubernetes %s: this holdfast carries %s\nhint: set kubernetes.version: %s", in.site.Kubernetes.Version, v, v)
			}
		}
	}
	return nil
}

func (in *inputs) ask(dir string, recipes []gobuild.Recipe, origins map[string]string) error {
	want, exclude, err := image.Packages(in.site)
	if err != nil {
		return err
	}
	in.request = airgap.Request{
		Suite:    in.site.OS.Suite,
		Sections: image.Sections(in.site),
		Sets:     []airgap.Want{{Name: image.OSSet, Packages: want, Exclude: exclude}},
	}
	used := map[string]bool{}
	for _, c := range in.components {
		origin := cmp.Or(origins[c.Name], "source")
		d, err := catalog.Digest(c.Name, origin)
		if err != nil {
			return err
		}
		in.request.Components = append(in.request.Components, airgap.Component{Name: c.Name, Origin: origin, Digest: d})
		for _, p := range c.HostPrograms {
			used[p.Recipe] = true
			in.programs = append(in.programs, image.Program{Recipe: p.Recipe, Name: p.Program, Path: strings.TrimPrefix(p.Path, "/")})
		}
		if origin == "upstream" {
			if err := in.askUpstream(c); err != nil {
				return err
			}
		}
		for _, im := range c.Images {
			in.askParts(im.Name, im.Source, used)
		}
	}
	for _, r := range recipes {
		if used[r.Name] {
			in.recipes = append(in.recipes, r)
			delete(used, r.Name)
		}
	}
	for r := range used {
		return fmt.Errorf("internal error: the catalog has no recipe %q", r)
	}
	in.request.Recipes = in.recipes
	in.askEngine(dir)
	return errors.Join(in.askImages(dir), in.localFiles(dir), in.askCharts(dir))
}

// askParts asks for what an image is composed of, and notes the recipes used.
func (in *inputs) askParts(image string, s catalog.Source, used map[string]bool) {
	if len(s.Debs) > 0 {
		in.request.Sets = append(in.request.Sets, airgap.Want{Name: imageSet(image), Packages: s.Debs, Exclude: excludes(s.Exclude)})
	}
	archives := s.Maven
	for _, st := range s.Steps {
		archives = slices.Concat(archives, st.Maven)
	}
	for _, a := range archives {
		if n := (airgap.Artifact{Name: a.Artifact, Content: a.Content()}); !slices.Contains(in.request.Maven, n) {
			in.request.Maven = append(in.request.Maven, n)
		}
	}
	for _, p := range s.Go {
		used[p.Recipe] = true
	}
}

func excludes(es []catalog.Exclude) []deb.Exclude {
	var out []deb.Exclude
	for _, e := range es {
		out = append(out, deb.Exclude{Name: e.Name, Reason: e.Reason})
	}
	return out
}

// imageSet names the package set of a container image in the lock.
func imageSet(name string) string { return "image/" + name }

// localFiles are the site's own inputs, as far as they are there.
func (in *inputs) localFiles(dir string) error {
	names := []string{"trust/policy.json"}
	keyring, err := keyringName(dir)
	if err != nil {
		return err
	}
	if keyring != "" {
		names = append(names, keyring)
	}
	switch keys, err := recoveryKeys(dir); {
	case err != nil:
		return err
	case len(keys) > 0:
		names = append(names, backup.PublicKeys)
	case in.site.Backups.EveryHours > 0:
		return errors.New("cannot have backups made: the site has no " + backup.PublicKeys + "\nhint: run \"holdfast keys recovery\"")
	}
	for _, m := range in.site.Manifests {
		names = append(names, "manifests/"+m.Name)
	}
	for _, im := range in.site.Images {
		for _, k := range []string{im.Signed.Key, im.Signed.Root} {
			if k != "" && !slices.Contains(names, k) {
				names = append(names, k)
			}
		}
	}
	if k := in.site.Backups.Authority; k != "" && !slices.Contains(names, k) {
		names = append(names, k)
	}
	for _, n := range names {
		f, err := airgap.LocalFile(dir, n)
		if errors.Is(err, fs.ErrNotExist) && n == "trust/policy.json" {
			return fmt.Errorf("%w\nhint: run \"holdfast keys generate\"", err)
		}
		if err != nil {
			return err
		}
		in.request.Files = append(in.request.Files, f)
	}
	return nil
}

// keyringName is the site's own keyring of the Debian archives, below dir; ""
// where it has none, and Debian's own keys count.
func keyringName(dir string) (string, error) {
	var there []string
	for _, n := range []string{"trust/debian-keyring.asc", "trust/debian-keyring.pgp"} {
		if _, err := os.Stat(filepath.Join(dir, n)); err == nil {
			there = append(there, n)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot look for the site's Debian keyring: %w", err)
		}
	}
	switch len(there) {
	case 0:
		return "", nil
	case 1:
		return there[0], nil
	}
	return "", fmt.Errorf("cannot choose the site's Debian keyring: there are %s\nhint: keep one of them", strings.Join(there, " and "))
}

// cache opens the store that all sites of this user share.
func (a *app) cache() (*store.Store, error) {
	dir := a.Getenv("HOLDFAST_CACHE")
	if dir == "" {
		base := a.Getenv("XDG_CACHE_HOME")
		if base == "" {
			home := a.Getenv("HOME")
			if home == "" {
				return nil, errors.New("cannot find a place for the cache\nhint: set HOLDFAST_CACHE to a directory")
			}
			base = filepath.Join(home, ".cache")
		}
		dir = filepath.Join(base, "holdfast")
	}
	s, err := store.Open(dir)
	if err != nil {
		return nil, err
	}
	s.Rehash = a.rehash
	return s, s.Enter(a.Now())
}
