package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
)

// login is a RoundTripper that logs in to a registry before its first request.
// Requests that come meanwhile wait for the one login.
type login struct {
	repo     name.Repository
	keychain authn.Keychain
	host     *host
	wire     http.RoundTripper
	plain    bool // without encryption, if the registry has none

	once singleflight.Group
	mu   sync.Mutex
	in   http.RoundTripper // once logged in
}

func (l *login) RoundTrip(r *http.Request) (*http.Response, error) {
	in, err := l.ready(r.Context())
	if err != nil {
		return nil, err
	}
	resp, err := in.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if c := resp.StatusCode; (c == http.StatusUnauthorized || c == http.StatusForbidden) && r.URL.Host == l.repo.RegistryStr() {
		resp.Body.Close()
		return nil, l.refused(resp.Status)
	}
	return resp, nil
}

func (l *login) refused(status string) error {
	return &fetch.Permanent{Err: fmt.Errorf("%s does not let us read %s: %s\nhint: log in with \"docker login %s\"; credentials come from Docker's configuration",
		l.repo.RegistryStr(), l.repo.RepositoryStr(), status, l.repo.RegistryStr())}
}

func (l *login) ready(ctx context.Context) (http.RoundTripper, error) {
	l.mu.Lock()
	in := l.in
	l.mu.Unlock()
	if in != nil {
		return in, nil
	}
	_, err, _ := l.once.Do("", func() (any, error) { return nil, l.logIn(ctx) })
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.in, nil
}

func (l *login) logIn(ctx context.Context) error {
	if err := l.host.given(); err != nil {
		return err
	}
	auth := authn.Anonymous
	if l.keychain != nil {
		var err error
		if auth, err = authn.Resolve(ctx, l.keychain, l.repo); err != nil {
			return &fetch.Permanent{Err: fmt.Errorf("no credentials for %s: %w\nhint: Docker's configuration names a credential helper that failed", l.repo.RegistryStr(), err)}
		}
	}
	g := &guard{wire: l.wire, plain: l.plain, asked: make(chan struct{})}
	in, err := transport.NewWithContext(ctx, l.repo.Registry, auth, g, []string{l.repo.Scope(transport.PullScope)})
	if e := g.refusal(); err != nil && e != nil {
		err = e
	}
	// What a server says in an error may be anything, and long: the status is
	// enough.
	if e := (*transport.Error)(nil); errors.As(err, &e) {
		status := fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode))
		switch {
		case e.StatusCode == http.StatusUnauthorized || e.StatusCode == http.StatusForbidden:
			return l.refused(status)
		case e.StatusCode >= 500 || e.StatusCode == http.StatusTooManyRequests || e.StatusCode == http.StatusRequestTimeout:
			return fmt.Errorf("the server answered %s to the login", status)
		}
		return &fetch.Permanent{Err: fmt.Errorf("the server answered %s to the login\nhint: is it a registry?", status)}
	}
	if c := context.Cause(ctx); err != nil && c != nil {
		err = c // no answer for too long, or the user's
	}
	l.host.told(err)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in = in
	return nil
}

// host remembers whether a host could be reached at all, so that a site with
// many images at one that is down fails soon. What fails at the same time,
// within pause, counts once.
type host struct {
	name  string
	pause time.Duration

	mu     sync.Mutex
	failed int
	last   time.Time
	why    error
}

const patience = 3

func (h *host) told(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.failed = 0
	case errors.Is(err, context.Canceled), h.failed > 0 && time.Since(h.last) < h.pause:
	default:
		h.failed, h.last, h.why = h.failed+1, time.Now(), err
	}
}

func (h *host) given() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed < patience {
		return nil
	}
	return &fetch.Permanent{Err: fmt.Errorf("%s could not be reached before: %w", h.name, h.why)}
}

// guard keeps what is said to a registry from the open wire, and bounds what
// an answer other than a blob may hold.
//
// The library tries plain http too at some addresses, such as private ones.
// Where that is not allowed the attempt fails with what https came to.
type guard struct {
	wire  http.RoundTripper
	plain bool

	asked chan struct{} // closed when https was tried
	once  sync.Once
	err   error // what it came to
}

const (
	maxAnswer = 8 << 20
	ping      = "/v2/"
)

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.plain {
		if r.URL.Path != ping {
			return nil, &fetch.Permanent{Err: fmt.Errorf("plain http to %s is refused", r.URL.Host)}
		}
		select {
		case <-g.asked:
		case <-r.Context().Done():
		}
		return nil, errors.New("plain http is refused")
	}
	resp, err := g.wire.RoundTrip(r)
	if r.URL.Scheme == "https" && r.URL.Path == ping {
		g.once.Do(func() {
			if head := (tls.RecordHeaderError{}); errors.As(err, &head) && string(head.RecordHeader[:]) == "HTTP/" {
				err = &fetch.Permanent{Err: fmt.Errorf("%s speaks plain http\nhint: to ask it without encryption, name the endpoint http://%s under mirrors.registries in site.yaml", r.URL.Host, r.URL.Host)}
			}
			g.err = err
			close(g.asked)
		})
	}
	if err != nil {
		return nil, err
	}
	ok := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent
	if r.URL.Path == ping || !ok {
		resp.Body = bounded{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, nil
}

// refusal is why https did not work, where nothing else is allowed.
func (g *guard) refusal() error {
	select {
	case <-g.asked:
		if !g.plain {
			return g.err
		}
	default:
	}
	return nil
}

type bounded struct {
	io.Reader
	io.Closer
}
