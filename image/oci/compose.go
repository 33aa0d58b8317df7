package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

// Config is what a container runs, and as whom.
type Config struct {
	Entrypoint, Cmd, Env []string
	User, WorkingDir     string
	Labels               map[string]string
}

// Platform is what an image is for.
type Platform struct {
	OS, Architecture string
}

// LinuxAMD64 is the platform of all images so far.
var LinuxAMD64 = Platform{OS: "linux", Architecture: "amd64"}

// Compose writes configuration and manifest of an image into s, and returns the
// manifest. The layers, lowest first, must be in s. epoch, in seconds, is the
// time at which the image says it was made.
func Compose(s *store.Store, layers []LayerDesc, cfg Config, epoch int64, p Platform) (store.Content, error) {
	m, err := compose(s, layers, cfg, epoch, p)
	if err != nil {
		return store.Content{}, fmt.Errorf("cannot compose image: %w", err)
	}
	return m, nil
}

func compose(s *store.Store, layers []LayerDesc, cfg Config, epoch int64, p Platform) (store.Content, error) {
	if p.OS == "" || p.Architecture == "" {
		return store.Content{}, errors.New("no platform")
	}
	var errs []error
	made := time.Unix(epoch, 0).UTC()
	image := v1.Image{
		Created:  &made,
		Platform: v1.Platform{OS: p.OS, Architecture: p.Architecture},
		Config: v1.ImageConfig{
			User: cfg.User, Env: cfg.Env, Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd,
			WorkingDir: cfg.WorkingDir, Labels: cfg.Labels,
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Layers:    []v1.Descriptor{},
	}
	for _, l := range layers {
		if err := s.Check(l.Content); err != nil {
			errs = append(errs, err)
		}
		if _, err := store.ParseDigest(string(l.DiffID)); err != nil {
			errs = append(errs, err)
		}
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.Digest(l.DiffID))
		image.History = append(image.History, v1.History{Created: &made, CreatedBy: "holdfast"})
		manifest.Layers = append(manifest.Layers, descriptor(l.MediaType, l.Content))
	}
	if err := errors.Join(errs...); err != nil {
		return store.Content{}, err
	}
	config, err := writeJSON(s, image)
	if err != nil {
		return store.Content{}, err
	}
	manifest.Config = descriptor(v1.MediaTypeImageConfig, config)
	return writeJSON(s, manifest)
}

func descriptor(mediaType string, c store.Content) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.Digest(c.Digest), Size: c.Size}
}

func writeJSON(s *store.Store, v any) (store.Content, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return store.Content{}, err
	}
	return s.WriteBytes(b)
}
