package debian_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/store"
)

var body = strings.Repeat("0123456789", 30000)

func item(name, body string) debian.Item {
	return debian.Item{Archive: debian.Main, Path: "pool/" + name + ".deb", Name: name + " 1.0",
		Content: store.Content{Digest: store.FromBytes([]byte(body)), Size: int64(len(body))}}
}

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func partials(t *testing.T, s *store.Store) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.Dir(), "partial", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func handler(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestFetch(t *testing.T) {
	s := open(t)
	var requests atomic.Int64
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.WriteString(w, map[string]string{"/debian/pool/a.deb": body, "/debian/pool/b.deb": "b", "/debian/pool/c.deb": ""}[r.URL.Path])
	})
	items := []debian.Item{item("a", body), item("b", "b"), item("b", "b"), item("c", "")}
	var done, total int64
	for range 2 {
		if err := debian.Fetch(context.Background(), client(nil, url), s, items, func(d, n int64, _ string) { done, total = d, n }); err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			if err := s.Check(it.Content); err != nil {
				t.Error(err)
			}
		}
	}
	if requests.Load() != 3 || done != total || total != int64(len(body))+1 || len(partials(t, s)) != 0 {
		t.Errorf("%d requests, %d of %d bytes, left %v", requests.Load(), done, total, partials(t, s))
	}
}

func TestFetchResumes(t *testing.T) {
	s := open(t)
	it := item("a", body)
	var ranges []string
	cut := true
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if cut {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body[:100000])
			return // the server closes the connection: cut short
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	})
	c := client(nil, url)
	ctx, cancel := context.WithCancel(context.Background())
	c.Backoff = time.Hour
	err := debian.Fetch(ctx, c, s, []debian.Item{it}, func(d, _ int64, _ string) {
		if d == 100000 {
			time.AfterFunc(50*time.Millisecond, cancel) // an operator's Ctrl-C while it waits
		}
	})
	if !errors.Is(err, context.Canceled) || len(partials(t, s)) != 1 {
		t.Fatalf("got %v, left %v", err, partials(t, s))
	}
	cut = false
	if err := debian.Fetch(context.Background(), c, s, []debian.Item{it}, nil); err != nil {
		t.Fatal(err)
	}
	if len(ranges) != 2 || ranges[1] != "bytes=100000-" {
		t.Errorf("asked for %q", ranges)
	}
}

func TestFetchResumesWithinACall(t *testing.T) {
	n := 0
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body[:5000])
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	})
	if err := debian.Fetch(context.Background(), client(nil, url), open(t), []debian.Item{item("a", body)}, nil); err != nil {
		t.Error(err)
	}
}

// A kept beginning that is wrong, too long, or that the mirror cannot continue
// is thrown away, and the file fetched afresh.
func TestBadPartial(t *testing.T) {
	ranges := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	}
	plain := func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, body) }
	for name, c := range map[string]struct {
		h       http.HandlerFunc
		partial string
	}{
		"wrong":          {ranges, "rubbish"},
		"too long":       {ranges, body + "x"},
		"whole, wrong":   {ranges, strings.Repeat("x", len(body))},
		"without ranges": {plain, body[:1000]},
	} {
		s := open(t)
		it := item("a", body)
		if err := os.MkdirAll(filepath.Join(s.Dir(), "partial"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir(), "partial", it.Content.Digest.Hex()), []byte(c.partial), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := debian.Fetch(context.Background(), client(nil, handler(t, c.h)), s, []debian.Item{it}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A mirror that always cuts and cannot continue must not be asked for ever.
func TestFetchGivesUp(t *testing.T) {
	n := 0
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.WriteString(w, body[:5000])
	})
	err := debian.Fetch(context.Background(), client(nil, url), open(t), []debian.Item{item("a", body)}, nil)
	if err == nil || n > 12 {
		t.Errorf("%d requests, then %v", n, err)
	}
}

func TestWrongBytes(t *testing.T) {
	wrong := handler(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "wrong"+body[5:]) })
	right := handler(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, body) })
	it := item("a", body)
	if err := debian.Fetch(context.Background(), client(nil, wrong, right), open(t), []debian.Item{it}, nil); err != nil {
		t.Errorf("the second mirror had it: %v", err)
	}
	s := open(t)
	n := 0
	twice := handler(t, func(w http.ResponseWriter, r *http.Request) { n++; _, _ = io.WriteString(w, body+"more") })
	err := debian.Fetch(context.Background(), client(nil, twice), s, []debian.Item{it}, nil)
	if !errors.Is(err, store.ErrMismatch) || n != 2 || len(partials(t, s)) != 0 {
		t.Errorf("%d requests, left %v, %v", n, partials(t, s), err)
	}
	if _, err := os.Stat(s.Path(it.Content.Digest)); !errors.Is(err, os.ErrNotExist) {
		t.Error("wrong bytes are in the store")
	}
}

func TestAllFaults(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/debian/pool/a.deb":
			_, _ = io.WriteString(w, body)
		case "/debian/pool/busy.deb":
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			http.NotFound(w, r)
		}
	})
	s := open(t)
	a := item("a", body)
	err := debian.Fetch(context.Background(), client(nil, dead.URL, url), s, []debian.Item{item("gone", "1"), a, item("busy", "2")}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"cannot fetch gone 1.0 from " + url + "/debian/pool/gone.deb: not there: 404",
		`hint: the mirror has moved on; run "holdfast lock --update gone"`,
		"busy.deb: the server answered 503 Service Unavailable (tried 3 times)",
		dead.URL + "/debian/pool/gone.deb", "connection refused",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	if err := s.Check(a.Content); err != nil {
		t.Errorf("what was fetched did not stay: %v", err)
	}
}

func TestStall(t *testing.T) {
	hang := make(chan struct{})
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, body[:100])
		w.(http.Flusher).Flush()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	c := client(nil, url)
	c.Stall = 30 * time.Millisecond
	err := debian.Fetch(context.Background(), c, open(t), []debian.Item{item("a", body)}, nil)
	if err == nil || !strings.Contains(err.Error(), "no byte for 30ms") {
		t.Errorf("got %v", err)
	}
}
