package main

import (
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/distribution"
)

// registry measures an image of 2 GB from a registry on the loopback, over TLS
// and with a password, against skopeo: in turn, the best of three. Where
// either program is missing it measures nothing.
func (b bencher) registry(_ context.Context, t *table) error {
	program, err := distribution.Find()
	if _, serr := exec.LookPath("skopeo"); err != nil || serr != nil {
		fmt.Fprintln(os.Stderr, "no registry or no skopeo: images are not measured")
		return nil
	}
	dir := filepath.Join(b.dir, "registry")
	defer os.RemoveAll(dir)
	r, err := distribution.Start(program, dir)
	if err != nil {
		return err
	}
	defer func() { _ = r.Stop() }()
	if err := push(r, dir); err != nil {
		return err
	}
	env, err := b.registrySite(r)
	if err != nil {
		return err
	}
	l, err := airgap.ReadLock(b.site)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		return err
	}
	certs := filepath.Join(dir, "certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o644); err != nil {
		return err
	}
	s, err := userStore()
	if err != nil {
		return err
	}
	var ours, theirs, again used
	for range 3 {
		if err := forget(s, l); err != nil {
			return err
		}
		u, _, err := b.holdfast(env, "collect")
		if err != nil {
			return err
		}
		ours = faster(ours, u)
		if u, _, err = b.holdfast(env, "collect"); err != nil {
			return err
		}
		again = faster(again, u)
		out := filepath.Join(dir, "skopeo")
		fmt.Fprintln(os.Stderr, "skopeo copy --all")
		u, _, err = run(nil, "skopeo", "--insecure-policy", "copy", "--all", "--src-cert-dir", certs,
			"--src-creds", distribution.User+":"+distribution.Password, "docker://"+r.Addr+"/bench/app:1", "oci:"+out+":1")
		if err != nil {
			return err
		}
		theirs = faster(theirs, u)
		if err := os.RemoveAll(out); err != nil {
			return err
		}
	}
	if err := forget(s, l); err != nil { // the user's cache is as it was
		return err
	}
	t.add(fmt.Sprintf("collect of an image of %d MB, and skopeo copy --all", l.Images[0].Bytes/1e6), seconds(ours.wall), seconds(theirs.wall),
		fmt.Sprintf("%.0f%% (aim: 110%%); CPU %s and %s; %s", 100*ours.wall.Seconds()/theirs.wall.Seconds(), seconds(ours.cpu), seconds(theirs.cpu), memory(ours)))
	t.add("collect again, nothing to fetch", seconds(again.wall), "–", memory(again))
	return nil
}

func faster(best, u used) used {
	if best.wall == 0 || u.wall < best.wall {
		return u
	}
	return best
}

const (
	layers    = 8
	layerSize = 250e6
)

// push makes the image: layers of random bytes, in the form of gzip. They pass
// by way of files, as what this process holds counts as its children's memory.
func push(r *distribution.Registry, dir string) error {
	im := mutate.MediaType(empty.Image, types.DockerManifestSchema2)
	im, err := mutate.ConfigFile(mutate.ConfigMediaType(im, types.DockerConfigJSON), &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return err
	}
	for i := range layers {
		name := filepath.Join(dir, fmt.Sprintf("layer%d", i))
		if err := writeLayer(name); err != nil {
			return err
		}
		defer os.Remove(name)
		l, err := tarball.LayerFromFile(name)
		if err != nil {
			return err
		}
		if im, err = mutate.AppendLayers(im, l); err != nil {
			return err
		}
	}
	return r.Put("bench/app:1", im)
}

func writeLayer(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(f, gzip.NoCompression)
	if err != nil {
		return err
	}
	_, err = io.CopyN(z, rand.Reader, layerSize)
	return errors.Join(err, z.Close(), f.Close())
}

// registrySite adds the image to the site and locks it.
func (b bencher) registrySite(r *distribution.Registry) (env []string, err error) {
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(b.site, "trust", "registry-ca.pem"), ca, 0o644); err != nil {
		return nil, err
	}
	docker := filepath.Join(b.dir, "docker")
	if err := distribution.Login(docker, r.Addr); err != nil {
		return nil, err
	}
	name := filepath.Join(b.site, "site.yaml")
	site, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	site = fmt.Appendf(site, `images:
  - name: registry.example/bench/app:1
mirrors:
  registries:
    - {name: registry.example, endpoints: ["https://%s"], ca: trust/registry-ca.pem}
`, r.Addr)
	if err := os.WriteFile(name, site, 0o644); err != nil {
		return nil, err
	}
	env = []string{"DOCKER_CONFIG=" + docker}
	_, _, err = b.holdfast(env, "lock")
	return env, err
}

// userStore is the cache that holdfast itself uses.
func userStore() (*store.Store, error) {
	dir := os.Getenv("HOLDFAST_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(user, "holdfast")
	}
	return store.Open(dir)
}

// forget removes the image's layers from the cache, and waits for the disk.
func forget(s *store.Store, l airgap.Lock) error {
	b, err := os.ReadFile(s.Path(l.Images[0].Digest))
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	for _, d := range m.Layers {
		if err := os.Remove(s.Path(store.Digest(d.Digest.String()))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	_, _, err = run(nil, "sync")
	return err
}
