package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/bundles/sbom"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/inventory"
)

// sbom lists every package and module of the release: of what was made here,
// and of what was read from the images of the lock and inside archives.
func (b builder) sbom(o image.OS, made []ingredients, read []inventory.Contents, inside map[store.Digest]inventory.Contents) (store.Content, error) {
	var all []sbom.Package
	for i, in := range made {
		p := sbom.Package{Kind: sbom.Image, Name: in.image.Name, SHA256: in.image.Manifest.Digest.Hex(), Contains: b.contained(in, inside)}
		if i == 0 {
			p.Kind, p.Name, p.SHA256 = sbom.File, "root.erofs", o.Root.Raw.Digest.Hex()
			p.Contains = append(p.Contains, b.releasedPackages()...)
		}
		all = append(all, p)
	}
	for i, im := range b.lock.Images {
		comment := "Not composed here"
		if slices.ContainsFunc(made, func(m ingredients) bool { return m.over.Name == im.Name }) {
			comment = "What the image of that name here was composed over"
		}
		all = append(all, sbom.Package{
			Kind: sbom.Image, Name: im.Name, Source: cmp.Or(im.Upstream, im.Name), SHA256: im.Digest.Hex(),
			PURL:     imageURL(cmp.Or(im.Upstream, im.Name), im.Digest),
			Comment:  comment + "; read from its layers: " + strings.Join(read[i].Notes, "; "),
			Contains: contentsOf(read[i]),
		})
	}
	name, release := b.in.site.Name, strconv.FormatInt(b.in.site.Release, 10)
	key, err := store.Key("sbom", name, release, b.lock.Epoch, Version, all)
	if err != nil {
		return store.Content{}, err
	}
	var doc bytes.Buffer
	if err := sbom.Write(&doc, sbom.Input{
		Name: name, Version: release, Namespace: sbom.Namespace(string(key)),
		Created: time.Unix(b.lock.Epoch, 0), Tool: "holdfast-" + Version, Packages: all,
	}); err != nil {
		return store.Content{}, err
	}
	return b.store.WriteBytes(doc.Bytes())
}

// contained are the packages of something that was made here.
func (b builder) contained(in ingredients, inside map[store.Digest]inventory.Contents) []sbom.Package {
	var out []sbom.Package
	for _, p := range in.packages {
		out = append(out, sbom.Package{
			Kind: sbom.Deb, Name: p.Name, Version: p.Version, Source: p.Source, SHA256: p.Digest.Hex(), PURL: b.debURL(p), Supplier: "Debian",
		})
	}
	for _, m := range in.modules {
		out = append(out, modulePackage(m.Path, m.Version, m.H1))
	}
	if in.agent != "" {
		out = append(out, sbom.Package{Kind: sbom.File, Name: "usr/bin/holdfast-agent", Version: Version, SHA256: in.agent.Hex()})
	}
	for _, a := range in.archives {
		p := mavenPackage(a)
		p.Contains = contentsOf(inside[a.Digest]) // all of it, also what the image leaves out
		out = append(out, p)
	}
	return out
}

// releasedPackages are the engine's programs as its project released them; what
// is in them is not known here.
func (b builder) releasedPackages() []sbom.Package {
	var out []sbom.Package
	for _, p := range b.in.programs {
		if c, ok := b.released()[p.Recipe+"/"+p.Name]; ok {
			out = append(out, sbom.Package{Kind: sbom.File, Name: "/" + p.Path, Version: b.lock.Engine.Version, SHA256: c.Digest.Hex()})
		}
	}
	return out
}

