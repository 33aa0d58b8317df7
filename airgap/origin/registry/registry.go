// Package registry brings container images in: from registries that speak the
// OCI distribution API, and from archives on disk (OCI layouts and what
// "docker save" writes). A tag is resolved once, to digests; from then on bytes
// are asked for, and checked, by digest alone.
package registry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// Ref says which image is meant.
type Ref struct {
	Registry   string // host, and port if it has one
	Repository string
	Tag        string       // may be empty
	Digest     store.Digest // of its manifest or index; may be empty
}

// ParseRef reads registry/repository[:tag][@digest]. Nothing is added to it:
// there is no default registry and no default tag.
func ParseRef(s string) (Ref, error) {
	fail := func(err error) (Ref, error) {
		return Ref{}, fmt.Errorf("cannot use image name %q: %w\nhint: write registry/repository:tag, as in registry.example/team/app:1.4", s, err)
	}
	base, digest, pinned := strings.Cut(s, "@")
	r := Ref{}
	if pinned {
		d, err := store.ParseDigest(digest)
		if err != nil {
			return fail(err)
		}
		r.Digest = d
	}
	host, rest, ok := strings.Cut(base, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return fail(errors.New("it does not say which registry"))
	}
	r.Registry = host
	r.Repository, r.Tag, ok = strings.Cut(rest, ":")
	if !ok && !pinned {
		return fail(errors.New("it has neither tag nor digest"))
	}
	var err error
	if ok {
		_, err = name.NewTag(base, name.StrictValidation)
	} else {
		_, err = name.NewRepository(base, name.StrictValidation)
	}
	if err != nil {
		return fail(err)
	}
	return r, nil
}

// Name is r without its digest, as manifests call the image.
func (r Ref) Name() string {
	if r.Tag == "" {
		return r.Registry + "/" + r.Repository
	}
	return r.Registry + "/" + r.Repository + ":" + r.Tag
}

// Mirror says where the images of a registry come from instead.
type Mirror struct {
	Registry  string
	Endpoints []string  // base URLs, tried in order; none: the registry itself
	Rewrite   []Rewrite // the first that matches counts
	CA        []byte    // PEM certificates that are trusted besides the system's
}

// Rewrite gives a repository another path at the endpoints.
type Rewrite struct {
	Match *regexp.Regexp
	To    string // with $1 for what the first group matched
}

// Client is how registries are reached.
type Client struct {
	Mirrors   []Mirror
	Keychain  authn.Keychain  // credentials
	Transport *http.Transport // nil means http.DefaultTransport
	Transfers fetch.Client    // tries, time-outs and workers; its HTTP is not used

	mu         sync.Mutex
	logins     map[string]*http.Client // by endpoint and repository
	transports map[string]*http.Transport
	hosts      map[string]*host
}

// place is where an image may be had.
type place struct {
	url  string // …/v2/REPOSITORY
	http *http.Client
}

func (p place) source(kind, reference string) fetch.Source {
	s := fetch.Source{URL: p.url + "/" + kind + "/" + reference, HTTP: p.http}
	if kind == "manifests" {
		s.Accept = strings.Join(manifestTypes, ", ")
	}
	return s
}

// places are where r's images may be had, in the order in which they are tried.
func (c *Client) places(r Ref) ([]place, error) {
	m := Mirror{Registry: r.Registry}
	for _, o := range c.Mirrors {
		if o.Registry == r.Registry {
			m = o
		}
	}
	repository := r.Repository
	for _, w := range m.Rewrite {
		if w.Match.MatchString(repository) {
			repository = w.Match.ReplaceAllString(repository, w.To)
			break
		}
	}
	plain := len(m.Endpoints) == 0 && loopback(r.Registry)
	if len(m.Endpoints) == 0 {
		reg, err := name.NewRegistry(r.Registry)
		if err != nil {
			return nil, err
		}
		m.Endpoints = []string{"https://" + reg.RegistryStr()}
	}
	var out []place
	for _, e := range m.Endpoints {
		u, err := url.Parse(e)
		if err != nil {
			return nil, fmt.Errorf("an endpoint of %s is no URL", r.Registry)
		}
		there := strings.Trim(u.Path, "/") + "/" + repository
		repo, err := name.NewRepository(u.Host + "/" + strings.TrimPrefix(there, "/"))
		if err != nil {
			return nil, fmt.Errorf("%s is called by a wrong name at %s: %w", r.Name(), u.Host, err)
		}
		h, err := c.client(m, u, repo, plain)
		if err != nil {
			return nil, err
		}
		out = append(out, place{u.Scheme + "://" + u.Host + "/v2/" + repo.RepositoryStr(), h})
	}
	return out, nil
}

// client is the one that is logged in at u's host to read repo; plain http is
// for a URL that says so, or if plain is set.
func (c *Client) client(m Mirror, u *url.URL, repo name.Repository, plain bool) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := m.Registry + " " + u.Scheme + " " + repo.Name()
	if h, ok := c.logins[key]; ok {
		return h, nil
	}
	if c.logins == nil {
		c.logins, c.transports, c.hosts = map[string]*http.Client{}, map[string]*http.Transport{}, map[string]*host{}
	}
	t, err := c.transport(m)
	if err != nil {
		return nil, err
	}
	if c.hosts[u.Host] == nil {
		c.hosts[u.Host] = &host{name: u.Host, pause: cmp.Or(c.Transfers.Backoff, time.Second) / 2}
	}
	var opts []name.Option
	if u.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	if repo, err = name.NewRepository(repo.Name(), opts...); err != nil {
		return nil, err
	}
	l := &login{repo: repo, keychain: c.Keychain, host: c.hosts[u.Host], wire: t, plain: plain || u.Scheme == "http"}
	c.logins[key] = &http.Client{Transport: l}
	return c.logins[key], nil
}

// transport is the one that trusts m's certificates.
func (c *Client) transport(m Mirror) (*http.Transport, error) {
	if t, ok := c.transports[m.Registry]; ok {
		return t, nil
	}
	base := c.Transport
	if base == nil {
		base = http.DefaultTransport.(*http.Transport)
	}
	t := base.Clone()
	if len(m.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(m.CA) {
			return nil, fmt.Errorf("the certificates for %s are not PEM", m.Registry)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c.transports[m.Registry] = t
	return t, nil
}

// loopback reports whether a registry is on this machine.
func loopback(registry string) bool {
	host, _, err := net.SplitHostPort(registry)
	if err != nil {
		host = registry
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
