package cli

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/signing"
)

// PackComposed packs a small release of the site in dir into the file name:
// composed, signed and packed as build does, with a package and a program in
// the root, an image of Debian packages, a program and an artifact, and one
// image of others.
func PackComposed(ctx context.Context, dir, cache, name string) error {
	s, err := store.Open(cache)
	if err != nil {
		return err
	}
	c := composer{store: s}
	b := builder{app: &app{Host: Host{Stdout: io.Discard, Stderr: io.Discard, Now: time.Now}, dir: dir}, store: s, identity: c.put("holdfast").Digest}
	compiled, err := compileSmall(ctx, cache)
	if err != nil {
		return err
	}
	defer os.Remove(compiled)
	program := c.file(compiled)
	if b.agent, err = os.ReadFile(compiled); err != nil {
		return err
	}
	images := []bundles.Image{{Name: "registry.example/own/db:1", Component: "db", MediaType: "application/vnd.oci.image.manifest.v1+json", Manifest: c.image("a layer")}}
	others := c.image(layerOf([][2]string{
		{"etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"},
		{"var/lib/dpkg/status", "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nSource: zlib\nVersion: 1:1.2.13.dfsg-1\n"},
	}))
	archive := c.put(layerOf([][2]string{{"app-1.0/lib/core.jar", jarOf("META-INF/maven/org.example/core/pom.properties", "groupId=org.example\nartifactId=core\nversion=1.2\n")}}))
	b.lock = composedLock(others, archive)
	images = append(images, bundles.Image{Name: b.lock.Images[0].Name, Component: "site", MediaType: b.lock.Images[0].MediaType, Manifest: others})
	b.in = inputs{
		site:     overlays.Site{Name: "demo", Domain: "demo.example", Release: 7, Zone: "official", OS: overlays.OS{Suite: "trixie"}},
		programs: []image.Program{{Recipe: "kubernetes", Name: "kubelet", Path: "usr/bin/kubelet"}},
		components: []catalog.Component{{Name: "db", Images: []catalog.Image{{Name: "registry.example/own/db:1", Source: catalog.Source{
			Debs: []string{"libc6"}, Go: []catalog.GoProgram{{Recipe: "db-start", Program: "db-start", Path: "/usr/bin/db-start"}},
			Maven: []catalog.Archive{{Artifact: "org.example:app:1.0:tar.gz", Digest: b.lock.Maven[0].Digest, Size: b.lock.Maven[0].Size, Path: "/opt"}},
		}}}}},
	}
	o, boot := c.os()
	if c.err != nil {
		return c.err
	}
	return b.pack(ctx, o, boot, images, map[string]store.Content{"kubernetes/kubelet": program, "db-start/db-start": program}, name)
}

// pack composes a release, signs it with the site's key and packs it.
func (b builder) pack(ctx context.Context, o image.OS, boot bootParts, images []bundles.Image, programs map[string]store.Content, name string) error {
	rel, err := b.compose(ctx, o, boot, images, programs)
	if err != nil {
		return err
	}
	key, err := signing.LoadPrivateKey(filepath.Join(b.dir, "keys", "release.key"))
	if err != nil {
		return err
	}
	sig, err := signing.Sign(string(rel.Index.Digest), fmt.Sprintf("%s:%d", b.in.site.Name, b.in.site.Release), key, nil)
	if err != nil {
		return err
	}
	var bundle bytes.Buffer
	if err := bundles.Pack(ctx, &bundle, b.store, rel, []signing.Signature{sig}, nil); err != nil {
		return err
	}
	return os.WriteFile(name, bundle.Bytes(), 0o644)
}

// PackSite packs a release of the site in dir into the file name, from its lock
// and what collect brought into the cache: images and manifests as build makes
// them, with stand-ins for the OS and for each program that would be compiled,
// and without the steps that would run programs of images.
func PackSite(ctx context.Context, dir, cache, name string) error {
	s, err := store.Open(cache)
	if err != nil {
		return err
	}
	c := composer{store: s}
	a := &app{Host: Host{Stdout: io.Discard, Stderr: io.Discard, Now: time.Now}, dir: dir}
	b := builder{app: a, store: s, identity: c.put("holdfast").Digest}
	if b.in, err = a.load(); err != nil {
		return err
	}
	if b.lock, err = a.fittingLock(b.in); err != nil {
		return err
	}
	compiled, err := compileSmall(ctx, cache)
	if err != nil {
		return err
	}
	defer os.Remove(compiled)
	if b.agent, err = os.ReadFile(compiled); err != nil {
		return err
	}
	programs := b.released()
	program := c.file(compiled)
	for _, r := range b.in.recipes {
		for _, p := range r.Programs {
			programs[r.Name+"/"+p.Name] = program
		}
	}
	for _, k := range b.in.components {
		for _, im := range k.Images {
			if im.Upstream.Add != nil {
				im.Upstream.Add.Steps = nil
			}
		}
	}
	images, err := b.images(ctx, programs)
	if err != nil {
		return err
	}
	o, boot := c.os()
	if c.err != nil {
		return c.err
	}
	return b.pack(ctx, o, boot, images, programs, name)
}

