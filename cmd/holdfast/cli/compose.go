package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/inventory"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/image/rootfs"
)

// images composes the container image of every component, and adds those that
// were fetched.
func (b builder) images(ctx context.Context, programs map[string]store.Content) ([]bundles.Image, error) {
	done := b.step("compose images")
	report := b.counter("images")
	var out []bundles.Image
	for _, c := range b.in.components {
		for _, im := range c.Images {
			how := b.made(c, im)
			if how.as == nil {
				continue
			}
			if err := b.hasTheRest(ctx, how); err != nil {
				return nil, err
			}
			spec, err := b.container(c, how, programs)
			if err != nil {
				return nil, err
			}
			m, err := image.ComposeContainer(ctx, b.store, spec, b.identity, func(n, total int) { report(n, total, im.Name) })
			if err != nil {
				return nil, err
			}
			out = append(out, bundles.Image{Name: im.Name, Component: c.Name, MediaType: "application/vnd.oci.image.manifest.v1+json", Manifest: m})
		}
	}
	for _, im := range b.lock.Images {
		if slices.ContainsFunc(out, func(o bundles.Image) bool { return o.Name == im.Name }) {
			continue // of the engine, and composed in its place
		}
		out = append(out, bundles.Image{Name: im.Name, Component: ownImage(im), MediaType: im.MediaType, Manifest: im.Content})
	}
	done(fmt.Sprintf("%d images", len(out)))
	return out, nil
}

// making is how an image is composed: of parts, over what its project published
// if the lock has that.
type making struct {
	name string
	as   *catalog.Source // nil: it is taken as it is
	over airgap.Image    // nothing if it is made of parts alone
}

func (b builder) made(c catalog.Component, im catalog.Image) making {
	if l, ok := b.lock.Image(im.Name); ok && l.Component == c.Name {
		return making{im.Name, im.Upstream.Add, l}
	}
	return making{name: im.Name, as: &im.Source}
}

