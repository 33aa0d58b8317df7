package airgap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/signing"
)

// Platform is what all images of a site are for, as the OS is.
var Platform = registry.Platform{OS: "linux", Architecture: "amd64"}

// atOnce is how many images are asked for at the same time.
const atOnce = 6

// Where images come from.
const (
	fromRegistry = "registry"
	fromArchive  = "archive"
)

// WantImage is an image that is not composed here.
type WantImage struct {
	Name      string       // as manifests call it: registry/repository:tag
	Ref       registry.Ref // what to ask for, mostly the same
	Component string       // that it belongs to; the site's own has none
	Archive   string       // a file or directory, or the URL of a file, to take it from; empty for its registry
	File      store.Digest // of the file, if it is a URL's
	Signed    *Signer      // who must have signed it; nil: nothing is said of signatures
}

// Signer is who must have signed an image.
type Signer struct {
	Name   string // what the lock says of it
	Hint   string // where it did not
	Verify func(digest string, c signing.Claims) error
}

// verdict is what the lock says of a signature that was found good.
func (w WantImage) verdict() string {
	if w.Signed == nil {
		return notAsked
	}
	return "signed by " + w.Signed.Name
}

const notAsked = "not asked for"

func (w WantImage) origin() string {
	if w.Archive != "" {
		return fromArchive
	}
	return fromRegistry
}

// fits reports whether im is what w asks for.
func (w WantImage) fits(im Image) bool {
	return im.Name == w.Name && im.Upstream == w.upstream() && im.Component == w.Component && im.Origin == w.origin() &&
		im.Signature == w.verdict() && im.File.Digest == w.File && im.Platform == Platform.String() &&
		(w.Ref.Digest == "" || w.Ref.Digest == im.Digest || w.Ref.Digest == im.Index)
}

// upstream is what the image is called where it comes from, if not by its name.
func (w WantImage) upstream() string {
	if n := w.Ref.Name(); n != w.Name {
		return n
	}
	return ""
}

// Image returns the locked image of that name.
func (l Lock) Image(name string) (Image, bool) {
	i := slices.IndexFunc(l.Images, func(im Image) bool { return im.Name == name })
	if i < 0 {
		return Image{}, false
	}
	return l.Images[i], true
}

// imagesFit says where lock does not hold the images that r asks for.
func (r Request) imagesFit(l Lock) []error {
	var errs []error
	for _, w := range r.Images {
		if im, ok := l.Image(w.Name); !ok {
			errs = append(errs, fmt.Errorf("image %s is not locked", w.Name))
		} else if !w.fits(im) {
			errs = append(errs, fmt.Errorf("image %s is asked for otherwise than when it was locked", w.Name))
		}
	}
	for _, im := range l.Images {
		if im.ofEngine() {
			continue // as the engine's files are
		}
		if !slices.ContainsFunc(r.Images, func(w WantImage) bool { return w.Name == im.Name }) {
			errs = append(errs, fmt.Errorf("image %s is locked, and the site does not ask for it any more", im.Name))
		}
	}
	return errs
}

// movesImage reports whether opt names the image.
func (o Options) movesImage(name string) bool { return o.moves(name) || o.moves("images") }

// images pins those of r that previous does not hold already, or that are to
// move. All that fail are told together.
func (r Request) images(ctx context.Context, previous Lock, net Network, s *store.Store, opt Options) ([]Image, error) {
	if len(r.Images) == 0 {
		return nil, nil
	}
	out, errs := make([]Image, len(r.Images)), make([]error, len(r.Images))
	var mu sync.Mutex
	done := 0
	each(len(r.Images), func(i int) {
		w := r.Images[i]
		out[i], errs[i] = w.pin(ctx, previous, net, s, opt)
		mu.Lock()
		defer mu.Unlock()
		if done++; opt.Pinned != nil {
			opt.Pinned(done, len(r.Images), w.Name)
		}
	})
	return out, errors.Join(errs...)
}

// each calls f for the numbers below n, several at the same time.
func each(n int, f func(i int)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { f(i); return nil })
	}
	_ = group.Wait() // none fails
}

