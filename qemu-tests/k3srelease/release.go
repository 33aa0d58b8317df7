// Package k3srelease makes the release files of a k3s that is none, for tests of
// everything that needs no k3s to run: the files' names and forms are those of
// k3s's releases, what is in them is made here.
package k3srelease

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
)

// Version is what the program says that it is.
const Version = "v1.36.3+k3s1"

// Images are the names that Write gives to images, unless told otherwise; as
// "docker save" does, they leave Docker's own registry out.
func Images() []string {
	return []string{"rancher/mirrored-pause:3.6", "rancher/mirrored-coredns-coredns:1.12.1", "ghcr.io/k3s-io/klipper-helm:v0.9.8"}
}

// Write writes k3s, k3s-airgap-images-amd64.tar.zst with the named images, and
// sha256sum-amd64.txt into dir. Each call makes other images.
func Write(dir string, images ...string) error {
	if len(images) == 0 {
		images = Images()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The beginning of a static program for amd64, as file(1) tells it.
	program := append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00\x01\x00\x00\x00"), make([]byte, 4096)...)
	program = append(program, Version...)
	if err := os.WriteFile(filepath.Join(dir, "k3s"), program, 0o755); err != nil {
		return err
	}
	const archive = "k3s-airgap-images-amd64.tar.zst"
	if err := writeArchive(filepath.Join(dir, archive), images); err != nil {
		return err
	}
	var sums []byte
	for _, n := range []string{archive, "k3s"} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			return err
		}
		sums = fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(b), n)
	}
	return os.WriteFile(filepath.Join(dir, "sha256sum-amd64.txt"), sums, 0o644)
}

func writeArchive(file string, images []string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f)
	if err != nil {
		return err
	}
	tags := map[name.Tag]v1.Image{}
	for _, n := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			return err
		}
		if tags[tag], err = image(); err != nil {
			return err
		}
	}
	if err := tarball.MultiWrite(tags, z); err != nil {
		return err
	}
	return z.Close()
}

// image is one of 10 kB for linux/amd64.
func image() (v1.Image, error) {
	im, err := random.Image(10_000, 1)
	if err != nil {
		return nil, err
	}
	c, err := im.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	return mutate.ConfigFile(im, c)
}