// hasTheRest refuses packages over a project's image that need others which it
// has not: what is excluded there is what it was said to have.
func (b builder) hasTheRest(ctx context.Context, how making) error {
	if how.over.Name == "" || len(how.as.Debs) == 0 {
		return nil
	}
	has, err := b.readImage(ctx, how.over)
	if err != nil {
		return fmt.Errorf("cannot list what is in image %s: %w", how.over.Name, err)
	}
	var missing []string
	for _, e := range how.as.Exclude {
		if !slices.ContainsFunc(has.Packages, func(p inventory.Package) bool { return p.Kind == inventory.Deb && p.Name == e.Name }) {
			missing = append(missing, e.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("cannot compose image %s: packages that are put over %s need %s, which it does not have\nhint: set origin: source for the component, or lock an image of its project that has them",
		how.name, cmp.Or(how.over.Upstream, how.over.Name), strings.Join(missing, ", "))
}

// digests gives each image's digest by all that manifests may call it: its
// name, with or without the digest of its manifest or of its index.
func (b builder) digests(images []bundles.Image) map[string]store.Digest {
	out := map[string]store.Digest{}
	for _, im := range images {
		d := im.Manifest.Digest
		out[im.Name] = d
		out[im.Name+"@"+string(d)] = d
		if l, ok := b.lock.Image(im.Name); ok && l.Index != "" {
			out[im.Name+"@"+string(l.Index)] = d
		}
	}
	return out
}

func (b builder) container(k catalog.Component, how making, programs map[string]store.Content) (image.Container, error) {
	c := image.Container{Name: how.name, Base: how.over.Content, Config: oci.Config{
		Entrypoint: how.as.Entrypoint, Cmd: how.as.Cmd, Env: how.as.Env,
		User: how.as.User, WorkingDir: how.as.WorkingDir,
	}}
	if len(how.as.Debs) > 0 {
		ps, err := b.lock.PackagesOf(imageSet(how.name))
		if err != nil {
			return image.Container{}, err
		}
		c.Packages = ps
	}
	for _, p := range how.as.Go {
		c.Programs = append(c.Programs, image.ContainerFile{Path: strings.TrimPrefix(p.Path, "/"), Program: programs[p.Recipe+"/"+p.Program]})
	}
	for _, a := range how.as.Maven {
		c.Archives = append(c.Archives, imageArchive(a))
	}
	c.Files = imageData(k, how.as.Data)
	for _, d := range how.as.Dirs {
		c.Files = append(c.Files, rootfs.File{Path: strings.TrimPrefix(d.Path, "/"), Mode: rootfs.TypeDir | catalog.Perm(d.Mode), UID: d.UID, GID: d.GID})
	}
	for _, f := range how.as.Files {
		c.Files = append(c.Files, rootfs.File{Path: strings.TrimPrefix(f.Path, "/"), Mode: rootfs.TypeRegular | catalog.Perm(f.Mode), Data: rootfs.Bytes(f.Text)})
	}
	for _, l := range how.as.Links {
		c.Files = append(c.Files, rootfs.File{Path: strings.TrimPrefix(l.Path, "/"), Mode: rootfs.TypeSymlink | 0o777, Target: l.Target})
	}
	for _, st := range how.as.Steps {
		one := image.Step{Run: st.Run, Env: st.Env, Keep: strings.TrimPrefix(st.Keep, "/"), Files: imageData(k, st.Data)}
		for _, a := range st.Maven {
			if !a.IsJar() {
				one.Archives = append(one.Archives, imageArchive(a))
				continue
			}
			if err := b.store.Check(a.Content()); err != nil {
				return image.Container{}, fmt.Errorf("cannot compose image %s: %s: %w\nhint: run \"holdfast collect\"", how.name, a.Artifact, err)
			}
			one.Files = append(one.Files, rootfs.File{
				Path: strings.TrimPrefix(a.Path, "/"), Mode: rootfs.TypeRegular | 0o644,
				Data: rootfs.Section{Name: b.store.Path(a.Digest), Length: a.Size},
			})
		}
		c.Steps = append(c.Steps, one)
	}
	return c, nil
}

func imageArchive(a catalog.Archive) image.Archive {
	return image.Archive{Name: a.Artifact, Content: a.Content(), Path: strings.TrimPrefix(a.Path, "/"), Drop: a.Drop}
}

func imageData(k catalog.Component, all []catalog.Data) []rootfs.File {
	var out []rootfs.File
	for _, d := range all {
		out = append(out, rootfs.File{Path: strings.TrimPrefix(d.Path, "/"), Mode: rootfs.TypeRegular | 0o644, Data: rootfs.Bytes(k.Files[d.File])})
	}
	return out
}

// compose makes the unsigned release.
func (b builder) compose(ctx context.Context, o image.OS, boot bootParts, images []bundles.Image, programs map[string]store.Content) (bundles.Release, error) {
	done := b.step("compose release")
	in := bundles.ReleaseInput{
		Facts: bundles.Facts{
			Name: b.in.site.Name, Release: uint64(b.in.site.Release), Zone: b.in.site.Zone,
			Domain: b.in.site.Domain, Version: Version, Epoch: b.lock.Epoch, RootHash: o.RootHash,
		},
		OS: []bundles.File{
			{Title: "root.erofs", MediaType: bundles.MediaRoot, Content: o.Root.Packed, Raw: o.Root.Raw},
			{Title: "root.verity", MediaType: bundles.MediaVerity, Content: o.Verity.Packed, Raw: o.Verity.Raw},
			{Title: "uki.efi", MediaType: bundles.MediaUEFI, Content: boot.uki},
			{Title: "systemd-bootx64.efi", MediaType: bundles.MediaUEFI, Content: boot.loader},
			{Title: "guard.efi", MediaType: bundles.MediaUEFI, Content: boot.guard},
		},
		Images: images,
	}
	digests := b.digests(images)
	var err error
	if in.Manifests, err = b.manifests(digests); err != nil {
		return bundles.Release{}, err
	}
	config, err := b.nodeConfig(images, digests)
	if err != nil {
		return bundles.Release{}, err
	}
	write := func(v any) (c store.Content) {
		if err != nil {
			return c
		}
		var doc []byte
		if doc, err = json.Marshal(v); err == nil {
			c, err = b.store.WriteBytes(doc)
		}
		return c
	}
	in.Site = write(b.in.site)
	in.Node = write(config)
	if err != nil {
		return bundles.Release{}, err
	}
	made, err := b.ingredients(images, programs)
	if err != nil {
		return bundles.Release{}, err
	}
	read, err := b.readImages(ctx)
	if err != nil {
		return bundles.Release{}, err
	}
	inside, err := b.readArchives(ctx, made)
	if err != nil {
		return bundles.Release{}, err
	}
	if in.SBOM, err = b.sbom(o, made, read, inside); err != nil {
		return bundles.Release{}, err
	}
	if err := b.provenance(&in, made); err != nil {
		return bundles.Release{}, err
	}
	rel, err := bundles.Compose(b.store, in)
	if err != nil {
		return bundles.Release{}, err
	}
	done(fmt.Sprintf("%d images, %d manifests parts, %s", len(in.Images), len(in.Manifests), rel.Index.Digest))
	return rel, nil
}

// manifests renders what is applied to the cluster; the site's own come last.
func (b builder) manifests(digests map[string]store.Digest) ([]bundles.ComponentManifests, error) {
	var out []bundles.ComponentManifests
	add := func(name string, files []catalog.File) error {
		m := bundles.ComponentManifests{Component: name}
		for _, f := range files {
			c, err := b.store.WriteBytes(f.Data)
			if err != nil {
				return err
			}
			m.Files = append(m.Files, bundles.File{Title: f.Name, MediaType: bundles.MediaYAML, Content: c})
		}
		if len(m.Files) > 0 {
			out = append(out, m)
		}
		return nil
	}
	for _, c := range slices.Concat(b.in.components, b.in.own) {
		files, err := catalog.Render(c, digests)
		if err != nil {
			return nil, err
		}
		if err := add(c.Name, files); err != nil {
			return nil, err
		}
	}
	files, err := catalog.Render(b.in.siteComponent(), digests)
	if err != nil {
		return nil, err
	}
	return out, add("site", files)
}

// siteComponent is the site's own manifests as a component.
func (in inputs) siteComponent() catalog.Component {
	c := catalog.Component{Name: "site"}
	for _, m := range in.site.Manifests {
		c.Manifests = append(c.Manifests, catalog.File{Name: "manifests/" + m.Name, Data: m.Data})
	}
	fields := in.site.ImageFields
	if len(in.own) > 0 {
		fields = in.unusedFields
		for _, f := range in.site.ImageFields {
			if !slices.Contains(fields, f) && catalog.HasImageField(c, catalog.ImageField(f)) {
				fields = append(slices.Clone(fields), f)
			}
		}
	}
	for _, f := range fields {
		c.ImageFields = append(c.ImageFields, catalog.ImageField(f))
	}
	return c
}

func (b builder) nodeConfig(images []bundles.Image, digests map[string]store.Digest) (node.Config, error) {
	s := b.in.site
	c := node.Config{
		Name: s.Name, Release: int(s.Release), Zone: s.Zone, Domain: s.Domain, Epoch: b.lock.Epoch,
		LabAccess: b.in.rules.LabAccess,
		Engine:    node.Engine{Name: s.Kubernetes.Engine, Version: s.Kubernetes.Version, Disable: s.Kubernetes.Disable},
	}
	c.Updates.HealthyWithin = s.Updates.HealthyWithin
	c.Backups = node.Backups{EveryHours: s.Backups.EveryHours, Keep: s.Backups.Keep, To: s.Backups.To, HostKeys: s.Backups.HostKeys, Region: s.Backups.Region}
	var err error
	if c.Backups.Authority, err = s.BackupAuthority(b.dir); err != nil {
		return c, err
	}
	if c.Recovery, err = recoveryKeys(b.dir); err != nil {
		return c, err
	}
	for _, n := range s.Nodes {
		c.Nodes = append(c.Nodes, node.Node{
			Name: n.Name, Match: node.Match{Serial: n.Match.Serial, MAC: n.Match.MAC},
			Address: n.Address, Gateway: n.Gateway, DNS: n.DNS, NTP: n.NTP, Role: n.Role,
		})
	}
	for _, im := range images {
		c.Images = append(c.Images, node.Image{Name: im.Name, Digest: string(im.Manifest.Digest), Component: im.Component})
		if strings.HasPrefix(im.Name, "registry.k8s.io/pause:") {
			c.Engine.Pause = im.Name
		}
	}
	c.Components = addonComponents(s.Kubernetes)
	for _, k := range slices.Concat(b.in.components, b.in.own) {
		nc, err := nodeComponent(k, digests)
		if err != nil {
			return c, err
		}
		c.Components = append(c.Components, nc)
		onNode(&c.Services, k)
	}
	if len(s.Manifests) > 0 {
		c.Components = append(c.Components, node.Component{Name: "site"})
	}
	return c, nil
}

// recoveryKeys are the public keys that the site's backups are encrypted to;
// none where it has no such file.
func recoveryKeys(dir string) ([]string, error) {
	doc, err := os.ReadFile(filepath.Join(dir, backup.PublicKeys))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the recovery keys: %w", err)
	}
	lines, err := backup.Lines(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", backup.PublicKeys, err)
	}
	return lines, nil
}

// onNode adds what the node uses of k.
func onNode(s *node.Services, k catalog.Component) {
	if a := k.Node.Authority; a != nil {
		s.Authority = &node.Authority{Namespace: k.Namespace, Name: a.Secret, Key: a.Key}
	}
	if k.Node.Registry != "" {
		s.Registry = k.Node.Registry
	}
	s.Journal = s.Journal || k.Node.Journal
	if m := k.Node.Monitoring; m != nil {
		s.Monitoring = &node.Monitoring{Namespace: k.Namespace, Name: m.Secret, Key: m.Key}
	}
	if i := k.Node.SignIn; i != nil {
		s.SignIn = &node.SignIn{Issuer: i.Issuer, Audience: i.Audience}
	}
}

func nodeComponent(k catalog.Component, digests map[string]store.Digest) (node.Component, error) {
	c := node.Component{Name: k.Name, Namespace: k.Namespace, Needs: k.AllNeeds(), After: k.After, Uses: k.AlsoUses(), Yields: k.Yields, Rollback: k.Rollback}
	for _, s := range k.Secrets {
		n := node.Secret{Name: s.Name, Namespace: s.Namespace, Generate: s.Generate}
		for _, p := range s.Pairs {
			n.Pairs = append(n.Pairs, node.Pair(p))
		}
		if s.From != nil {
			n.From = &node.From{Name: s.From.Name, Namespace: s.From.Namespace, Keys: s.From.Keys}
		}
		c.Secrets = append(c.Secrets, n)
	}
	for _, r := range k.Ready {
		c.Ready = append(c.Ready, node.Ready(r))
	}
	first, err := catalog.First(k, digests)
	for _, r := range first {
		c.First = append(c.First, node.Ready(r))
	}
	return c, err
}
