package serve

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// Manifests larger than this are not read; registries refuse more than 4 MiB.
const maxManifest = 8 << 20

// Indexes in indexes deeper than this are not followed.
const maxDepth = 8

const refName = "org.opencontainers.image.ref.name"

// catalog is what the verified releases name.
type catalog struct {
	blobs map[store.Digest]blob
	tags  map[string]store.Digest // by full name, with registry and tag
}

type blob struct {
	size      int64
	mediaType string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      store.Digest      `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// read lists all layouts anew. What is wrong with one is logged, and it is
// served without.
func (r *registry) read() *catalog {
	c := &catalog{blobs: map[store.Digest]blob{}, tags: map[string]store.Digest{}}
	roots, err := r.opts.Roots(r.opts.Layouts)
	if err != nil {
		r.opts.Log.Warn("not served", "error", err)
	}
	for _, root := range roots {
		r.walk(c, descriptor{MediaType: "application/vnd.oci.image.index.v1+json", Digest: root.Digest, Size: root.Size}, 0)
	}
	r.opts.Log.Info("layouts read", "releases", len(roots), "blobs", len(c.blobs), "tags", len(c.tags))
	return c
}

// walk adds d and all below it. A manifest that no layout has is skipped: the
// seed holds no root image, and a release under way is not whole yet.
func (r *registry) walk(c *catalog, d descriptor, depth int) {
	if _, seen := c.blobs[d.Digest]; seen || depth > maxDepth {
		return
	}
	if _, err := store.ParseDigest(string(d.Digest)); err != nil || d.Size < 0 {
		return
	}
	if !isManifest(d.MediaType) {
		c.blobs[d.Digest] = blob{d.Size, d.MediaType}
		return
	}
	b, err := r.readAll(store.Content{Digest: d.Digest, Size: d.Size})
	if err != nil {
		r.opts.Log.Warn("manifest left out", "digest", d.Digest, "error", err)
		return
	}
	c.blobs[d.Digest] = blob{d.Size, d.MediaType}
	var m struct {
		Manifests []descriptor `json:"manifests"`
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		r.opts.Log.Warn("manifest left out", "digest", d.Digest, "error", err)
		return
	}
	for _, k := range m.Manifests {
		if name := k.Annotations[refName]; depth == 0 && name != "" {
			if _, taken := c.tags[name]; !taken {
				c.tags[name] = k.Digest
			}
		}
		r.walk(c, k, depth+1)
	}
	for _, k := range append(m.Layers, m.Config) {
		// Only an index leads to manifests; anything else is a blob.
		if !isManifest(k.MediaType) {
			r.walk(c, k, depth+1)
		}
	}
}

// tag finds name:tag of the registry ns. Without ns the name must be one that
// only one registry has.
func (c *catalog) tag(ns, name, tag string) (store.Digest, bool) {
	if ns != "" {
		d, ok := c.tags[ns+"/"+name+":"+tag]
		return d, ok
	}
	var found store.Digest
	for full, d := range c.tags {
		_, rest, ok := strings.Cut(full, "/")
		if !ok || rest != name+":"+tag {
			continue
		}
		if found != "" && found != d {
			return "", false
		}
		found = d
	}
	return found, found != ""
}

func blobFile(dir string, d store.Digest) string {
	return filepath.Join(dir, "blobs", "sha256", d.Hex())
}

// readBlob reads c whole from the layout at dir and checks it.
func readBlob(dir string, c store.Content) ([]byte, error) {
	f, err := os.Open(blobFile(dir, c.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, c.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != c.Size || store.FromBytes(b) != c.Digest {
		return nil, fmt.Errorf("cannot use %s: %w", f.Name(), store.ErrMismatch)
	}
	return b, nil
}
