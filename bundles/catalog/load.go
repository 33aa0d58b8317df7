package catalog

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

//go:embed components
var embedded embed.FS

// Load reads the components that come with holdfast, by name. All faults are
// reported together.
func Load() ([]Component, error) { return load(embedded) }

// load reads the components below components in fsys.
func load(fsys fs.FS) ([]Component, error) {
	dirs, err := fs.ReadDir(fsys, "components")
	if err != nil {
		return nil, fmt.Errorf("cannot load the catalog: %w", err)
	}
	var out []Component
	var errs []error
	for _, d := range dirs {
		c, err := loadComponent(fsys, d.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, c)
	}
	recipes, err := loadRecipes(fsys)
	errs = append(errs, err)
	programs := map[[2]string]bool{}
	for _, r := range recipes {
		for _, p := range r.Programs {
			programs[[2]string{r.Name, p.Name}] = true
		}
	}
	errs = append(errs, checkAll(out, programs)...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

func loadComponent(fsys fs.FS, name string) (Component, error) {
	var c Component
	file := path.Join("components", name, "component.yaml")
	b, err := fs.ReadFile(fsys, file)
	if err != nil {
		return c, fmt.Errorf("cannot load component %s: %w", name, err)
	}
	// The messages carry the line and an excerpt.
	if err := yaml.UnmarshalWithOptions(b, &c, yaml.Strict()); err != nil {
		return c, fmt.Errorf("cannot read %s: %w", file, err)
	}
	if c.Name != name {
		return c, fmt.Errorf("cannot use %s: its name is %q", file, c.Name)
	}
	manifests, err := folder(fsys, name, "manifests/*.yaml")
	hooks, herr := folder(fsys, name, "hooks/*.yaml")
	data, derr := folder(fsys, name, "files/*")
	sizes, serr := folder(fsys, name, "sizes/*.yaml")
	withs, werr := folder(fsys, name, "with/*/*.yaml")
	upstream, uerr := folder(fsys, name, "upstream/*.yaml")
	if err := errors.Join(err, herr, derr, serr, werr, uerr); err != nil {
		return c, fmt.Errorf("cannot load component %s: %w", name, err)
	}
	c.Manifests, c.Hooks, c.Files, c.Sizes = manifests, map[string]File{}, map[string][]byte{}, map[string]File{}
	c.Withs, c.OfUpstream = map[string][]File{}, upstream
	for _, f := range withs {
		other := path.Base(path.Dir(f.Name))
		c.Withs[other] = append(c.Withs[other], f)
	}
	for _, f := range sizes {
		c.Sizes[strings.TrimSuffix(path.Base(f.Name), ".yaml")] = f
	}
	for _, f := range hooks {
		c.Hooks[path.Base(f.Name)] = f
	}
	for _, f := range data {
		c.Files[path.Base(f.Name)] = f.Data
	}
	return c, nil
}

// folder reads the files of a component that match a pattern, by name.
func folder(fsys fs.FS, component, pattern string) ([]File, error) {
	names, err := fs.Glob(fsys, path.Join("components", component, pattern))
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	var out []File
	for _, n := range names {
		b, err := fs.ReadFile(fsys, n)
		if err != nil {
			return nil, err
		}
		out = append(out, File{strings.TrimPrefix(n, "components/"), b})
	}
	return out, nil
}

var (
	imageName = regexp.MustCompile(`^[a-z0-9.-]+\.[a-z]+(/[a-z0-9._-]+)+:[A-Za-z0-9._-]+$`)
	userForm  = regexp.MustCompile(`^[0-9]+:[0-9]+$`)
	fieldPath = regexp.MustCompile(`^([^.\[\]]+(\[\])?\.)*[^.\[\]]+$`)
	octal     = regexp.MustCompile(`^[0-7]{4}$`)
)

// checkAll reports what is wrong within and between components.
func checkAll(all []Component, programs map[[2]string]bool) []error {
	var errs []error
	names, owner := map[string]bool{}, map[string]string{}
	images := placeholders(all)
	for _, c := range all {
		names[c.Name] = true
	}
	for _, c := range all {
		fault := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("cannot use component %s: "+format, append([]any{c.Name}, a...)...))
		}
		if c.Description == "" {
			fault("it has no description")
		}
		for size, f := range c.Sizes {
			if _, err := patched(c.Manifests, f); err != nil {
				fault("%w", err)
			}
			if !slices.Contains(Sizes(), size) {
				fault("%s is of no size: there are %s", f.Name, strings.Join(Sizes(), ", "))
			}
		}
		for _, n := range c.Needs {
			if !names[n] {
				fault("it needs %s, which is not in the catalog", n)
			}
		}
		for _, n := range c.After {
			if !names[n] {
				fault("it comes after %s, which is not in the catalog", n)
			}
			if slices.Contains(c.AllNeeds(), n) {
				fault("it comes after %s and needs it; needs are enough", n)
			}
		}
		for _, n := range c.Yields {
			on := map[string]bool{}
			gather(n, byName(all), on)
			if !names[n] {
				fault("it yields to %s, which is not in the catalog", n)
			} else if on[c.Name] {
				fault("it yields to %s, which stands on it", n)
			}
		}
		for _, p := range c.HostPrograms {
			checkProgram(GoProgram(p), programs, fault)
		}
		for _, im := range c.Images {
			if !imageName.MatchString(im.Name) {
				fault("image name %q is not registry/repository:tag", im.Name)
			}
			if o, ok := owner[im.Name]; ok {
				fault("image %s is component %s's too", im.Name, o)
			}
			owner[im.Name] = c.Name
			if im.Upstream == (Upstream{}) || im.Source.holdsSomething() {
				checkSource(c, im.Name, im.Source, programs, fault)
			}
			checkUpstream(c, im, programs, fault)
		}
		for _, s := range c.Secrets {
			checkGenerate(s.Name, s.Generate, fault)
			if s.Name == "" || s.Namespace == "" || len(s.Generate)+len(s.Pairs) == 0 {
				fault("a secret needs name, namespace, and generate or pairs")
			}
			for _, p := range s.Pairs {
				if p.Key == "" || p.Certificate == "" || p.CommonName == "" {
					fault("secret %s: a pair needs key, certificate and commonName", s.Name)
				}
			}
		}
		checkOnNode(c, all, fault)
		alone := c
		c = checkWith(c, all, fault)
		checkShape(c, all, fault)
		checkOfUpstream(alone, c, images, fault)
		for _, r := range c.Ready {
			if !slices.Contains([]string{"Deployment", "DaemonSet", "StatefulSet", "Job"}, r.Kind) || r.Name == "" || r.Namespace == "" {
				fault("cannot wait for %s %s/%s", r.Kind, r.Namespace, r.Name)
			}
		}
		for _, f := range c.ImageFields {
			if f.Kind == "" || !fieldPath.MatchString(f.Path) {
				fault("image field %s of %s: want a kind, and keys with dots between them, the last without []", f.Path, f.Kind)
			}
		}
		for _, a := range c.Allow.Hosts {
			if a.Name == "" || strings.TrimSpace(a.Reason) == "" {
				fault("an allowed host needs name and reason")
			}
		}
		objects, err := pin(c, images)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains([]string{"", Stays, Restore}, c.Rollback) || c.Rollback == "" && keepsData(objects) {
			fault("rollback is %q; one that keeps data says %s or %s", c.Rollback, Stays, Restore)
		}
		for _, r := range c.Ready {
			want := object{kind: r.Kind, namespace: r.Namespace, name: r.Name}
			if !slices.ContainsFunc(objects, func(o object) bool { return o.key() == want.key() }) {
				fault("it is ready with %s, which is not in its manifests", want.key())
			}
		}
	}
	return errs
}

