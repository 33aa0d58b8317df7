package install

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

// ImportOptions says where blobs are and where they go.
type ImportOptions struct {
	Have     []string            // layouts on the node that are read beside Into, such as the seed store
	Into     string              // the layout that grows
	Keep     []*bundles.Verified // releases that Into's index.json goes on naming: the running, the confirmed
	SkipRoot bool                // root.erofs and root.verity are not needed: the root runs already
	Progress bundles.Progress    // bytes of blobs read or found; may be nil
}

// Import brings the blobs of a release that no layout has into one of them,
// and then names the release in its index.json. root.erofs and root.verity are
// among them, compressed, so that a slot can be written again.
//
// Every blob is read and its digest checked, those too that are there already:
// one that rotted is brought again. Each is synced before it gets its name, so
// that an import that was cut off goes on where it was.
func Import(ctx context.Context, from *bundles.Verified, o ImportOptions) error {
	if err := importAll(ctx, from, o); err != nil {
		return fmt.Errorf("cannot import release %d: %w", from.Facts().Release, err)
	}
	return nil
}

func importAll(ctx context.Context, from *bundles.Verified, o ImportOptions) error {
	blobs, total, err := wanted(from, o.SkipRoot)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.Into, "blobs", "sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	dirs := append([]string{o.Into}, o.Have...)
	var done int64
	count := func(n int) {
		if done += int64(n); o.Progress != nil {
			o.Progress(done, total)
		}
	}
	var missing []error
	for _, c := range blobs {
		there, err := present(ctx, dirs, c)
		if err != nil {
			return err
		}
		if there {
			count(int(c.Size))
			continue
		}
		before := done
		err = fetch(ctx, from, c, dir, count)
		if errors.Is(err, store.ErrMissing) {
			done = before
			missing = append(missing, err) // all of them are told
			continue
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(missing...); err != nil {
		return fmt.Errorf("%w\nhint: the bundle is a difference from a release that this node does not have whole; carry the whole bundle", err)
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return bundles.WriteIndex(o.Into, append(named(o.Keep, from), from)...)
}

// wanted lists the blobs of a release and their size.
func wanted(v *bundles.Verified, skipRoot bool) (out []store.Content, total int64, err error) {
	all, err := v.Blobs()
	if err != nil {
		return nil, 0, err
	}
	skip := map[store.Digest]bool{}
	if skipRoot {
		for _, title := range []string{bundles.RootErofs, bundles.RootVerity} {
			if f, ok := v.File(bundles.PartOS, title); ok {
				skip[f.Content.Digest] = true
			}
		}
	}
	for _, b := range all {
		if !skip[b.Digest] {
			out = append(out, b.Content)
			total += b.Size
		}
	}
	return out, total, nil
}

// named is keep, each once and without v.
func named(keep []*bundles.Verified, v *bundles.Verified) []*bundles.Verified {
	seen := map[store.Digest]bool{v.Index().Digest: true}
	var out []*bundles.Verified
	for _, k := range keep {
		if !seen[k.Index().Digest] {
			seen[k.Index().Digest] = true
			out = append(out, k)
		}
	}
	return out
}

func blobPath(dir string, d store.Digest) string {
	return filepath.Join(dir, "blobs", "sha256", d.Hex())
}

// Missing lists the blobs of a release that no layout in dirs has, by name and
// size only.
func Missing(v *bundles.Verified, dirs []string, skipRoot bool) ([]store.Content, error) {
	blobs, _, err := wanted(v, skipRoot)
	if err != nil {
		return nil, err
	}
	var out []store.Content
next:
	for _, c := range blobs {
		for _, d := range dirs {
			if fi, err := os.Lstat(blobPath(d, c.Digest)); err == nil && fi.Mode().IsRegular() && fi.Size() == c.Size {
				continue next
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// present reports whether one of the layouts has a good copy. A bad one is not
// an error.
func present(ctx context.Context, dirs []string, c store.Content) (bool, error) {
	for _, d := range dirs {
		p := blobPath(d, c.Digest)
		if fi, err := os.Lstat(p); err != nil || !fi.Mode().IsRegular() || fi.Size() != c.Size {
			continue
		}
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		h := sha256.New()
		_, err = io.Copy(h, &cancellable{ctx, f, nil})
		f.Close()
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err == nil && store.SHA256(h.Sum(nil)) == c.Digest {
			return true, nil
		}
	}
	return false, nil
}

// fetch writes one blob of the release into dir.
func fetch(ctx context.Context, from *bundles.Verified, c store.Content, dir string, count func(int)) error {
	r, err := from.OpenBlob(c) // its end is an error if the bytes are not c's
	if err != nil {
		return err
	}
	defer r.Close()
	// Not a name at random: what a cut leaves behind, the repetition takes away.
	tmp := filepath.Join(dir, "."+c.Digest.Hex()+".part")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, &cancellable{ctx, r, count}, make([]byte, 1<<20))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, filepath.Join(dir, c.Digest.Hex()))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// cancellable is a reader that ends with its context.
type cancellable struct {
	ctx   context.Context
	r     io.Reader
	count func(int)
}

func (c *cancellable) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(b)
	if c.count != nil {
		c.count(n)
	}
	return n, err
}