// contentsOf are the packages that were read from an image of others.
func contentsOf(c inventory.Contents) []sbom.Package {
	var out []sbom.Package
	distro := c.OS.ID
	if c.OS.Version != "" {
		distro += "-" + c.OS.Version
	}
	for _, p := range c.Packages {
		one := sbom.Package{Kind: sbom.Kind(p.Kind), Name: p.Name, Version: p.Version, Source: p.Source}
		switch p.Kind {
		case inventory.NPM, inventory.PyPI, inventory.Gem:
			one.PURL = sbom.PURL(p.Kind, p.Name, p.Version)
			out = append(out, one)
			continue
		case inventory.Maven:
			if group, artifact, ok := strings.Cut(p.Name, ":"); ok { // without its group it has no URL
				one.PURL = sbom.PURL(p.Kind, group+"/"+artifact, p.Version)
			}
			out = append(out, one)
			continue
		}
		if c.OS.ID != "" { // whose package it is belongs to its URL
			vendor, version, epoch := c.OS.ID, p.Version, ""
			if p.Kind == inventory.RPM {
				if e, rest, ok := strings.Cut(version, ":"); ok {
					epoch, version = e, rest
				}
				if vendor == "rhel" { // purl-spec names its vendor
					vendor = "redhat"
				}
			}
			one.PURL = sbom.PURL(p.Kind, vendor+"/"+p.Name, version, [2]string{"arch", p.Arch}, [2]string{"distro", distro}, [2]string{"epoch", epoch})
		}
		out = append(out, one)
	}
	for _, m := range c.Modules {
		out = append(out, modulePackage(m.Path, m.Version, m.H1))
	}
	return out
}

// readImages looks into the images of the lock; what was found is remembered.
func (b builder) readImages(ctx context.Context) ([]inventory.Contents, error) {
	if len(b.lock.Images) == 0 {
		return nil, nil
	}
	done := b.step("read images")
	report := b.counter("read images")
	var out []inventory.Contents
	for i, im := range b.lock.Images {
		report(i, len(b.lock.Images), im.Name)
		c, err := b.readImage(ctx, im)
		if err != nil {
			return nil, fmt.Errorf("cannot list what is in image %s: %w", im.Name, err)
		}
		out = append(out, c)
	}
	done(fmt.Sprintf("%d images of others", len(out)))
	return out, nil
}

func (b builder) readImage(ctx context.Context, im airgap.Image) (inventory.Contents, error) {
	var c inventory.Contents
	key, err := store.Key("image contents", inventory.Version, b.identity, im.Content)
	if err != nil || b.store.Recall(key, &c) {
		return c, err
	}
	blobs, err := registry.Blobs(b.store, im.Content)
	if err != nil {
		return c, err
	}
	return b.readLayers(ctx, key, blobs[1:]) // the first is its configuration
}

// readArchives looks into the archives that images are made of.
func (b builder) readArchives(ctx context.Context, made []ingredients) (map[store.Digest]inventory.Contents, error) {
	out := map[store.Digest]inventory.Contents{}
	for _, in := range made {
		for _, a := range in.archives {
			if _, ok := out[a.Digest]; ok {
				continue
			}
			var c inventory.Contents
			key, err := store.Key("archive contents", inventory.Version, b.identity, a.Content())
			if err == nil && !b.store.Recall(key, &c) {
				c, err = b.readLayers(ctx, key, []store.Content{a.Content()})
			}
			if err != nil {
				return nil, fmt.Errorf("cannot list what is in %s: %w", a.Artifact, err)
			}
			out[a.Digest] = c
		}
	}
	return out, nil
}

// readLayers reads layers, the lowest first, and remembers under key what was
// found.
func (b builder) readLayers(ctx context.Context, key store.Digest, blobs []store.Content) (inventory.Contents, error) {
	var layers []inventory.Layer
	for _, l := range blobs {
		layers = append(layers, inventory.Layer{Name: string(l.Digest), Open: func() (io.ReadCloser, error) { return b.store.Open(l) }})
	}
	c, err := inventory.Read(ctx, layers, b.store.TempFile)
	if err != nil {
		return c, err
	}
	return c, b.store.Remember(key, c)
}

func modulePackage(path, version, h1 string) sbom.Package {
	return sbom.Package{Kind: sbom.Golang, Name: path, Version: version, Source: h1, PURL: moduleURL(path, version)}
}

func mavenPackage(a catalog.Archive) sbom.Package {
	f := strings.Split(a.Artifact, ":")
	return sbom.Package{Kind: sbom.Maven, Name: f[0] + ":" + f[1], Version: f[2], SHA256: a.Digest.Hex(), PURL: mavenURL(a.Artifact)}
}
