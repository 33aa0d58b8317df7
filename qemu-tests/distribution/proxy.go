package distribution

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is what goes wrong with an answer.
type Fault struct {
	Status     int           // an answer of this status in its place
	RetryAfter string        // with that
	After      int64         // bytes of the body that pass before the rest of the fault
	Reset      bool          // the connection breaks
	Truncate   bool          // the body ends, as if it were whole
	Flip       bool          // one bit of the next byte is another
	Pause      time.Duration // before each 64 KiB that follow
}

// Proxy stands in front of a registry, with its certificate.
type Proxy struct {
	Addr string

	mu       sync.Mutex
	fault    func(*http.Request) *Fault
	bytes    int64
	requests []string
	ranges   int
	stopped  int
	active   sync.WaitGroup

	server *http.Server
	to     *Registry
	rt     *http.Transport
}

// Proxy starts one.
func (r *Registry) Proxy() (*Proxy, error) {
	rt, err := r.transport()
	if err != nil {
		return nil, err
	}
	rt.DisableCompression = true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{Addr: l.Addr().String(), to: r, rt: rt}
	p.server = &http.Server{Handler: p}
	go func() { _ = p.server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{r.cert}})) }()
	return p, nil
}

// Close ends it.
func (p *Proxy) Close() error { return p.server.Close() }

// Break sets what goes wrong: f is asked at each request, and gives nil where
// all goes well. It is called by one goroutine at a time.
func (p *Proxy) Break(f func(*http.Request) *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Seen is what was asked for since it was last asked: the requests, how many
// of them began in the middle of a file, and the bytes of all bodies. It waits
// for answers that are under way.
func (p *Proxy) Seen() (requests []string, ranges int, bytes int64) {
	p.active.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	requests, ranges, bytes = p.requests, p.ranges, p.bytes
	p.requests, p.ranges, p.bytes = nil, 0, 0
	return
}

// Stopped is how many answers have come to the place where their fault begins.
func (p *Proxy) Stopped() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// Blob reports whether a request is for a blob.
func Blob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.active.Add(1)
	defer p.active.Done()
	p.mu.Lock()
	var f Fault
	if p.fault != nil {
		if g := p.fault(r); g != nil {
			f = *g
		}
	}
	p.requests = append(p.requests, r.Method+" "+r.URL.Path)
	if r.Header.Get("Range") != "" {
		p.ranges++
	}
	p.mu.Unlock()
	if f.Status != 0 {
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		http.Error(w, "a fault", f.Status)
		return
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "https", p.to.Addr, ""
	resp, err := p.rt.RoundTrip(out)
	if err != nil {
		http.Error(w, "no registry", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	if f.Truncate {
		if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n > f.After {
			w.Header().Set("Content-Length", strconv.FormatInt(f.After, 10))
		}
	}
	w.WriteHeader(resp.StatusCode)
	n, broken := p.pass(r.Context(), w, resp.Body, f)
	p.mu.Lock()
	p.bytes += n
	p.mu.Unlock()
	if broken {
		panic(http.ErrAbortHandler)
	}
}

// pass copies the body as far and as well as the fault lets it. It reports
// whether the connection is to break.
func (p *Proxy) pass(ctx context.Context, w http.ResponseWriter, body io.Reader, f Fault) (n int64, broken bool) {
	if f == (Fault{}) {
		n, _ = io.Copy(w, body) // whoever hangs up knows it
		return n, false
	}
	n, err := io.CopyN(w, body, f.After)
	if err != nil || f.Truncate {
		return n, false
	}
	_ = http.NewResponseController(w).Flush()
	if f.Reset {
		return n, true
	}
	p.mu.Lock()
	p.stopped++
	p.mu.Unlock()
	buf := make([]byte, 64<<10)
	for {
		k, err := body.Read(buf)
		if f.Flip && k > 0 {
			buf[0] ^= 1
			f.Flip = false
		}
		select {
		case <-time.After(f.Pause):
		case <-ctx.Done():
		}
		if _, werr := w.Write(buf[:k]); werr != nil || err != nil {
			return n + int64(k), false
		}
		n += int64(k)
	}
}