// pin keeps what previous has, or finds it anew.
func (w WantImage) pin(ctx context.Context, previous Lock, net Network, s *store.Store, opt Options) (Image, error) {
	old, ok := previous.Image(w.Name)
	keep := ok && w.fits(old) && !opt.movesImage(w.Name)
	if keep && opt.moves("gone") && w.Archive == "" {
		there, err := net.Registry.Has(ctx, w.Ref, old.Digest)
		if err != nil {
			return old, fmt.Errorf("cannot ask for image %s: %w", w.Name, err)
		}
		keep = there
	}
	if keep {
		return old, nil
	}
	return w.resolve(ctx, net, s, opt.Taken)
}

func (w WantImage) resolve(ctx context.Context, net Network, s *store.Store, progress func(done, total int64, name string)) (Image, error) {
	im := Image{Name: w.Name, Upstream: w.upstream(), Component: w.Component, Origin: w.origin(), Platform: Platform.String(), Signature: w.verdict()}
	var found registry.Image
	var err error
	if w.Archive != "" {
		if w.File != "" {
			im.File, err = w.file(ctx, net)
		}
		if err == nil {
			found, err = w.take(ctx, net, s, im.File, progress)
		}
	} else {
		found, err = net.Registry.Resolve(ctx, s, w.Ref, Platform)
	}
	if err == nil && w.Signed != nil {
		err = w.verify(ctx, net, found)
	}
	im.Content, im.MediaType, im.Index, im.Bytes = found.Manifest, found.MediaType, found.Index, found.Bytes
	return im, err
}

// verify finds a signature by w's signer over the image, or over the index that
// it was chosen from.
func (w WantImage) verify(ctx context.Context, net Network, im registry.Image) error {
	var errs []error
	for _, d := range im.Signed() {
		sigs, err := net.Registry.Signatures(ctx, w.Ref, d)
		if err == nil {
			err = w.Signed.Verify(string(d), sigs)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("cannot accept image %s: %w\nhint: %s", w.Name, errors.Join(errs...), w.Signed.Hint)
}

// file asks how large the file is that w is taken from.
func (w WantImage) file(ctx context.Context, net Network) (store.Content, error) {
	n, err := net.Files.Size(ctx, fetch.Source{URL: w.Archive})
	if err != nil {
		return store.Content{}, fmt.Errorf("cannot take image %s: %w", w.Name, err)
	}
	return store.Content{Digest: w.File, Size: n}, nil
}

// take imports w from its archive, which it first fetches into s if it is a
// server's file.
func (w WantImage) take(ctx context.Context, net Network, s *store.Store, file store.Content, progress func(done, total int64, name string)) (registry.Image, error) {
	archive := w.Archive
	if err := w.room(s, file.Size); err != nil {
		return registry.Image{}, err
	}
	if w.File != "" {
		item := fetch.Item{Content: file, Name: w.Name, Sources: []fetch.Source{{URL: w.Archive}}}
		if err := net.Files.Fetch(ctx, s, []fetch.Item{item}, progress); err != nil {
			return registry.Image{}, err
		}
		archive = s.Path(w.File)
	}
	return registry.Import(ctx, s, archive, w.Ref, Platform, progress)
}

// room refuses an archive that the store's disk cannot hold; a server's file of
// so many bytes twice, packed and taken apart.
func (w WantImage) room(s *store.Store, file int64) error {
	size := 2 * file
	var err error
	if w.File == "" {
		size, err = sizeOf(w.Archive)
	}
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot take image %s: %w\nhint: \"from\" in site.yaml is a path from the site's directory, or a URL", w.Name, err)
	}
	if err != nil {
		return fmt.Errorf("cannot take image %s: %w", w.Name, err)
	}
	free, err := FreeSpace(s.Dir())
	if err == nil && size > free {
		err = fmt.Errorf("cannot take image %s: %s needs %d bytes, %d are free in %s\nhint: make room there, or set HOLDFAST_CACHE to a larger disk", w.Name, w.Archive, size, free, s.Dir())
	}
	return err
}

