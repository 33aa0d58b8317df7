package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// Resolve finds the image that r names now, or the one of r's digest, for a
// platform. Its manifest and its configuration are put into s. An image for
// other platforms, or of a form that a release cannot carry, is an error.
func (c *Client) Resolve(ctx context.Context, s *store.Store, r Ref, want Platform) (Image, error) {
	places, err := c.places(r)
	if err != nil {
		return Image{}, err
	}
	var errs []error
	for _, p := range places {
		im, err := c.resolve(ctx, s, p, r, want)
		if err == nil {
			return im, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	err = errors.Join(errs...)
	if unreached := new(net.OpError); errors.As(err, &unreached) {
		err = fmt.Errorf("%w\nhint: is %s up, and the name right? another place for its images can be named under mirrors.registries in site.yaml", err, r.Registry)
	}
	return Image{}, fmt.Errorf("cannot resolve image %s: %w", r.Name(), err)
}

func (c *Client) resolve(ctx context.Context, s *store.Store, p place, r Ref, want Platform) (Image, error) {
	ref := r.Tag
	if r.Digest != "" {
		ref = string(r.Digest)
	}
	b, mediaType, err := c.document(ctx, p, ref)
	if err != nil {
		return Image{}, err
	}
	im := Image{MediaType: mediaType}
	if isIndex(mediaType) {
		im.Index = store.FromBytes(b)
		d, err := choose(b, want)
		if err != nil {
			return Image{}, err
		}
		if b, im.MediaType, err = c.document(ctx, p, string(d.Digest)); err != nil {
			return Image{}, err
		}
		if isIndex(im.MediaType) {
			return Image{}, errors.New("an index in an index")
		}
	}
	im.Manifest = store.Content{Digest: store.FromBytes(b), Size: int64(len(b))}
	blobs, err := readManifest(b)
	if err != nil {
		return Image{}, err
	}
	im.Bytes = blobs.bytes()
	if err := s.Put(im.Manifest, bytes.NewReader(b)); err != nil {
		return Image{}, err
	}
	item := fetch.Item{Content: blobs[0], Name: "the configuration", Sources: []fetch.Source{p.source("blobs", string(blobs[0].Digest))}}
	if err := c.Transfers.Fetch(ctx, s, []fetch.Item{item}, nil); err != nil {
		return Image{}, err
	}
	config, err := s.ReadFile(blobs[0], maxConfig)
	if err != nil {
		return Image{}, err
	}
	_, err = checkConfig(config, want)
	return im, err
}

// document fetches a manifest or index by tag or digest; by digest, it is
// checked.
func (c *Client) document(ctx context.Context, p place, ref string) (b []byte, mediaType string, err error) {
	a, err := c.Transfers.Get(ctx, p.source("manifests", ref), maxManifest)
	if err != nil {
		return nil, "", err
	}
	want := a.Header.Get("Docker-Content-Digest")
	if _, err := store.ParseDigest(ref); err == nil {
		want = ref
	}
	if got := store.FromBytes(a.Body); want != "" && string(got) != want {
		return nil, "", fmt.Errorf("cannot use %s/manifests/%s: %w: want %s, got %s", p.url, ref, store.ErrMismatch, want, got)
	}
	mediaType, err = readDocument(a.Body, a.Header.Get("Content-Type"))
	return a.Body, mediaType, err
}

// Has reports whether a registry still has a manifest by its digest.
func (c *Client) Has(ctx context.Context, r Ref, d store.Digest) (bool, error) {
	places, err := c.places(r)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, p := range places {
		_, _, err := c.document(ctx, p, string(d))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fetch.ErrGone) {
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}