// compileSmall compiles a small program into a file in dir.
func compileSmall(ctx context.Context, dir string) (string, error) {
	f, err := os.CreateTemp(dir, "program-")
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", f.Name(), "../../../image/inventory/testdata/program").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return f.Name(), nil
}

func composedLock(others, archive store.Content) airgap.Lock {
	h1 := "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	digest := func(text string) store.Digest { return store.FromBytes([]byte(text)) }
	content := func(text string) store.Content { return store.Content{Digest: digest(text), Size: int64(len(text))} }
	return airgap.Lock{
		APIVersion: "holdfast/v1alpha1", Kind: "SiteLock", Epoch: 1700000000,
		Toolchain: airgap.Toolchain{Version: "go1.26.8", H1: h1},
		Archives:  []airgap.Archive{{Name: "debian", Suite: "trixie", Date: "2023-11-14T22:13:20Z", InRelease: content("InRelease")}},
		Sets: []airgap.Set{
			{Name: image.OSSet, Want: []string{"base-files"}, Packages: []string{"base-files=13"}},
			{Name: imageSet("registry.example/own/db:1"), Want: []string{"libc6"}, Packages: []string{"libc6=2:2.41-12+deb13u1"}},
		},
		Packages: []airgap.Package{
			{Name: "base-files", Version: "13", Arch: "amd64", Archive: "debian", Path: "pool/b", Content: content("base-files"),
				Scripts: []airgap.Script{{Name: "postinst", Digest: digest("postinst"), Verdict: "accepted unread 2023-11-14"}}},
			{Name: "libc6", Version: "2:2.41-12+deb13u1", Arch: "amd64", Source: "glibc", Archive: "debian", Path: "pool/l", Content: content("libc6")},
		},
		Recipes: []airgap.Recipe{
			{Name: "db-start", Digest: digest("db-start"), GoMod: digest("go.mod")},
			{Name: "kubernetes", Digest: digest("kubernetes"), GoMod: digest("go.mod"), GoSum: digest("go.sum")},
		},
		Components: []airgap.Component{{Name: "db", Origin: "source", Digest: digest("db")}, {Name: "kubernetes", Origin: "source", Digest: digest("k")}},
		Files:      []airgap.File{{Name: "trust/policy.json", Content: content("policy")}},
		Images: []airgap.Image{{Name: "registry.example/team/app:1", Upstream: "registry.example/made/app:1", Origin: "registry", Platform: "linux/amd64",
			MediaType: "application/vnd.oci.image.manifest.v1+json", Content: others, Index: digest("index"), Bytes: 100, Signature: "not asked for"}},
		Maven: []airgap.Artifact{{Name: "org.example:app:1.0:tar.gz", Content: archive}},
	}
}

// composer puts things into a store, and keeps the first error.
type composer struct {
	store *store.Store
	err   error
}

func (c *composer) put(text string) store.Content {
	got, err := c.store.WriteBytes([]byte(text))
	if c.err == nil {
		c.err = err
	}
	return got
}

func (c *composer) file(name string) store.Content {
	f, err := os.Open(name)
	if err != nil {
		c.err = err
		return store.Content{}
	}
	defer f.Close()
	got, err := c.store.Write(f)
	if c.err == nil {
		c.err = err
	}
	return got
}

// os puts the parts of an OS that is none.
func (c *composer) os() (image.OS, bootParts) {
	o := image.OS{RootHash: fmt.Sprintf("%064d", 1), Root: image.Part{Packed: c.put("root packed"), Raw: c.put("root")}, Verity: image.Part{Packed: c.put("verity packed"), Raw: c.put("verity")}}
	return o, bootParts{c.put("uki"), c.put("loader"), c.put("guard")}
}

// image puts an image of one plain layer.
func (c *composer) image(layer string) store.Content {
	type part struct {
		MediaType string `json:"mediaType"`
		store.Content
	}
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": part{"application/vnd.oci.image.config.v1+json", c.put(`{"os":"linux","architecture":"amd64"}`)},
		"layers": []part{{"application/vnd.oci.image.layer.v1.tar", c.put(layer)}},
	})
	if c.err == nil {
		c.err = err
	}
	return c.put(string(m))
}

// layerOf is a tar of files, by name and text.
// jarOf is an archive of Java's with one file.
func jarOf(name, text string) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b) // to a buffer nothing fails
	f, _ := w.Create(name)
	_, _ = io.WriteString(f, text)
	_ = w.Close()
	return b.String()
}

func layerOf(files [][2]string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b) // to a buffer nothing fails
	for _, f := range files {
		_ = w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))})
		_, _ = io.WriteString(w, f[1])
	}
	_ = w.Close()
	return b.String()
}
