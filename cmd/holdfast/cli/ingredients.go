package cli

import (
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/bundles/sbom"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/gobuild"
)

// ingredients are what went into the OS root, or into a composed image.
type ingredients struct {
	image    bundles.Image // none for the OS
	over     airgap.Image  // that all else was put over, if any
	packages []airgap.Package
	recipes  []string // by name, sorted
	modules  []gobuild.Module
	archives []catalog.Archive
	tools    []catalog.Archive // that its steps used, and it has not
	agent    store.Digest      // of holdfast's own program, in the OS
}

// ingredients lists what was put into the OS root, which is first, and into
// each composed image.
func (b builder) ingredients(images []bundles.Image, programs map[string]store.Content) ([]ingredients, error) {
	host := ingredients{}
	var used []catalog.GoProgram
	for _, p := range b.in.programs {
		if p.Recipe == releasePrograms {
			continue
		}
		used = append(used, catalog.GoProgram{Recipe: p.Recipe, Program: p.Name})
	}
	var err error
	if host.packages, err = b.lock.PackagesOf(image.OSSet); err != nil {
		return nil, err
	}
	if host, err = b.compiled(host, used, programs); err != nil {
		return nil, err
	}
	if host, err = b.withAgent(host); err != nil {
		return nil, err
	}
	all := []ingredients{host}
	for _, c := range b.in.components {
		for _, im := range c.Images {
			i := slices.IndexFunc(images, func(x bundles.Image) bool { return x.Name == im.Name })
			how := b.made(c, im)
			if how.as == nil || i < 0 {
				continue
			}
			one := ingredients{image: images[i], over: how.over, archives: how.as.Maven}
			for _, st := range how.as.Steps {
				for _, a := range st.Maven {
					if !slices.ContainsFunc(slices.Concat(one.archives, one.tools), func(x catalog.Archive) bool { return x.Digest == a.Digest }) {
						one.tools = append(one.tools, a)
					}
				}
			}
			if len(how.as.Debs) > 0 {
				if one.packages, err = b.lock.PackagesOf(imageSet(im.Name)); err != nil {
					return nil, err
				}
			}
			if one, err = b.compiled(one, how.as.Go, programs); err != nil {
				return nil, err
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// compiled adds what programs were compiled from.
func (b builder) compiled(in ingredients, used []catalog.GoProgram, programs map[string]store.Content) (ingredients, error) {
	paths := map[string]string{}
	for _, p := range used {
		paths[p.Program] = b.store.Path(programs[p.Recipe+"/"+p.Program].Digest)
		in.recipes = append(in.recipes, p.Recipe)
	}
	slices.Sort(in.recipes)
	in.recipes = slices.Compact(in.recipes)
	var err error
	in.modules, err = gobuild.Modules(paths)
	return in, err
}

// withAgent adds holdfast's own program and its modules to what is in the OS.
func (b builder) withAgent(host ingredients) (ingredients, error) {
	c, err := b.store.WriteBytes(b.agent)
	if err != nil {
		return host, err
	}
	ms, err := gobuild.Modules(map[string]string{"holdfast-agent": b.store.Path(c.Digest)})
	if err != nil {
		return host, err
	}
	host.agent = c.Digest
	for _, m := range ms {
		if !slices.ContainsFunc(host.modules, func(x gobuild.Module) bool { return x.Path == m.Path && x.Version == m.Version && x.H1 == m.H1 }) {
			host.modules = append(host.modules, m)
		}
	}
	return host, nil
}

// acceptedUnread are the maintainer scripts of packages that somebody took as
// they are.
func acceptedUnread(packages []airgap.Package) []string {
	accepted := []string{}
	for _, p := range packages {
		for _, s := range p.Scripts {
			if strings.HasPrefix(s.Verdict, "accepted unread") {
				accepted = append(accepted, p.ID()+":"+s.Name)
			}
		}
	}
	return accepted
}

// Package URLs of what is locked.

func (b builder) debURL(p airgap.Package) string {
	return sbom.PURL("deb", "debian/"+p.Name, p.Version, [2]string{"arch", p.Arch}, [2]string{"distro", b.in.site.OS.Suite})
}

// moduleURL is that of a Go module, by the version in its build information.
// The standard library's name is the one that scanners know.
func moduleURL(path, version string) string {
	if path == "std" {
		return sbom.PURL("golang", "stdlib", strings.TrimPrefix(version, "go"))
	}
	return sbom.PURL("golang", path, version)
}

// mavenURL is that of an artifact: group:artifact:version:type.
func mavenURL(artifact string) string {
	f := strings.Split(artifact, ":")
	return sbom.PURL("maven", f[0]+"/"+f[1], f[2], [2]string{"type", f[3]})
}

// imageURL is that of an image by its name with a tag, and its digest.
func imageURL(name string, digest store.Digest) string {
	name, _, _ = strings.Cut(name, "@")
	tag := ""
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name, tag = name[:i], name[i+1:]
	}
	return sbom.PURL("oci", name[strings.LastIndex(name, "/")+1:], string(digest), [2]string{"repository_url", name}, [2]string{"tag", tag})
}