// sizeOf is the size of a file, or of all files of a directory.
func sizeOf(name string) (size int64, err error) {
	err = filepath.Walk(name, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			size += fi.Size()
		}
		return err
	})
	return size, err
}

// collectImages brings locked images into s: blobs from registries, whole
// images from archives.
func (r Request) collectImages(ctx context.Context, l Lock, net Network, s *store.Store, progress func(done, total int64, name string)) error {
	var errs []error
	var wanted []registry.Wanted
	for _, w := range r.Images {
		im, ok := l.Image(w.Name)
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("image %s is not locked", w.Name))
		case w.Archive == "":
			wanted = append(wanted, registry.Wanted{Ref: w.Ref, Manifest: im.Content})
		case imageMissing(im, s, nil) > 0:
			got, err := w.take(ctx, net, s, im.File, progress)
			if err == nil && got.Manifest != im.Content {
				err = fmt.Errorf("cannot take image %s from %s: %w: locked is %s, it has %s\nhint: run \"holdfast lock --update %s\"", w.Name, w.Archive, store.ErrMismatch, im.Digest, got.Manifest.Digest, w.Name)
			}
			errs = append(errs, err)
		}
	}
	if len(wanted) > 0 {
		errs = append(errs, net.Registry.Fetch(ctx, s, wanted, progress))
	}
	return errors.Join(errs...)
}

// imageMissing is how many bytes of an image s lacks, those in seen left out;
// it adds to seen, if that is not nil. 0 is a whole image.
func imageMissing(im Image, s *store.Store, seen map[store.Digest]bool) int64 {
	if s.Check(im.Content) != nil {
		return im.Size + im.Bytes
	}
	blobs, err := registry.Blobs(s, im.Content)
	if err != nil {
		return im.Size + im.Bytes
	}
	var n int64
	for _, b := range blobs {
		if !seen[b.Digest] && s.Check(b) != nil {
			n += max(b.Size, 1)
			if seen != nil {
				seen[b.Digest] = true
			}
		}
	}
	return n
}

// MissingImages names the locked images that s does not have whole.
func MissingImages(l Lock, s *store.Store) []string {
	var out []string
	for _, im := range l.Images {
		if imageMissing(im, s, nil) > 0 {
			out = append(out, im.Name)
		}
	}
	return out
}

// imagesUpstream asks what the registries have now under the names of locked
// images, and whether they still have those.
func (r Request) imagesUpstream(ctx context.Context, l Lock, net Network, s *store.Store) (newer, gone []string, err error) {
	type answer struct {
		newer string
		gone  bool
		err   error
	}
	answers := make([]answer, len(r.Images))
	each(len(r.Images), func(i int) {
		w, a := r.Images[i], &answers[i]
		im, ok := l.Image(w.Name)
		if !ok || w.Archive != "" {
			return
		}
		there, err := net.Registry.Has(ctx, w.Ref, im.Digest)
		if err != nil {
			a.err = fmt.Errorf("cannot ask for image %s: %w", w.Name, err)
			return
		}
		a.gone = !there
		if w.Ref.Digest != "" {
			return // it does not move
		}
		now, err := net.Registry.Resolve(ctx, s, w.Ref, Platform)
		switch {
		case err != nil && there:
			a.err = err
		case err == nil && now.Manifest.Digest != im.Digest:
			a.newer = fmt.Sprintf("image %s is locked as %s, %s is there", im.Name, im.Digest, now.Manifest.Digest)
		}
	})
	var errs []error
	for i, a := range answers {
		errs = append(errs, a.err)
		if a.gone {
			gone = append(gone, r.Images[i].Name)
		}
		if a.newer != "" {
			newer = append(newer, a.newer)
		}
	}
	return newer, gone, errors.Join(errs...)
}

// noPackages reports whether opt moves nothing but images, charts and an
// engine's files.
func (o Options) noPackages() bool {
	return !slices.ContainsFunc(o.Update, func(u string) bool {
		return u != "images" && u != "charts" && u != "k3s" && !strings.Contains(u, "/")
	})
}
