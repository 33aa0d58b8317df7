package oci

import (
	"encoding/json"
	"fmt"
	"os"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

// mostJSON is more than any manifest or configuration takes.
const mostJSON = 4 << 20

// Docker's names for what the OCI specification has as well.
var asOCI = map[string]string{
	"application/vnd.docker.image.rootfs.diff.tar":         v1.MediaTypeImageLayer,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":    v1.MediaTypeImageLayerGzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":    v1.MediaTypeImageLayerZstd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar": "", // not to be passed on
}

// Base reads an image of the store, to compose another one over it: its layers,
// and what it runs. What else its configuration says, such as ports and
// volumes, is left out.
func Base(s *store.Store, manifest store.Content) ([]LayerDesc, Config, error) {
	var m v1.Manifest
	var c v1.Image
	err := readJSON(s, manifest, &m)
	if err == nil {
		err = readJSON(s, content(m.Config), &c)
	}
	if err == nil && len(m.Layers) != len(c.RootFS.DiffIDs) {
		err = fmt.Errorf("its configuration has %d layers, and its manifest %d", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	var layers []LayerDesc
	if err == nil {
		for i, l := range m.Layers {
			kind, docker := asOCI[l.MediaType]
			if !docker {
				kind = l.MediaType
			}
			if kind == "" {
				return nil, Config{}, fmt.Errorf("cannot compose over image %s: its layer %s is not to be passed on", manifest.Digest, l.Digest)
			}
			layers = append(layers, LayerDesc{Content: content(l), DiffID: store.Digest(c.RootFS.DiffIDs[i]), MediaType: kind})
		}
	}
	if err != nil {
		return nil, Config{}, fmt.Errorf("cannot compose over image %s: %w", manifest.Digest, err)
	}
	return layers, Config{
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env,
		User: c.Config.User, WorkingDir: c.Config.WorkingDir, Labels: c.Config.Labels,
	}, nil
}

func content(d v1.Descriptor) store.Content {
	return store.Content{Digest: store.Digest(d.Digest), Size: d.Size}
}

func readJSON(s *store.Store, c store.Content, to any) error {
	if _, err := store.ParseDigest(string(c.Digest)); err != nil {
		return err
	}
	if c.Size > mostJSON {
		return fmt.Errorf("%s has %d bytes, more than the %d allowed", c.Digest, c.Size, mostJSON)
	}
	if err := s.Check(c); err != nil {
		return err
	}
	b, err := os.ReadFile(s.Path(c.Digest))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// Over is c with what other says.
func (c Config) Over(other Config) Config {
	if len(other.Entrypoint) > 0 {
		// What an image's own entry point took is nothing to another one.
		c.Entrypoint, c.Cmd = other.Entrypoint, nil
	}
	if len(other.Cmd) > 0 {
		c.Cmd = other.Cmd
	}
	if len(other.Env) > 0 {
		c.Env = other.Env
	}
	if other.User != "" {
		c.User = other.User
	}
	if other.WorkingDir != "" {
		c.WorkingDir = other.WorkingDir
	}
	if other.Labels != nil {
		c.Labels = other.Labels
	}
	return c
}
