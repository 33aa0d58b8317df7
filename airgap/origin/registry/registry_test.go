package registry_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/distribution"
)

var amd64 = registry.Platform{OS: "linux", Architecture: "amd64"}

// bed is a registry with images in it, a proxy before it and a store.
type bed struct {
	*distribution.Registry
	proxy  *distribution.Proxy
	client *registry.Client
	store  *store.Store
}

func newBed(t *testing.T) bed {
	t.Helper()
	program, err := distribution.Find()
	if err != nil {
		t.Skip(err)
	}
	r, err := distribution.Start(program, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	p, err := r.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		t.Fatal(err)
	}
	return bed{r, p, &registry.Client{
		Mirrors:   []registry.Mirror{{Registry: "registry.example", Endpoints: []string{"https://" + p.Addr}, CA: ca}},
		Keychain:  password{},
		Transfers: fetch.Client{Backoff: time.Millisecond},
	}, open(t)}
}

type password struct{}

func (password) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: distribution.User, Password: distribution.Password}, nil
}

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ref(t *testing.T, s string) registry.Ref {
	t.Helper()
	r, err := registry.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// image has n layers of size bytes, for a platform.
func image(t *testing.T, size, n int64, os, arch string) v1.Image {
	t.Helper()
	im, err := random.Image(size, n)
	if err != nil {
		t.Fatal(err)
	}
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = os, arch
	if im, err = mutate.ConfigFile(im, c); err != nil {
		t.Fatal(err)
	}
	return im
}

// index holds an image for each architecture.
func index(t *testing.T, size int64, archs ...string) (v1.ImageIndex, map[string]v1.Image) {
	t.Helper()
	ix, all := v1.ImageIndex(empty.Index), map[string]v1.Image{}
	for _, a := range archs {
		all[a] = image(t, size, 3, "linux", a)
		ix = mutate.AppendManifests(ix, mutate.IndexAddendum{Add: all[a], Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: a}}})
	}
	return ix, all
}

func digest(t *testing.T, d interface{ Digest() (v1.Hash, error) }) store.Digest {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return store.Digest(h.String())
}

