package registry

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/holdfast/airgap/serve"
	"holdfast.dev/holdfast/airgap/store"
)

// Limits on what is asked for.
const (
	MaxChunk   = 64 << 20 // bytes of one PUT
	MaxBlobs   = 20_000   // blobs of one question
	maxBlob    = 1 << 36
	maxBody    = 4 << 20
	waitHeader = 2 * time.Minute // a blob is hashed before its end is sent
)

// Blob is a blob of an image; Have are the bytes of it that are there.
type Blob struct {
	Digest store.Digest `json:"digest"`
	Size   int64        `json:"size"`
	Have   int64        `json:"have,omitempty"`
}

// Missing is the answer to POST /store/missing.
type Missing struct {
	Blobs []Blob `json:"blobs"`
	Free  int64  `json:"free"` // bytes of the store's disk
}

// Root is what PUT /store/roots/SITE takes: the index of a release's images.
// With Keep, those of the site's other releases stay.
type Root struct {
	Digest store.Digest `json:"digest"`
	Size   int64        `json:"size"`
	Keep   bool         `json:"keep,omitempty"`
}

// Progress is the answer to a PUT of a blob.
type Progress struct {
	Have int64 `json:"have"`
}

type fault struct {
	Error string `json:"error"`
}

var siteName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Handler answers for the store at dir, which it makes.
func Handler(dir string, t Tokens, log *slog.Logger) (http.Handler, error) {
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	h := &handler{s, t, log}
	images := serve.Handler(serve.Options{Layouts: []string{dir}, Roots: s.served, Log: log})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, struct{}{}) })
	mux.Handle("/v2/", h.who(images, t.Read, t.Write))
	mux.Handle("POST /store/missing", h.who(http.HandlerFunc(h.missing), t.Write))
	mux.Handle("PUT /store/blobs/{digest}", h.who(http.HandlerFunc(h.put), t.Write))
	mux.Handle("PUT /store/roots/{site}", h.who(http.HandlerFunc(h.root), t.Write))
	return mux, nil
}

type handler struct {
	store  *layout
	tokens Tokens
	log    *slog.Logger
}

// who lets those in who show one of the tokens.
func (h *handler) who(next http.Handler, tokens ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		shown := []byte(q.Header.Get(TokenHeader))
		for _, t := range tokens {
			if t != "" && subtle.ConstantTimeCompare(shown, []byte(t)) == 1 {
				next.ServeHTTP(w, q)
				return
			}
		}
		answer(w, http.StatusForbidden, fault{"the token is missing or wrong"})
	})
}

func (h *handler) missing(w http.ResponseWriter, q *http.Request) {
	var want []Blob
	if !decode(w, q, &want) {
		return
	}
	if len(want) > MaxBlobs {
		answer(w, http.StatusBadRequest, fault{fmt.Sprintf("%d blobs, more than the %d allowed", len(want), MaxBlobs)})
		return
	}
	out := Missing{Blobs: []Blob{}}
	for _, b := range want {
		if err := b.check(); err != nil {
			answer(w, http.StatusBadRequest, fault{err.Error()})
			return
		}
		if h.store.has(b) {
			continue
		}
		b.Have = h.store.partial(b)
		out.Blobs = append(out.Blobs, b)
	}
	var err error
	if out.Free, err = h.store.free(); err != nil {
		h.failed(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}

func (b Blob) check() error {
	if _, err := store.ParseDigest(string(b.Digest)); err != nil {
		return err
	}
	if b.Size < 0 || b.Size > maxBlob {
		return fmt.Errorf("%s has %d bytes, more than the %d allowed", b.Digest, b.Size, int64(maxBlob))
	}
	return nil
}

func (h *handler) put(w http.ResponseWriter, q *http.Request) {
	size, err1 := strconv.ParseInt(q.URL.Query().Get("size"), 10, 64)
	from, err2 := strconv.ParseInt(q.URL.Query().Get("from"), 10, 64)
	b := Blob{Digest: store.Digest(q.PathValue("digest")), Size: size}
	if err := errors.Join(err1, err2, b.check()); err != nil || from < 0 || from > size {
		answer(w, http.StatusBadRequest, fault{fmt.Sprintf("cannot take %s from %d: %v", b.Digest, from, err)})
		return
	}
	if q.ContentLength > MaxChunk {
		answer(w, http.StatusRequestEntityTooLarge, fault{fmt.Sprintf("%d bytes at once, more than the %d allowed", q.ContentLength, MaxChunk)})
		return
	}
	have, err := h.store.put(b, from, http.MaxBytesReader(w, q.Body, MaxChunk))
	if err != nil {
		h.failed(w, err)
		return
	}
	answer(w, http.StatusOK, Progress{have})
}

func (h *handler) root(w http.ResponseWriter, q *http.Request) {
	var r Root
	if !decode(w, q, &r) {
		return
	}
	site := q.PathValue("site")
	if err := (Blob{Digest: r.Digest, Size: r.Size}).check(); err != nil || !siteName.MatchString(site) {
		answer(w, http.StatusBadRequest, fault{fmt.Sprintf("cannot take a release of site %q: %v", site, err)})
		return
	}
	removed, err := h.store.root(site, r)
	if err != nil {
		h.failed(w, err)
		return
	}
	h.log.Info("release", "site", site, "index", r.Digest, "removed", removed)
	answer(w, http.StatusOK, struct {
		Removed int `json:"removed"`
	}{removed})
}

// failed answers an error of the store's.
func (h *handler) failed(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, store.ErrMismatch):
		code = http.StatusUnprocessableEntity
	case errors.Is(err, errElsewhere), errors.Is(err, errIncomplete):
		code = http.StatusConflict
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = http.StatusInsufficientStorage
	}
	h.log.Error("refused", "error", err)
	answer(w, code, fault{err.Error()})
}

func decode(w http.ResponseWriter, q *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, q.Body, maxBody))
	err := d.Decode(v)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows the JSON value")
		}
	}
	if err != nil {
		answer(w, http.StatusBadRequest, fault{"cannot read the request: " + err.Error()})
	}
	return err == nil
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
}

// Ref is how containerd asks this registry, at 127.0.0.1 and port, for an image.
// The name of its own registry becomes the first part of the path.
func Ref(port int, name string, d store.Digest) string {
	host, rest, ok := strings.Cut(name, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		host, rest = "docker.io", name
	}
	return fmt.Sprintf("127.0.0.1:%d/%s/%s@%s", port, strings.ToLower(strings.ReplaceAll(host, ":", "-")), rest, d)
}
