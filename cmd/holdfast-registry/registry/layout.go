package registry

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast.dev/holdfast/airgap/store"
)

// The layout is an OCI image layout: blobs/sha256, index.json with the releases
// that count, newest first, and beside them partial/ with what is under way.
type layout struct {
	dir string

	mu   sync.Mutex
	busy map[store.Digest]bool // being written
}

// Errors of a client that begins elsewhere than where the blob ends so far, and
// of a release that is not whole.
var (
	errElsewhere  = errors.New("it does not go on there")
	errIncomplete = errors.New("it is not whole")
)

const (
	mediaIndex = "application/vnd.oci.image.index.v1+json"
	annSite    = "dev.holdfast.site"

	// What nothing reaches stays that long: another run may be filling it.
	staleBlob    = time.Hour
	stalePartial = 24 * time.Hour
)

func open(dir string) (*layout, error) {
	l := &layout{dir: dir, busy: map[store.Digest]bool{}}
	for _, d := range []string{"blobs/sha256", "partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the store: %w", err)
		}
	}
	if err := write(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return nil, fmt.Errorf("cannot make the store: %w", err)
	}
	return l, nil
}

func (l *layout) blob(d store.Digest) string {
	return filepath.Join(l.dir, "blobs", "sha256", d.Hex())
}
func (l *layout) part(d store.Digest) string { return filepath.Join(l.dir, "partial", d.Hex()) }

// has reports whether b is there, and keeps it from being swept.
func (l *layout) has(b Blob) bool {
	fi, err := os.Stat(l.blob(b.Digest))
	if err != nil || fi.Size() != b.Size {
		return false
	}
	now := time.Now()
	return os.Chtimes(l.blob(b.Digest), now, now) == nil
}

func (l *layout) partial(b Blob) int64 {
	fi, err := os.Stat(l.part(b.Digest))
	if err != nil || fi.Size() > b.Size {
		return 0
	}
	return fi.Size()
}

func (l *layout) free() (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(l.dir, &s); err != nil {
		return 0, fmt.Errorf("cannot ask for free space: %w", err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// put writes the bytes of b from a place on, where those before must be there,
// and returns how many there are then. The last ones make it whole: with other
// bytes than its digest's it is gone, and the error wraps store.ErrMismatch.
func (l *layout) put(b Blob, from int64, body io.Reader) (have int64, err error) {
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("cannot take %s: %w", b.Digest, err) }
	l.mu.Lock()
	if l.busy[b.Digest] {
		l.mu.Unlock()
		return fail(fmt.Errorf("%w: somebody else writes it", errElsewhere))
	}
	l.busy[b.Digest] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.busy, b.Digest)
		l.mu.Unlock()
	}()
	if l.has(b) {
		return b.Size, nil
	}
	if have := l.partial(b); have != from && from != 0 {
		return fail(fmt.Errorf("%w: %d bytes are there, not %d", errElsewhere, have, from))
	}
	f, err := os.OpenFile(l.part(b.Digest), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if err := f.Truncate(from); err != nil {
		return fail(err)
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return fail(err)
	}
	// One byte more than belongs there shows that it is another blob.
	n, err := io.Copy(f, io.LimitReader(body, b.Size-from+1))
	have = from + n
	switch {
	case have > b.Size:
		return fail(errors.Join(fmt.Errorf("%w: more than its %d bytes", store.ErrMismatch, b.Size), os.Remove(f.Name())))
	case err != nil:
		return fail(err) // what came stays
	case have < b.Size:
		return have, nil
	}
	if err := l.finish(f, b); err != nil {
		return fail(err)
	}
	return have, nil
}

// finish makes a partial file a blob.
func (l *layout) finish(f *os.File, b Blob) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := store.SHA256(h.Sum(nil)); got != b.Digest {
		return errors.Join(fmt.Errorf("%w: its bytes are %s", store.ErrMismatch, got), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), l.blob(b.Digest)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(l.blob(b.Digest)))
}

// descriptor is what manifests name others by.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      store.Digest      `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

func (l *layout) roots() ([]descriptor, error) {
	b, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ix index
	if err == nil {
		err = json.Unmarshal(b, &ix)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the store's releases: %w", err)
	}
	return ix.Manifests, nil
}