func checkUpstream(c Component, im Image, programs map[[2]string]bool, fault func(string, ...any)) {
	if add := im.Upstream.Add; add != nil {
		checkSource(c, im.Name, *add, programs, fault)
		if len(add.Maven) > 0 {
			fault("image %s: no archives are put over what a project publishes", im.Name)
		}
	}
	ref, _, _ := strings.Cut(im.Upstream.Ref, "@")
	switch {
	case im.Upstream == Upstream{}:
	case !imageName.MatchString(ref):
		fault("image %s: upstream reference %q is not registry/repository:tag", im.Name, im.Upstream.Ref)
	case im.Upstream.Key != "" && im.Upstream.Keyless != signing.Identity{}:
		fault("image %s: a key and an identity are two ways to sign", im.Name)
	case im.Upstream.Key != "":
		if _, err := signing.ParsePublicKey([]byte(im.Upstream.Key)); err != nil {
			fault("image %s: %w", im.Name, err)
		}
	case im.Upstream.Keyless != signing.Identity{}:
		if err := im.Upstream.Keyless.Check(); err != nil {
			fault("image %s: %w", im.Name, err)
		}
	}
}

func checkProgram(p GoProgram, programs map[[2]string]bool, fault func(string, ...any)) {
	if !programs[[2]string{p.Recipe, p.Program}] {
		fault("recipe %s builds no program %s", p.Recipe, p.Program)
	}
	checkPath(p.Path, fault)
}