// fetch collects one image, and checks that the store then has all of it.
func (b bed) fetch(t *testing.T, r registry.Ref, im registry.Image) error {
	t.Helper()
	err := b.client.Fetch(context.Background(), b.store, []registry.Wanted{{Ref: r, Manifest: im.Manifest}}, nil)
	if err != nil {
		return err
	}
	blobs, err := registry.Blobs(b.store, im.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	b.store.Rehash = true
	for _, c := range blobs {
		if err := b.store.Check(c); err != nil {
			t.Error(err)
		}
	}
	b.store.Rehash = false
	return nil
}

func (b bed) resolve(t *testing.T, r registry.Ref) registry.Image {
	t.Helper()
	im, err := b.client.Resolve(context.Background(), b.store, r, amd64)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// put pushes an image of 3 MiB in 3 layers, and resolves it.
func (b bed) put(t *testing.T) (registry.Ref, registry.Image) {
	t.Helper()
	if err := b.Put("team/app:1", image(t, 1<<20, 3, "linux", "amd64")); err != nil {
		t.Fatal(err)
	}
	r := ref(t, "registry.example/team/app:1")
	im := b.resolve(t, r)
	b.proxy.Seen()
	return r, im
}

// The platform that is wanted comes out of an index, and nothing of the others
// is fetched; a second time, nothing moves.
func TestIndex(t *testing.T) {
	b := newBed(t)
	ix, all := index(t, 1<<20, "arm64", "amd64", "s390x")
	if err := b.Put("team/app:1", ix); err != nil {
		t.Fatal(err)
	}
	r := ref(t, "registry.example/team/app:1")
	im := b.resolve(t, r)
	if im.Manifest.Digest != digest(t, all["amd64"]) || im.Index != digest(t, ix) {
		t.Errorf("got %+v", im)
	}
	if err := b.fetch(t, r, im); err != nil {
		t.Fatal(err)
	}
	if _, _, n := b.proxy.Seen(); n < im.Bytes || n > im.Bytes+100_000 {
		t.Errorf("%d bytes moved for an image of %d", n, im.Bytes)
	}
	if err := b.fetch(t, r, im); err != nil {
		t.Fatal(err)
	}
	if reqs, _, n := b.proxy.Seen(); n != 0 || len(reqs) != 0 {
		t.Errorf("fetched again: %v, %d bytes", reqs, n)
	}
	byDigest := ref(t, "registry.example/team/app@"+string(im.Index))
	if again := b.resolve(t, byDigest); again != im {
		t.Errorf("by digest: %+v", again)
	}
}

// What a release could not use is told when it is locked.
func TestRefused(t *testing.T) {
	b := newBed(t)
	other, _ := index(t, 100, "arm64", "s390x")
	lies := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image(t, 100, 1, "linux", "arm64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	chart := mutate.ConfigMediaType(image(t, 100, 1, "linux", "amd64"), "application/vnd.cncf.helm.config.v1+json")
	for tag, x := range map[string]interface {
		RawManifest() ([]byte, error)
	}{"other": other, "single": image(t, 100, 1, "linux", "arm64"), "lies": lies, "chart": chart} {
		if err := b.Put("team/app:"+tag, x); err != nil {
			t.Fatal(err)
		}
	}
	for tag, want := range map[string]string{
		"other":   "it is not for linux/amd64 but for linux/arm64, linux/s390x",
		"single":  "it is not for linux/amd64 but for linux/arm64",
		"lies":    "it is not for linux/amd64 but for linux/arm64",
		"chart":   "it is no container image",
		"nothing": "not there: 404",
	} {
		_, err := b.client.Resolve(context.Background(), b.store, ref(t, "registry.example/team/app:"+tag), amd64)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", tag, err)
		}
	}
}

// first breaks the first n requests for blobs.
func first(n int, f distribution.Fault) func(*http.Request) *distribution.Fault {
	return func(r *http.Request) *distribution.Fault {
		if !distribution.Blob(r) || n == 0 {
			return nil
		}
		n--
		return &f
	}
}

func always(f distribution.Fault) func(*http.Request) *distribution.Fault { return first(-1, f) }

// Faults that pass are passed over, and what was had is not fetched again.
func TestFaultsThatPass(t *testing.T) {
	for name, c := range map[string]struct {
		fault  distribution.Fault
		times  int
		ranges bool  // a transfer must have been continued
		most   int64 // bytes moved beyond the image
	}{
		"reset":            {distribution.Fault{After: 500_000, Reset: true}, 6, true, 1 << 17},
		"truncated":        {distribution.Fault{After: 500_000, Truncate: true}, 6, true, 1 << 17},
		"slow":             {distribution.Fault{Pause: 20 * time.Millisecond}, 4, false, 1 << 17},
		"stalled":          {distribution.Fault{After: 500_000, Pause: time.Minute}, 1, true, 1 << 20},
		"wrong digest":     {distribution.Fault{After: 1000, Flip: true}, 1, false, 1<<20 + 1<<17},
		"500":              {distribution.Fault{Status: 500}, 2, false, 1 << 17},
		"429":              {distribution.Fault{Status: 429}, 2, false, 1 << 17},
		"429, Retry-After": {distribution.Fault{Status: 429, RetryAfter: "1"}, 2, false, 1 << 17},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			r, im := b.put(t)
			b.proxy.Break(first(c.times, c.fault))
			if name == "stalled" {
				b.client.Transfers.Stall = 2 * time.Second
			}
			start := time.Now()
			if err := b.fetch(t, r, im); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); c.fault.RetryAfter != "" && took < time.Second {
				t.Errorf("came back after %v", took)
			}
			if _, ranges, n := b.proxy.Seen(); (ranges > 0) != c.ranges || n > im.Bytes+c.most {
				t.Errorf("%d transfers were continued, %d bytes moved for an image of %d", ranges, n, im.Bytes)
			}
			if left, _ := filepath.Glob(filepath.Join(b.store.Dir(), "partial", "*")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Faults that do not pass end in an error that names image, place and cause,
// after a bounded number of tries and with bounded leftovers; no wrong byte is
// in the store. Once they are over, the rest is fetched.
func TestFaultsThatStay(t *testing.T) {
	for name, c := range map[string]struct {
		fault    distribution.Fault
		want     string
		mismatch bool
	}{
		"reset":        {distribution.Fault{After: 100_000, Reset: true}, "", false}, // gets on a little at each try
		"reset early":  {distribution.Fault{Reset: true}, "EOF", false},
		"truncated":    {distribution.Fault{Truncate: true}, "unexpected EOF", false},
		"wrong digest": {distribution.Fault{After: 1000, Flip: true}, "digest mismatch", true},
		"500":          {distribution.Fault{Status: 500}, "the server answered 500", false},
		"429":          {distribution.Fault{Status: 429, RetryAfter: "3600"}, "left alone for 1h0m0s", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			r, im := b.put(t)
			b.proxy.Break(always(c.fault))
			err := b.fetch(t, r, im)
			reqs, _, _ := b.proxy.Seen()
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "cannot fetch registry.example/team/app:1 from https://"+b.proxy.Addr+"/v2/team/app/blobs/sha256:") ||
				errors.Is(err, store.ErrMismatch) != c.mismatch {
				t.Errorf("got %v", err)
			}
			if len(reqs) > 3*3+1 {
				t.Errorf("%d requests for three layers", len(reqs))
			}
			if strings.Contains(err.Error(), distribution.Password) {
				t.Error("the password is in the error")
			}
			blobs, err := registry.Blobs(b.store, im.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range blobs[1:] {
				if err := b.store.Check(l); !errors.Is(err, store.ErrMissing) {
					t.Errorf("in the store: %v", err)
				}
			}
			b.proxy.Break(nil)
			if err := b.fetch(t, r, im); err != nil {
				t.Error(err)
			}
		})
	}
}

// A second client, as after a kill, continues what the first left.
func TestResumes(t *testing.T) {
	b := newBed(t)
	r, im := b.put(t)
	ctx, cancel := context.WithCancel(context.Background())
	b.proxy.Break(always(distribution.Fault{After: 600_000, Pause: 100 * time.Millisecond}))
	err := b.client.Fetch(ctx, b.store, []registry.Wanted{{Ref: r, Manifest: im.Manifest}}, func(done, _ int64, _ string) {
		if done > 1_700_000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.proxy.Break(nil)
	b.proxy.Seen()
	if err := b.fetch(t, r, im); err != nil {
		t.Fatal(err)
	}
	if _, ranges, n := b.proxy.Seen(); ranges == 0 || n > im.Bytes-1_500_000 {
		t.Errorf("%d transfers were continued, %d bytes moved", ranges, n)
	}
}

// All that cannot be had is told together, and a host that is down is not
// asked again for each image.
func TestAllFaults(t *testing.T) {
	b := newBed(t)
	r, im := b.put(t)
	b.client.Mirrors = append(b.client.Mirrors,
		registry.Mirror{Registry: "down.example", Endpoints: []string{"https://127.0.0.1:1"}},
		registry.Mirror{Registry: "strange.example", Endpoints: []string{"https://" + b.proxy.Addr}})
	want := func(name, text string) registry.Wanted {
		return registry.Wanted{Ref: ref(t, name), Manifest: store.Content{Digest: store.FromBytes([]byte(text)), Size: int64(len(text))}}
	}
	images := []registry.Wanted{{Ref: r, Manifest: im.Manifest}, want("registry.example/team/gone:1", "gone"), want("strange.example/team/app:1", "strange")}
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		images = append(images, want("down.example/team/"+n+":1", n))
	}
	err := b.client.Fetch(context.Background(), b.store, images, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range []string{"team/gone:1 from", "not there: 404", `hint: the registry has moved on; run "holdfast lock --update gone"`,
		"down.example/team/a:1", "down.example/team/e:1", "connection refused", "certificate signed by unknown authority"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in:\n%v", w, err)
		}
	}
	if err := b.fetch(t, r, im); err != nil {
		t.Error("what could be had did not stay")
	}
}

// Who may not read is told so once, and told what to do.
func TestLogin(t *testing.T) {
	b := newBed(t)
	r, _ := b.put(t)
	for _, chain := range []authn.Keychain{nil, wrong{}} {
		c := &registry.Client{Mirrors: b.client.Mirrors, Keychain: chain}
		_, err := c.Resolve(context.Background(), open(t), r, amd64)
		if err == nil || !strings.Contains(err.Error(), "does not let us read team/app: 401") || !strings.Contains(err.Error(), "hint: log in with \"docker login 127.0.0.1:") {
			t.Errorf("got %v", err)
		}
		if reqs, _, _ := b.proxy.Seen(); len(reqs) > 2 {
			t.Errorf("asked %v", reqs)
		}
	}
}

type wrong struct{}

func (wrong) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: distribution.User, Password: "hunter2"}, nil
}

// Endpoints are tried in order, and repositories have other paths there.
func TestMirrors(t *testing.T) {
	b := newBed(t)
	if err := b.Put("hub/official/app:1", image(t, 1000, 1, "linux", "amd64")); err != nil {
		t.Fatal(err)
	}
	b.client.Mirrors[0].Endpoints = []string{"https://127.0.0.1:1", "https://" + b.proxy.Addr + "/hub"}
	b.client.Mirrors[0].Rewrite = []registry.Rewrite{{Match: regexp.MustCompile("^library/(.*)$"), To: "official/$1"}}
	r := ref(t, "registry.example/library/app:1")
	if err := b.fetch(t, r, b.resolve(t, r)); err != nil {
		t.Error(err)
	}
}

// Plain http is for this machine, or said by name.
func TestPlainHTTP(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.NotFound(w, r)
		}
	}))
	defer plain.Close()
	addr := plain.Listener.Addr().String()
	to := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	for _, x := range []struct{ name, endpoint, want string }{
		{"192.168.0.1:5000", "", "hint: to ask it without encryption, name the endpoint http://192.168.0.1:5000"},
		{"registry.example", "", "hint: to ask it without encryption, name the endpoint http://registry.example"},
		{addr, "https://" + addr, "hint: to ask it without encryption"},
		{"192.168.0.1:5000", "http://192.168.0.1:5000", "404"},
		{addr, "", "404"},
	} {
		c := &registry.Client{Transfers: fetch.Client{Backoff: time.Millisecond}, Transport: to}
		if x.endpoint != "" {
			c.Mirrors = []registry.Mirror{{Registry: x.name, Endpoints: []string{x.endpoint}}}
		}
		_, err := c.Resolve(context.Background(), open(t), ref(t, x.name+"/team/app:1"), amd64)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: got %v", x, err)
		}
	}
}

func TestParseRef(t *testing.T) {
	for _, bad := range []string{"", "nginx:1", "library/nginx:1", "registry.example/app", "registry.example/App:1", "registry.example/app:1@sha256:12", "registry.example/:1", "docker.io/nginx:1"} {
		if r, err := registry.ParseRef(bad); err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%q was taken: %+v, %v", bad, r, err)
		}
	}
	for _, good := range []string{"docker.io/library/nginx:1", "localhost:5000/a/b:v1", "127.0.0.1:5000/a:b"} {
		if r := ref(t, good); r.Name() != good {
			t.Errorf("%q became %q", good, r.Name())
		}
	}
}