// served are the releases for package serve.
func (l *layout) served([]string) ([]store.Content, error) {
	roots, err := l.roots()
	var out []store.Content
	for _, r := range roots {
		out = append(out, store.Content{Digest: r.Digest, Size: r.Size})
	}
	return out, err
}

// root has a release of site count, which must be whole, in place of the site's
// others unless they are to be kept; and removes what no release needs then.
func (l *layout) root(site string, r Root) (removed int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fail := func(err error) (int, error) {
		return 0, fmt.Errorf("cannot take release %s of site %s: %w", r.Digest, site, err)
	}
	d := descriptor{mediaIndex, r.Digest, r.Size, map[string]string{annSite: site}}
	if lacks := l.walk(map[store.Digest]bool{}, d); len(lacks) > 0 {
		return fail(fmt.Errorf("%w: %d blobs are missing or damaged, such as %s", errIncomplete, len(lacks), lacks[0]))
	}
	old, err := l.roots()
	if err != nil {
		return fail(err)
	}
	all := []descriptor{d}
	for _, o := range old {
		if o.Digest != d.Digest && (r.Keep || o.Annotations[annSite] != site) || o.Digest == d.Digest && o.Annotations[annSite] != site {
			all = append(all, o)
		}
	}
	b, err := json.Marshal(index{2, mediaIndex, all})
	if err != nil {
		return fail(err)
	}
	if err := write(filepath.Join(l.dir, "index.json"), b); err != nil {
		return fail(err)
	}
	if r.Keep {
		return 0, nil
	}
	return l.sweep(all)
}

// walk adds what d reaches to found, and returns what of it is not there.
func (l *layout) walk(found map[store.Digest]bool, d descriptor) (lacks []store.Digest) {
	if found[d.Digest] {
		return nil
	}
	if len(found) > MaxBlobs || (Blob{Digest: d.Digest, Size: d.Size}).check() != nil {
		return []store.Digest{d.Digest}
	}
	found[d.Digest] = true
	fi, err := os.Stat(l.blob(d.Digest))
	if err != nil || fi.Size() != d.Size {
		return []store.Digest{d.Digest}
	}
	if !isManifest(d.MediaType) {
		return nil
	}
	var m struct {
		Manifests []descriptor `json:"manifests"`
		Layers    []descriptor `json:"layers"`
		Config    *descriptor  `json:"config"`
	}
	b, err := l.read(d)
	if err != nil || json.Unmarshal(b, &m) != nil {
		return []store.Digest{d.Digest}
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, k := range slices.Concat(m.Manifests, m.Layers) {
		lacks = append(lacks, l.walk(found, k)...)
	}
	return lacks
}

func isManifest(mediaType string) bool {
	return slices.ContainsFunc([]string{"application/vnd.oci.image.manifest.", "application/vnd.oci.image.index.", "application/vnd.docker.distribution.manifest."},
		func(p string) bool { return strings.HasPrefix(mediaType, p) })
}

// read reads a manifest whole.
func (l *layout) read(d descriptor) ([]byte, error) {
	if d.Size > maxBody {
		return nil, fmt.Errorf("a manifest of %d bytes, more than the %d allowed", d.Size, maxBody)
	}
	b, err := os.ReadFile(l.blob(d.Digest))
	if err == nil && store.FromBytes(b) != d.Digest {
		err = store.ErrMismatch
	}
	return b, err
}

// sweep removes what no root reaches. Were one not readable to its end, nothing
// could be told from its blobs: then nothing is removed.
func (l *layout) sweep(roots []descriptor) (removed int, err error) {
	found := map[store.Digest]bool{}
	for _, r := range roots {
		if len(l.walk(found, r)) > 0 {
			return 0, nil
		}
	}
	keep := map[string]bool{}
	for d := range found {
		keep[d.Hex()] = true
	}
	for _, s := range []struct {
		dir   string
		stale time.Duration
	}{{"blobs/sha256", staleBlob}, {"partial", stalePartial}} {
		es, err := os.ReadDir(filepath.Join(l.dir, s.dir))
		if err != nil {
			return removed, err
		}
		for _, e := range es {
			fi, err := e.Info()
			if err != nil || keep[e.Name()] || time.Since(fi.ModTime()) < s.stale {
				continue
			}
			if err := os.Remove(filepath.Join(l.dir, s.dir, e.Name())); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}

// write replaces a small file whole.
func write(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
