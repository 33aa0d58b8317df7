package cli

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/provenance"
)

// provenance adds to in how it was made: a statement about the whole release,
// and one about each composed image. All else of in is there already.
func (b builder) provenance(in *bundles.ReleaseInput, made []ingredients) error {
	write := func(s provenance.Statement) (store.Content, error) {
		doc, err := s.Encode()
		if err != nil {
			return store.Content{}, err
		}
		return b.store.WriteBytes(doc)
	}
	for _, m := range made[1:] {
		s, err := b.imageStatement(m)
		if err != nil {
			return err
		}
		c, err := write(s)
		if err != nil {
			return fmt.Errorf("image %s: %w", m.image.Name, err)
		}
		in.Statements = append(in.Statements, bundles.File{Title: statementTitle(m.image.Name), Content: c})
	}
	s, err := b.releaseStatement(*in, made)
	if err != nil {
		return err
	}
	in.Provenance, err = write(s)
	return err
}

const buildCommand = "holdfast build"

// releaseStatement is about all that the release index will name, but for the
// provenance itself.
func (b builder) releaseStatement(in bundles.ReleaseInput, made []ingredients) (provenance.Statement, error) {
	lock, err := b.lock.Encode()
	if err != nil {
		return provenance.Statement{}, err
	}
	external := map[string]any{
		"command": buildCommand, "name": in.Facts.Name, "release": in.Facts.Release, "zone": in.Facts.Zone, "domain": in.Facts.Domain,
	}
	var errs []error
	for _, f := range [][2]string{{"site", "site.yaml"}, {"policy", "trust/policy.json"}, {"bootCertificate", "trust/db.crt"}} {
		r, err := fileResource(b.dir, f[1])
		errs = append(errs, err)
		external[f[0]] = r
	}
	external["lock"] = provenance.Resource{Name: airgap.LockName, Digest: provenance.SHA256(string(store.FromBytes(lock)))}
	internal := map[string]any{
		"lock": store.Content{Digest: store.FromBytes(lock), Size: int64(len(lock))}, "epoch": b.lock.Epoch, "toolchain": b.lock.Toolchain,
		"archives": b.lock.Archives, "files": b.lock.Files, "holdfast": Version,
		"scriptsAcceptedUnread": acceptedUnread(b.lock.Packages),
	}
	if b.lock.Engine.Name != "" {
		internal["engine"] = b.lock.Engine
	}
	if len(b.lock.Images) > 0 {
		internal["images"] = b.lock.Images
	}
	if len(b.lock.Charts) > 0 {
		internal["charts"] = b.lock.Charts
	}
	deps := b.lockedResources()
	for _, m := range made {
		more, err := b.resources(m)
		errs = append(errs, err)
		deps = append(deps, more...)
	}
	if err := errors.Join(errs...); err != nil {
		return provenance.Statement{}, fmt.Errorf("cannot write provenance: %w", err)
	}
	build := provenance.Build{Type: provenance.ReleaseBuild, External: external, Internal: internal, Dependencies: deps}
	return provenance.New(inputSubjects(in), build, Version), nil
}

// imageStatement is about one composed image, and stays the same as long as
// the image and its inputs do.
func (b builder) imageStatement(m ingredients) (provenance.Statement, error) {
	deps, err := b.resources(m)
	if err != nil {
		return provenance.Statement{}, fmt.Errorf("cannot write provenance of image %s: %w", m.image.Name, err)
	}
	build := provenance.Build{
		Type:         provenance.ImageBuild,
		External:     map[string]any{"command": buildCommand, "image": m.image.Name, "component": m.image.Component},
		Internal:     map[string]any{"platform": airgap.Platform.String(), "scriptsAcceptedUnread": acceptedUnread(m.packages)},
		Dependencies: deps,
	}
	return provenance.New(imageSubjects([]bundles.Image{m.image}), build, Version), nil
}

// resources are the locked inputs of something that was made here.
func (b builder) resources(m ingredients) ([]provenance.Resource, error) {
	var out []provenance.Resource
	var errs []error
	for _, c := range b.lock.Components {
		if c.Name == m.image.Component {
			out = append(out, provenance.Resource{Name: "component/" + c.Name, Digest: provenance.SHA256(string(c.Digest))})
		}
	}
	if m.over.Name != "" {
		out = append(out, imageResource(m.over))
	}
	for _, p := range m.packages {
		out = append(out, provenance.Resource{Name: p.ID(), URI: b.debURL(p), Digest: provenance.SHA256(string(p.Digest))})
	}
	for _, r := range b.lock.Recipes {
		if slices.Contains(m.recipes, r.Name) {
			out = append(out, recipeResource(r))
		}
	}
	for _, mod := range m.modules {
		if mod.H1 == "" {
			continue // of the recipe itself, whose digest covers it, or of the toolchain
		}
		d, err := provenance.DirHash(mod.H1)
		errs = append(errs, err)
		out = append(out, provenance.Resource{Name: mod.Path, URI: moduleURL(mod.Path, mod.Version), Digest: d})
	}
	if len(m.recipes) > 0 {
		t, err := b.toolchainResource()
		errs = append(errs, err)
		out = append(out, t)
	}
	if m.agent != "" {
		out = append(out, provenance.Resource{Name: "holdfast-agent", Digest: provenance.SHA256(string(m.agent)), Annotations: map[string]any{"version": Version}})
	}
	for _, a := range slices.Concat(m.archives, m.tools) {
		out = append(out, provenance.Resource{Name: a.Artifact, URI: mavenURL(a.Artifact), Digest: provenance.SHA256(string(a.Digest))})
	}
	return out, errors.Join(errs...)
}

