package serve

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// blob sends a blob, or one range of it.
func (r *registry) blob(w http.ResponseWriter, q *http.Request, ref string) {
	d, err := store.ParseDigest(ref)
	if err != nil {
		refuse(w, "DIGEST_INVALID", err.Error())
		return
	}
	b, ok := r.catalog().blobs[d]
	if !ok {
		refuse(w, "BLOB_UNKNOWN", "no release here holds "+ref)
		return
	}
	f, err := r.openBlob(store.Content{Digest: d, Size: b.size})
	if err != nil {
		r.opts.Log.Error("blob not served", "digest", d, "error", err)
		refuse(w, "BLOB_UNKNOWN", "not readable: "+ref)
		return
	}
	defer f.Close()
	start, end, status := byteRange(q, string(d), b.size)
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", ref)
	h.Set("ETag", `"`+ref+`"`)
	h.Set("Accept-Ranges", "bytes")
	switch status {
	case http.StatusRequestedRangeNotSatisfiable:
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", b.size))
		w.WriteHeader(status)
		return
	case http.StatusPartialContent:
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, b.size))
	}
	h.Set("Content-Length", strconv.FormatInt(end-start, 10))
	w.WriteHeader(status)
	if q.Method == http.MethodHead {
		return
	}
	err = sendChecked(w, f, d, b.size, start, end)
	if errors.Is(err, store.ErrMismatch) {
		r.markBad(f.Name())
		r.opts.Log.Error("blob is damaged, transfer aborted", "file", f.Name(), "error", err)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
}

// openBlob opens c in the first layout that has a file of its size, not known
// to be damaged.
func (r *registry) openBlob(c store.Content) (*os.File, error) {
	var errs []error
	for _, dir := range r.opts.Layouts {
		name := blobFile(dir, c.Digest)
		if r.isBad(name) {
			errs = append(errs, fmt.Errorf("cannot use %s: %w", name, store.ErrMismatch))
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if fi, err := f.Stat(); err != nil || fi.Size() != c.Size {
			f.Close()
			errs = append(errs, fmt.Errorf("cannot use %s: %w: not of %d bytes", name, store.ErrMismatch, c.Size))
			continue
		}
		return f, nil
	}
	return nil, errors.Join(errs...)
}

// sendChecked writes bytes start to end (exclusive) of f, whose size bytes
// must hash to d. The last byte is held back until all are read and found
// right; otherwise the error wraps ErrMismatch.
func sendChecked(w io.Writer, f io.Reader, d store.Digest, size, start, end int64) error {
	if size == 0 || start == end {
		return nil
	}
	h := sha256.New()
	in := io.TeeReader(bufio.NewReaderSize(f, 1<<18), h)
	if _, err := io.CopyN(io.Discard, in, start); err != nil {
		return err
	}
	if _, err := io.CopyN(w, in, end-start-1); err != nil {
		// A client may have left because the bytes made no sense: find out, or
		// it gets the same ones when it comes back.
		if _, rerr := io.Copy(io.Discard, in); rerr == nil && store.SHA256(h.Sum(nil)) != d {
			return fmt.Errorf("cannot send %s: %w", d, store.ErrMismatch)
		}
		return err
	}
	var last [1]byte
	if _, err := io.ReadFull(in, last[:]); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if got := store.SHA256(h.Sum(nil)); got != d {
		return fmt.Errorf("cannot send %s: %w: its bytes are %s", d, store.ErrMismatch, got)
	}
	_, err := w.Write(last[:])
	return err
}

// byteRange reads the Range header. A form that is not understood, several
// ranges, or an If-Range for something else mean the whole blob.
func byteRange(q *http.Request, etag string, size int64) (start, end int64, status int) {
	spec, ok := strings.CutPrefix(q.Header.Get("Range"), "bytes=")
	cond := q.Header.Get("If-Range")
	first, last, two := strings.Cut(spec, "-")
	if !ok || !two || strings.Contains(spec, ",") || cond != "" && cond != `"`+etag+`"` {
		return 0, size, http.StatusOK
	}
	a, errA := strconv.ParseInt(first, 10, 64)
	b, errB := strconv.ParseInt(last, 10, 64)
	switch {
	case first == "" && errB == nil && b > 0: // the last b bytes
		return max(0, size-b), size, partial(size)
	case errA != nil || a < 0 || last != "" && (errB != nil || b < a):
		return 0, size, http.StatusOK
	case a >= size:
		return 0, 0, http.StatusRequestedRangeNotSatisfiable
	case last == "":
		return a, size, http.StatusPartialContent
	}
	return a, min(b, size-1) + 1, http.StatusPartialContent
}

func partial(size int64) int {
	if size == 0 {
		return http.StatusRequestedRangeNotSatisfiable
	}
	return http.StatusPartialContent
}
