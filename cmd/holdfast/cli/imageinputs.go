package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"holdfast.dev/holdfast/airgap"
	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/signing"
	"holdfast.dev/holdfast/signing/keyless"
)

// askUpstream asks for the images that a component's project publishes.
func (in *inputs) askUpstream(c catalog.Component) error {
	var errs []error
	for _, im := range c.Images {
		w := airgap.WantImage{Name: im.Name, Component: c.Name}
		var err error
		w.Ref, err = registry.ParseRef(im.Upstream.Ref)
		errs = append(errs, err)
		switch id := im.Upstream.Keyless; {
		case im.Upstream.Key != "":
			w.Signed, err = byKey("component "+c.Name, []byte(im.Upstream.Key))
		case id != signing.Identity{}:
			w.Signed, err = byIdentity(id, publicRoot, keyless.PublicRoot)
		}
		errs = append(errs, err)
		in.request.Images = append(in.request.Images, w)
	}
	return errors.Join(errs...)
}

// askImages asks for the site's own images.
func (in *inputs) askImages(dir string) error {
	owner := map[string]string{}
	for _, c := range in.components {
		for _, im := range c.Images {
			owner[im.Name] = c.Name
		}
	}
	var errs []error
	for _, im := range in.site.Images {
		w, err := wantImage(dir, im)
		if c, ok := owner[w.Name]; ok && err == nil {
			err = fmt.Errorf("cannot take image %s: it is component %s's\nhint: remove it from images in site.yaml; manifests may use it", w.Name, c)
		}
		errs = append(errs, err)
		in.request.Images = append(in.request.Images, w)
	}
	return errors.Join(errs...)
}

func wantImage(dir string, im overlays.Image) (airgap.WantImage, error) {
	r, err := registry.ParseRef(im.Name)
	if err != nil {
		return airgap.WantImage{}, err
	}
	w := airgap.WantImage{Name: r.Name(), Ref: r, Archive: im.From}
	if im.IsURL() {
		w.File = store.Digest("sha256:" + im.SHA256)
	} else if w.Archive != "" && !filepath.IsAbs(w.Archive) {
		w.Archive = filepath.Join(dir, w.Archive)
	}
	w.Signed, err = signer(dir, w.Name, im.Signed)
	return w, err
}

// signer is who must have signed an image of the site; nil if nobody must.
func signer(dir, image string, s overlays.Signed) (*airgap.Signer, error) {
	id := signing.Identity{Subject: s.Identity, Pattern: s.IdentityPattern, Issuer: s.Issuer}
	switch {
	case s.Key != "":
		b, err := os.ReadFile(filepath.Join(dir, s.Key))
		var by *airgap.Signer
		if err == nil {
			by, err = byKey(s.Key, b)
		}
		if err != nil {
			err = fmt.Errorf("cannot use %s, by which image %s must be signed: %w\nhint: it is the PEM file that \"cosign verify --key\" takes", s.Key, image, err)
		}
		return by, err
	case id == signing.Identity{}:
		return nil, nil
	case s.Root == "":
		return byIdentity(id, publicRoot, keyless.PublicRoot)
	}
	b, err := os.ReadFile(filepath.Join(dir, s.Root))
	var by *airgap.Signer
	if err == nil {
		by, err = byIdentity(id, fmt.Sprintf("trusted root %s, %s", s.Root, store.FromBytes(b)), b)
	}
	if err != nil {
		err = fmt.Errorf("cannot use %s, by which the signature of image %s is checked: %w\nhint: it is the JSON file that \"cosign verify --trusted-root\" takes", s.Root, image, err)
	}
	return by, err
}

// publicRoot is what the lock calls the trusted root that holdfast carries. It
// has no digest there: a later holdfast with a later root takes the same lock.
const publicRoot = "trusted root of the public Sigstore"

func byKey(name string, pem []byte) (*airgap.Signer, error) {
	key, err := signing.ParsePublicKey(pem)
	if err != nil {
		return nil, err
	}
	return &airgap.Signer{
		Name:   fmt.Sprintf("%s, %s", name, signing.KeyID(key)),
		Hint:   fmt.Sprintf("is %s the key that its makers sign with?", name),
		Verify: func(digest string, c signing.Claims) error { return signing.VerifyKey(key, digest, c) },
	}, nil
}

func byIdentity(id signing.Identity, rootName string, root []byte) (*airgap.Signer, error) {
	v, err := keyless.New(id, root)
	if err != nil {
		return nil, err
	}
	return &airgap.Signer{
		Name:   fmt.Sprintf("%s, %s", id, rootName),
		Hint:   "is that who its makers say they are? An identity is the whole text in the certificate, and counts with its issuer",
		Verify: v.Verify,
	}, nil
}

// registryClient says how registries are reached. Credentials are those of the
// user's Docker configuration, which is read when one is asked.
func (a *app) registryClient(site overlays.Site) (*registry.Client, error) {
	c := &registry.Client{Keychain: authn.DefaultKeychain, Transport: transport(), Transfers: fetch.Client{Waiting: a.waiting}}
	var errs []error
	for _, r := range site.Mirrors.Registries {
		m := registry.Mirror{Registry: r.Name, Endpoints: r.Endpoints}
		for _, w := range r.Rewrite {
			match, err := regexp.Compile(w.Match)
			errs = append(errs, err)
			m.Rewrite = append(m.Rewrite, registry.Rewrite{Match: match, To: w.To})
		}
		if r.CA != "" {
			var err error
			if m.CA, err = os.ReadFile(filepath.Join(a.dir, r.CA)); err != nil {
				errs = append(errs, fmt.Errorf("cannot read the certificates for registry %s: %w", r.Name, err))
			}
		}
		c.Mirrors = append(c.Mirrors, m)
	}
	return c, errors.Join(errs...)
}

// waiting tells of a pause before another try.
func (a *app) waiting(why error, pause time.Duration) {
	a.notice(fmt.Sprintf("waiting %v before the next try: %v", pause.Round(time.Second), why))
}

// ownImage is the component of an image in the release: the site, if no other.
func ownImage(im airgap.Image) string { return cmp.Or(im.Component, "site") }
