package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// Signatures are what cosign left beside an image: up to its version 2 under
// a tag made from the image's digest, from 3 on as a referrer of it. None is
// no error. They are anybody's until they are verified.
func (c *Client) Signatures(ctx context.Context, r Ref, d store.Digest) (signing.Claims, error) {
	places, err := c.places(r)
	if err != nil {
		return signing.Claims{}, err
	}
	var errs []error
	for _, p := range places {
		sigs, err := c.attached(ctx, p, d)
		bundles, berr := c.bundles(ctx, p, d)
		if err = errors.Join(err, berr); err == nil && len(sigs)+len(bundles) > 0 {
			return signing.Claims{Signatures: sigs, Bundles: bundles}, nil
		}
		errs = append(errs, err)
	}
	return signing.Claims{}, errors.Join(errs...)
}

// attached reads the signatures under the tag.
func (c *Client) attached(ctx context.Context, p place, d store.Digest) ([]signing.Claim, error) {
	b, _, err := c.document(ctx, p, "sha256-"+d.Hex()+".sig")
	if errors.Is(err, fetch.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	attached, err := signing.ParseAttached(b)
	if err != nil {
		return nil, err
	}
	var sigs []signing.Claim
	for _, at := range attached {
		payload, err := c.small(ctx, p, at.Payload, signing.MaxPayload)
		if err != nil {
			return nil, err
		}
		sigs = append(sigs, signing.Claim{Signature: signing.Signature{Payload: payload, Sig: at.Sig}, Keyless: at.Keyless})
	}
	return sigs, nil
}

// bundles reads those that refer to the image: a registry that does not list
// them by itself has the list under a tag.
func (c *Client) bundles(ctx context.Context, p place, d store.Digest) ([]signing.Bundle, error) {
	list := p.source("referrers", string(d))
	list.Accept = ocispec.MediaTypeImageIndex
	a, err := c.Transfers.Get(ctx, list, maxManifest)
	if errors.Is(err, fetch.ErrGone) {
		a.Body, _, err = c.document(ctx, p, "sha256-"+d.Hex())
	}
	if errors.Is(err, fetch.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ix ocispec.Index
	if err := json.Unmarshal(a.Body, &ix); err != nil {
		return nil, fmt.Errorf("the list of what refers to %s is not JSON: %w", d, err)
	}
	var out []signing.Bundle
	for _, m := range ix.Manifests {
		if m.ArtifactType != signing.BundleType {
			continue
		}
		if len(out) == signing.MaxSignatures {
			return nil, fmt.Errorf("more than %d signatures of %s", signing.MaxSignatures, d)
		}
		b, err := c.bundle(ctx, p, string(m.Digest))
		if err != nil {
			return nil, err
		}
		if bundle, err := signing.ParseBundle(b); err == nil { // it may be of another kind
			out = append(out, bundle)
		}
	}
	return out, nil
}

// bundle reads the one layer of an artifact.
func (c *Client) bundle(ctx context.Context, p place, digest string) ([]byte, error) {
	b, _, err := c.document(ctx, p, digest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil || len(m.Layers) != 1 {
		return nil, fmt.Errorf("the signature %s has not one layer", digest)
	}
	return c.small(ctx, p, string(m.Layers[0].Digest), signing.MaxBundle)
}

// small reads a small blob and checks it.
func (c *Client) small(ctx context.Context, p place, digest string, limit int64) ([]byte, error) {
	if _, err := store.ParseDigest(digest); err != nil {
		return nil, err
	}
	a, err := c.Transfers.Get(ctx, p.source("blobs", digest), limit)
	if err != nil {
		return nil, err
	}
	if got := store.FromBytes(a.Body); string(got) != digest {
		return nil, fmt.Errorf("cannot use a signature: %w: want %s, got %s", store.ErrMismatch, digest, got)
	}
	return a.Body, nil
}