func checkPath(p string, fault func(string, ...any)) {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
		fault("%q is not a clean absolute path", p)
	}
}

func checkSource(c Component, image string, s Source, programs map[[2]string]bool, fault func(string, ...any)) {
	checkArchives(image, s.Maven, false, fault)
	checkData(c, image, s.Data, fault)
	for _, st := range s.Steps {
		if len(st.Run) == 0 {
			fault("image %s: a step runs nothing", image)
		} else {
			checkPath(st.Run[0], fault)
		}
		checkPath(st.Keep, fault)
		checkArchives(image, st.Maven, true, fault)
		checkData(c, image, st.Data, fault)
	}
	for _, p := range s.Go {
		checkProgram(p, programs, fault)
	}
	for _, e := range s.Exclude {
		if e.Name == "" || e.Reason == "" {
			fault("image %s: an exclusion needs name and reason", image)
		}
	}
	for _, d := range s.Dirs {
		checkPath(d.Path, fault)
		if !octal.MatchString(d.Mode) {
			fault("image %s: mode %q of %s is not four octal digits", image, d.Mode, d.Path)
		}
	}
	for _, f := range s.Files {
		checkPath(f.Path, fault)
		if !octal.MatchString(f.Mode) {
			fault("image %s: mode %q of %s is not four octal digits", image, f.Mode, f.Path)
		}
	}
	for _, l := range s.Links {
		checkPath(l.Path, fault)
		if l.Target == "" {
			fault("image %s: link %s has no target", image, l.Path)
		}
	}
	if !userForm.MatchString(s.User) {
		fault("image %s: user %q is not uid:gid", image, s.User)
	}
	if len(s.Entrypoint) == 0 && len(s.Cmd) == 0 {
		fault("image %s runs nothing", image)
	}
	if !s.holdsSomething() {
		fault("image %s holds nothing", image)
	}
}

func checkArchives(image string, all []Archive, step bool, fault func(string, ...any)) {
	for _, a := range all {
		checkPath(a.Path, fault)
		jar := step && a.IsJar() && len(a.Drop) == 0
		if _, err := store.ParseDigest(string(a.Digest)); err != nil || a.Size <= 0 || !jar && !strings.HasSuffix(a.Artifact, ":tar.gz") {
			fault("image %s: artifact %s needs digest and size, and to be a tar.gz, or in a step a jar", image, a.Artifact)
		}
	}
}

func checkData(c Component, image string, all []Data, fault func(string, ...any)) {
	for _, d := range all {
		checkPath(d.Path, fault)
		if _, ok := c.Files[d.File]; !ok {
			fault("image %s: there is no files/%s", image, d.File)
		}
	}
}

// Perm is the value of an octal mode that Load has checked.
func Perm(mode string) uint32 {
	n, err := strconv.ParseUint(mode, 8, 12)
	if err != nil {
		return 0
	}
	return uint32(n)
}
