package http_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

var body = strings.Repeat("0123456789", 30000)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func items(url string) []fetch.Item {
	return []fetch.Item{{Name: "a", Content: store.Content{Digest: store.FromBytes([]byte(body)), Size: int64(len(body))}, Sources: []fetch.Source{{URL: url}}}}
}

// Two who want the same bytes at once do not write over each other, and they
// come over the wire once.
func TestTwoAtOnce(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		time.Sleep(50 * time.Millisecond)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	s := newStore(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := (&fetch.Client{}).Fetch(context.Background(), s, items(srv.URL), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.Rehash = true
	if err := s.Check(items("")[0].Content); err != nil || asked.Load() != 1 {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir(), "partial", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A server that breaks every transfer is asked again as long as it gets
// further, but not without end.
func TestTries(t *testing.T) {
	for name, c := range map[string]struct {
		step  int64 // bytes that each answer brings
		asked int
		fails bool
	}{"gets there": {50_000, 6, false}, "gets nowhere": {0, 3, true}, "crawls": {10, 20, true}} {
		n := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			http.ServeContent(&cut{w, c.step}, r, "", time.Time{}, strings.NewReader(body))
		}))
		err := (&fetch.Client{Backoff: time.Microsecond}).Fetch(context.Background(), newStore(t), items(srv.URL), nil)
		if (err != nil) != c.fails || n != c.asked {
			t.Errorf("%s: asked %d times, want %d: %v", name, n, c.asked, err)
		}
		srv.Close()
	}
}

// cut ends a body early.
type cut struct {
	http.ResponseWriter
	left int64
}

func (c *cut) Write(b []byte) (int, error) {
	if int64(len(b)) > c.left {
		n, _ := c.ResponseWriter.Write(b[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		c.left = 0
		return n, errors.New("cut")
	}
	c.left -= int64(len(b))
	return c.ResponseWriter.Write(b)
}

// A pause that a server asks for is kept, told if it is long, and refused if it
// is too long.
func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]string{"1": "", "600": "left alone for 10m0s", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat): "left alone for"} {
		n := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 1 {
				w.Header().Set("Retry-After", value)
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			_, _ = io.WriteString(w, body)
		}))
		start := time.Now()
		err := (&fetch.Client{Backoff: time.Microsecond}).Fetch(context.Background(), newStore(t), items(srv.URL), nil)
		if want == "" && (err != nil || time.Since(start) < time.Second) || want != "" && (err == nil || !strings.Contains(err.Error(), want) || n != 1) {
			t.Errorf("%s: asked %d times, %v", value, n, err)
		}
		srv.Close()
	}
}

// Where a redirect leads to may be a credential, and is in no error.
func TestNoRedirectInErrors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/blob?signature=secret", http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	err := (&fetch.Client{Backoff: time.Microsecond}).Fetch(context.Background(), newStore(t), items(srv.URL), nil)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}