// lockedResources are the inputs that are the release's as a whole.
func (b builder) lockedResources() []provenance.Resource {
	var out []provenance.Resource
	for _, a := range b.lock.Archives {
		out = append(out, provenance.Resource{
			Name: a.Name + "/" + a.Suite + "/InRelease", Digest: provenance.SHA256(string(a.InRelease.Digest)), Annotations: map[string]any{"date": a.Date},
		})
	}
	for _, c := range b.lock.Components {
		out = append(out, provenance.Resource{Name: "component/" + c.Name, Digest: provenance.SHA256(string(c.Digest))})
	}
	for _, f := range b.lock.Files {
		out = append(out, provenance.Resource{Name: f.Name, Digest: provenance.SHA256(string(f.Digest))})
	}
	for _, f := range b.lock.Engine.Files {
		out = append(out, provenance.Resource{
			Name: b.lock.Engine.Name + "/" + f.Name, Digest: provenance.SHA256(string(f.Digest)), Annotations: map[string]any{"version": b.lock.Engine.Version},
		})
	}
	for _, c := range b.lock.Charts {
		out = append(out, provenance.Resource{Name: "chart/" + c.Name, Digest: provenance.SHA256(string(c.Digest)), Annotations: map[string]any{"from": c.From}})
	}
	for _, im := range b.lock.Images {
		out = append(out, imageResource(im))
	}
	return out
}

func imageResource(im airgap.Image) provenance.Resource {
	r := provenance.Resource{
		Name: im.Name, URI: imageURL(cmp.Or(im.Upstream, im.Name), im.Digest), Digest: provenance.SHA256(string(im.Digest)), MediaType: im.MediaType,
		Annotations: map[string]any{"signature": im.Signature},
	}
	if im.Index != "" {
		r.Annotations["index"] = string(im.Index)
	}
	return r
}

func recipeResource(r airgap.Recipe) provenance.Resource {
	out := provenance.Resource{Name: "recipe/" + r.Name, Digest: provenance.SHA256(string(r.Digest)), Annotations: map[string]any{"go.mod": string(r.GoMod)}}
	if r.GoSum != "" {
		out.Annotations["go.sum"] = string(r.GoSum)
	}
	return out
}

func (b builder) toolchainResource() (provenance.Resource, error) {
	t := b.lock.Toolchain
	d, err := provenance.DirHash(t.H1)
	return provenance.Resource{Name: "Go toolchain " + t.Version, URI: moduleURL("golang.org/toolchain", "v0.0.1-"+t.Version+".linux-amd64"), Digest: d}, err
}

// fileResource is a file of the site.
func fileResource(dir, name string) (provenance.Resource, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return provenance.Resource{Name: name, Digest: provenance.SHA256(string(store.FromBytes(b)))}, err
}

// Subjects: what a release names, each by the name that it has there.

func inputSubjects(in bundles.ReleaseInput) []provenance.Resource {
	out := fileSubjects("", in.OS)
	for _, m := range in.Manifests {
		out = append(out, fileSubjects("manifests/"+m.Component+"/", m.Files)...)
	}
	out = append(out, imageSubjects(in.Images)...)
	return append(out, fileSubjects("", []bundles.File{
		{Title: bundles.SiteJSON, Content: in.Site}, {Title: bundles.NodeJSON, Content: in.Node}, {Title: bundles.SBOMJSON, Content: in.SBOM}})...)
}

func releaseSubjects(v *bundles.Verified) []provenance.Resource {
	out := fileSubjects("", v.OSFiles())
	for _, c := range v.Components() {
		out = append(out, fileSubjects("manifests/"+c+"/", v.Files(bundles.PartManifests, c))...)
	}
	out = append(out, imageSubjects(v.Images())...)
	out = append(out, fileSubjects("", v.Files(bundles.PartSite, ""))...)
	return append(out, fileSubjects("", v.Files(bundles.PartSBOM, ""))...)
}

func fileSubjects(before string, files []bundles.File) []provenance.Resource {
	var out []provenance.Resource
	for _, f := range files {
		r := provenance.Resource{Name: before + f.Title, Digest: provenance.SHA256(string(f.Content.Digest))}
		if f.Raw != (store.Content{}) {
			r.Annotations = map[string]any{"decompressed": string(f.Raw.Digest)}
		}
		out = append(out, r)
	}
	return out
}

func imageSubjects(images []bundles.Image) []provenance.Resource {
	var out []provenance.Resource
	for _, im := range images {
		out = append(out, provenance.Resource{Name: im.Name, Digest: provenance.SHA256(string(im.Manifest.Digest)), MediaType: im.MediaType})
	}
	return out
}

var notTitle = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// statementTitle is the name of an image's statement among the release's
// files: it can be read, and no two images have the same.
func statementTitle(image string) string {
	sum := sha256.Sum256([]byte(image))
	name := notTitle.ReplaceAllString(image, "_")
	return fmt.Sprintf("image-%.60s-%s.json", name, hex.EncodeToString(sum[:8]))
}
