// Package serve offers the images of verified releases over the read half of
// the OCI distribution API, out of OCI image layouts on disk. It dials nowhere.
//
// Served are the blobs reachable from a release that verifies, and the tags
// that such a release names; all else is not found. What is sent is hashed on
// its way out: a manifest before its first byte leaves, a blob before its last.
package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"

	"holdfast.dev/holdfast/airgap/store"
)

// Roots gives the release indexes in the layouts that verify, those whose tags
// win first. With an error it may still give some; the error is logged.
type Roots func(layouts []string) ([]store.Content, error)

// Options says what to serve.
type Options struct {
	Layouts []string // directories; one that is not there (yet) counts as empty
	Roots   Roots
	Log     *slog.Logger // nil is silent
}

// Handler serves the union of the layouts. It reads them again when the
// index.json of one of them changes.
func Handler(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &registry{opts: o, bad: map[string]stamp{}}
}

// stamp tells one version of a file from another.
type stamp struct {
	size, mtime int64
	there       bool
}

func stampOf(name string) stamp {
	fi, err := os.Stat(name)
	if err != nil {
		return stamp{}
	}
	return stamp{fi.Size(), fi.ModTime().UnixNano(), true}
}

type registry struct {
	opts Options

	mu     sync.Mutex
	cat    *catalog
	stamps []stamp
	bad    map[string]stamp // files found to hold other bytes than their name says
}

// catalog returns what is served now.
func (r *registry) catalog() *catalog {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make([]stamp, len(r.opts.Layouts))
	changed := r.cat == nil
	for i, dir := range r.opts.Layouts {
		now[i] = stampOf(path.Join(dir, "index.json"))
		changed = changed || now[i] != r.stamps[i]
	}
	if changed {
		r.cat, r.stamps = r.read(), now
	}
	return r.cat
}

var (
	manifestPath = regexp.MustCompile(`^/v2/([a-z0-9._/-]+)/manifests/([A-Za-z0-9_][A-Za-z0-9._:-]{0,127})$`)
	blobPath     = regexp.MustCompile(`^/v2/([a-z0-9._/-]+)/blobs/([a-z0-9:]+)$`)
)

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		refuse(w, "UNSUPPORTED", q.Method+" is not offered: this registry is read-only")
		return
	}
	if q.URL.Path == "/v2/" || q.URL.Path == "/v2" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, "{}")
		return
	}
	if m := manifestPath.FindStringSubmatch(q.URL.Path); m != nil {
		r.manifest(w, q, m[1], m[2])
		return
	}
	if m := blobPath.FindStringSubmatch(q.URL.Path); m != nil {
		r.blob(w, q, m[2])
		return
	}
	refuse(w, "NAME_UNKNOWN", "no such path")
}

func (r *registry) manifest(w http.ResponseWriter, q *http.Request, name, ref string) {
	cat := r.catalog()
	d, err := store.ParseDigest(ref)
	if err != nil {
		var ok bool
		if d, ok = cat.tag(q.URL.Query().Get("ns"), name, ref); !ok {
			refuse(w, "MANIFEST_UNKNOWN", "no release here names "+name+":"+ref)
			return
		}
	}
	b, ok := cat.blobs[d]
	if !ok || !isManifest(b.mediaType) {
		refuse(w, "MANIFEST_UNKNOWN", "no release here holds "+string(d))
		return
	}
	data, err := r.readAll(store.Content{Digest: d, Size: b.size})
	if err != nil {
		r.opts.Log.Error("manifest not served", "name", name, "digest", d, "error", err)
		refuse(w, "MANIFEST_UNKNOWN", "not readable: "+string(d))
		return
	}
	h := w.Header()
	h.Set("Content-Type", b.mediaType)
	h.Set("Docker-Content-Digest", string(d))
	h.Set("ETag", `"`+string(d)+`"`)
	h.Set("Content-Length", fmt.Sprint(len(data)))
	if q.Method == http.MethodGet {
		_, _ = w.Write(data) // a client that left needs no answer
	}
}

// readAll reads a manifest from the first layout that has its right bytes.
func (r *registry) readAll(c store.Content) ([]byte, error) {
	if c.Size > maxManifest {
		return nil, fmt.Errorf("cannot read %s: %d bytes, more than the %d allowed", c.Digest, c.Size, maxManifest)
	}
	var errs []error
	for _, dir := range r.opts.Layouts {
		b, err := readBlob(dir, c)
		if err == nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// markBad keeps a damaged file from being tried again until it changes.
func (r *registry) markBad(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad[name] = stampOf(name)
}

func (r *registry) isBad(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.bad[name]
	return ok && s == stampOf(name)
}

// refuse answers 404 in the form of the distribution specification.
func refuse(w http.ResponseWriter, code, message string) {
	type fault struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_ = json.NewEncoder(w).Encode(map[string][]fault{"errors": {{code, message}}})
}

func isManifest(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.manifest.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.") ||
		isIndex(mediaType)
}

func isIndex(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.index.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.list.")
}
