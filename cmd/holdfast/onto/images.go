package onto

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-registry/registry"
)

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
)

// payload is what goes into the registry: the blobs of the images, and the
// index that names them, which is the release there.
type payload struct {
	blobs []store.Content // each once; manifests last
	index []byte
}

func (p payload) root() registry.Blob {
	return registry.Blob{Digest: store.FromBytes(p.index), Size: int64(len(p.index))}
}

func (p payload) size() (n int64) {
	for _, b := range p.blobs {
		n += b.Size
	}
	return n
}

// readImages has the objects name the registry's images in place of their own,
// and lists what it must have for that. An image that the site itself lists is
// brought also where nothing names it: a controller may.
func (p *Plan) readImages() error {
	byDigest := map[store.Digest]bundles.Image{}
	used := map[store.Digest]bool{}
	for _, im := range p.options.Release.Images() {
		byDigest[im.Manifest.Digest] = im
		if im.Component == "site" {
			used[im.Manifest.Digest] = true
		}
	}
	r := rewriter{port: p.Registry.Port, images: byDigest, used: used}
	p.objects(func(c apply.Component, o *unstructured.Unstructured) { r.object(c.Name, o) })
	if err := errors.Join(r.errs...); err != nil {
		return err
	}
	var manifests []store.Content
	blobs := map[store.Digest]store.Content{}
	type descriptor struct {
		MediaType string       `json:"mediaType"`
		Digest    store.Digest `json:"digest"`
		Size      int64        `json:"size"`
	}
	named := []descriptor{}
	for _, d := range slices.Sorted(maps.Keys(used)) {
		im := byDigest[d]
		b, err := p.options.Release.ReadBlob(im.Manifest)
		if err != nil {
			return fmt.Errorf("image %s: %w", im.Name, err)
		}
		var m struct {
			Config store.Content   `json:"config"`
			Layers []store.Content `json:"layers"`
		}
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("image %s: cannot read its manifest: %w", im.Name, err)
		}
		for _, c := range append(m.Layers, m.Config) {
			blobs[c.Digest] = c
		}
		manifests = append(manifests, im.Manifest)
		mt := im.MediaType
		if mt == "" {
			mt = mediaManifest
		}
		named = append(named, descriptor{mt, d, im.Manifest.Size})
		p.Images = append(p.Images, Image{im.Name, registry.Ref(p.Registry.Port, im.Name, d)})
	}
	slices.SortFunc(p.Images, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range slices.Sorted(maps.Keys(blobs)) {
		p.payload.blobs = append(p.payload.blobs, blobs[d])
	}
	p.payload.blobs = append(p.payload.blobs, manifests...)
	var err error
	p.payload.index, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": named,
		"annotations": map[string]string{"dev.holdfast.release": fmt.Sprint(p.Release.Release), "dev.holdfast.index": string(p.Index.Digest)}})
	return err
}

// rewriter changes images' names in objects. The build has pinned each, so that
// it is known by its digest wherever it stands.
type rewriter struct {
	port   int
	images map[store.Digest]bundles.Image
	used   map[store.Digest]bool
	errs   []error
}

var pinned = regexp.MustCompile(`^([^\s@]+)@(sha256:[0-9a-f]{64})$`)

func (r *rewriter) object(component string, o *unstructured.Unstructured) {
	where := fmt.Sprintf("%s of component %s", apply.Line(o), component)
	o.Object, _ = r.value(where, "", o.Object).(map[string]any)
}

// value is v with its images' names changed; key is where it stands.
func (r *rewriter) value(where, key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			v[k] = r.value(where, k, v[k])
			list, _ := v[k].([]any)
			if k != "containers" && k != "initContainers" && k != "ephemeralContainers" {
				continue
			}
			for _, c := range list {
				m, _ := c.(map[string]any)
				if im, ok := m["image"].(string); ok && !strings.HasPrefix(im, fmt.Sprintf("127.0.0.1:%d/", r.port)) {
					r.errs = append(r.errs, fmt.Errorf("%s: the image %s is not in the release\nhint: build the release again; \"holdfast check\" finds such images", where, im))
				}
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = r.value(where, key, v[i])
		}
		return v
	case string:
		if m := pinned.FindStringSubmatch(v); m != nil {
			if im, ok := r.images[store.Digest(m[2])]; ok {
				r.used[im.Manifest.Digest] = true
				return registry.Ref(r.port, m[1], im.Manifest.Digest)
			}
			return v
		}
		if strings.Contains(v, "@sha256:") {
			for d, im := range r.images {
				if strings.Contains(v, "@"+string(d)) {
					r.errs = append(r.errs, fmt.Errorf("%s: %s names the image %s inside a longer text, where it cannot be changed for this cluster\nhint: name it in a field of its own", where, key, im.Name))
				}
			}
		}
	}
	return v
}
