package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/cmd/holdfast-registry/registry"
)

var tokens = registry.Tokens{Read: "read-read-read-read", Write: "write-write-write-write"}

// site is a store, and what containerd would ask.
type site struct {
	dir            string
	store, forward *httptest.Server
}

func start(t *testing.T) site {
	t.Helper()
	s := site{dir: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	h, err := registry.Handler(s.dir, tokens, log)
	must(t, err)
	s.store = httptest.NewServer(h)
	t.Cleanup(s.store.Close)
	u, err := url.Parse(s.store.URL)
	must(t, err)
	s.forward = httptest.NewServer(registry.Forward(u, tokens.Read, log))
	t.Cleanup(s.forward.Close)
	return s
}

// ask sends a request with a token, and returns code and body.
func (s site) ask(t *testing.T, token, method, path string, body []byte) (int, string) {
	t.Helper()
	q, err := http.NewRequest(method, s.store.URL+path, bytes.NewReader(body))
	must(t, err)
	q.Header.Set(registry.TokenHeader, token)
	r, err := http.DefaultClient.Do(q)
	must(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(t, err)
	return r.StatusCode, string(b)
}

func (s site) put(t *testing.T, b, all []byte, from int) (int, string) {
	t.Helper()
	return s.ask(t, tokens.Write, "PUT", fmt.Sprintf("/store/blobs/%s?size=%d&from=%d", store.FromBytes(all), len(all), from), b)
}

func (s site) good(t *testing.T, b []byte) {
	t.Helper()
	if code, said := s.put(t, b, b, 0); code != 200 {
		t.Fatalf("not taken: %d %s", code, said)
	}
}

func (s site) root(t *testing.T, name string, ix []byte, keep bool) (int, string) {
	t.Helper()
	body, err := json.Marshal(registry.Root{Digest: store.FromBytes(ix), Size: int64(len(ix)), Keep: keep})
	must(t, err)
	return s.ask(t, tokens.Write, "PUT", "/store/roots/"+name, body)
}

// blobs are those of an image, its manifest last, and the index of a release of it.
func blobs(t *testing.T, im v1.Image) (out [][]byte, ix []byte) {
	t.Helper()
	layers, err := im.Layers()
	must(t, err)
	for _, l := range layers {
		r, err := l.Compressed()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		out = append(out, b)
	}
	config, err := im.RawConfigFile()
	must(t, err)
	manifest, err := im.RawManifest()
	must(t, err)
	mt, err := im.MediaType()
	must(t, err)
	ix = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		mt, store.FromBytes(manifest), len(manifest))
	return append(out, config, manifest), ix
}

// TestImage is pushed, interrupted, and pulled by another client.
func TestImage(t *testing.T) {
	s := start(t)
	im, err := random.Image(300_000, 2)
	must(t, err)
	all, ix := blobs(t, im)

	layer := all[0]
	if code, said := s.put(t, layer[:1000], layer, 0); code != 200 || !strings.Contains(said, `"have":1000`) {
		t.Fatalf("a first part: %d %s", code, said)
	}
	var want []registry.Blob
	for _, b := range append(all, ix) {
		want = append(want, registry.Blob{Digest: store.FromBytes(b), Size: int64(len(b))})
	}
	missing := func() (m registry.Missing) {
		body, err := json.Marshal(want)
		must(t, err)
		code, said := s.ask(t, tokens.Write, "POST", "/store/missing", body)
		if code != 200 {
			t.Fatalf("%d %s", code, said)
		}
		must(t, json.Unmarshal([]byte(said), &m))
		return m
	}
	if m := missing(); len(m.Blobs) != len(want) || m.Blobs[0].Have != 1000 || m.Free <= 0 {
		t.Errorf("missing: %+v", m)
	}
	if code, said := s.put(t, layer[2000:], layer, 2000); code != 409 {
		t.Errorf("a part that leaves a gap: %d %s", code, said)
	}
	if code, said := s.put(t, layer[1000:], layer, 1000); code != 200 {
		t.Errorf("the rest: %d %s", code, said)
	}
	if m := missing(); len(m.Blobs) != len(want)-1 {
		t.Errorf("missing then: %+v", m)
	}
	if code, said := s.root(t, "demo", ix, true); code != 409 || !strings.Contains(said, "not whole") {
		t.Errorf("a release without its blobs: %d %s", code, said)
	}
	for _, b := range append(all[1:], ix) {
		s.good(t, b)
	}
	s.good(t, layer) // is there, and is not written again
	digest, err := im.Digest()
	must(t, err)
	ref, err := name.NewDigest(strings.TrimPrefix(s.forward.URL, "http://") + "/registry.example/a/b@" + digest.String())
	must(t, err)
	if _, err := remote.Image(ref); err == nil {
		t.Error("an image of no release is served")
	}
	if code, said := s.root(t, "demo", ix, true); code != 200 {
		t.Fatalf("the release: %d %s", code, said)
	}
	if m := missing(); len(m.Blobs) != 0 {
		t.Errorf("missing at last: %+v", m)
	}
	got, err := remote.Image(ref)
	must(t, err)
	must(t, validate.Image(got))
}

func TestRefused(t *testing.T) {
	s := start(t)
	b := []byte("some bytes")
	for _, c := range []struct {
		what, token, method, path, body string
		code                            int
	}{
		{"no token", "", "GET", "/v2/", "", 403},
		{"no token for a write", "", "POST", "/store/missing", "[]", 403},
		{"a reader's token for a write", tokens.Read, "POST", "/store/missing", "[]", 403},
		{"a reader's token for a release", tokens.Read, "PUT", "/store/roots/demo", "{}", 403},
		{"other bytes", tokens.Write, "PUT", "/store/blobs/" + string(store.FromBytes([]byte("other byte"))) + "?size=10&from=0", "some bytes", 422},
		{"more bytes", tokens.Write, "PUT", "/store/blobs/" + string(store.FromBytes(b)) + "?size=9&from=0", "some bytes", 422},
		{"a size without end", tokens.Write, "PUT", "/store/blobs/" + string(store.FromBytes(b)) + "?size=99999999999999&from=0", "some bytes", 400},
		{"no digest", tokens.Write, "PUT", "/store/blobs/..%2f..%2fx?size=1&from=0", "x", 400},
		{"a negative place", tokens.Write, "PUT", "/store/blobs/" + string(store.FromBytes(b)) + "?size=10&from=-1", "x", 400},
		{"a question that is too long", tokens.Write, "POST", "/store/missing", "[" + strings.Repeat(" ", 5<<20) + "]", 400},
		{"two values", tokens.Write, "POST", "/store/missing", "[] []", 400},
		{"a site out of the way", tokens.Write, "PUT", "/store/roots/..%2fx", `{"digest":"` + string(store.FromBytes(b)) + `","size":1}`, 400},
		{"pushing as to others", tokens.Write, "POST", "/v2/x/blobs/uploads/", "", 404},
	} {
		if code, said := s.ask(t, c.token, c.method, c.path, []byte(c.body)); code != c.code {
			t.Errorf("%s: %d %s, want %d", c.what, code, said, c.code)
		}
	}
	if es, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256")); err != nil || len(es) > 0 {
		t.Errorf("refused bytes are there: %v, %v", es, err)
	}
	for _, c := range []struct{ method, path string }{{"GET", "/store/missing"}, {"POST", "/v2/"}, {"PUT", "/store/roots/demo"}, {"GET", "/healthz"}} {
		q, err := http.NewRequest(c.method, s.forward.URL+c.path, nil)
		must(t, err)
		r, err := http.DefaultClient.Do(q)
		must(t, err)
		r.Body.Close()
		if r.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s %s is passed on: %d", c.method, c.path, r.StatusCode)
		}
	}
}

// TestSwept has a release take another's place: what only that one needed goes,
// what another site needs stays, and so does what just came.
func TestSwept(t *testing.T) {
	s := start(t)
	var ix [3][]byte
	var first [3][]byte
	for i := range ix {
		im, err := random.Image(1000, 1)
		must(t, err)
		var all [][]byte
		all, ix[i] = blobs(t, im)
		first[i] = all[0]
		for _, b := range append(all, ix[i]) {
			s.good(t, b)
		}
	}
	stray := []byte("of a run that is under way")
	s.good(t, stray)
	there := func(b []byte) bool {
		_, err := os.Stat(filepath.Join(s.dir, "blobs", "sha256", store.FromBytes(b).Hex()))
		return err == nil
	}
	must200 := func(code int, said string) {
		t.Helper()
		if code != 200 {
			t.Fatalf("%d %s", code, said)
		}
	}
	must200(s.root(t, "demo", ix[0], true))
	must200(s.root(t, "other", ix[1], true))
	must200(s.root(t, "demo", ix[2], true))
	old := time.Now().Add(-2 * time.Hour)
	es, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256"))
	must(t, err)
	for _, e := range es {
		if e.Name() != store.FromBytes(stray).Hex() {
			must(t, os.Chtimes(filepath.Join(s.dir, "blobs", "sha256", e.Name()), old, old))
		}
	}
	if !there(first[0]) {
		t.Fatal("the release before is gone while it is kept")
	}
	must200(s.root(t, "demo", ix[2], false))
	if there(first[0]) || !there(first[1]) || !there(first[2]) || !there(stray) {
		t.Errorf("there: before %v, another site's %v, this one %v, what just came %v", there(first[0]), there(first[1]), there(first[2]), there(stray))
	}
	must200(s.root(t, "demo", ix[2], false)) // again
}

// TestDamaged leaves no wrong bytes for good: what a power cut left is found
// when the blob is whole, and a damaged manifest when a release is to count.
func TestDamaged(t *testing.T) {
	s := start(t)
	b := bytes.Repeat([]byte("x"), 5000)
	s.put(t, b[:100], b, 0)
	part := filepath.Join(s.dir, "partial", store.FromBytes(b).Hex())
	must(t, os.WriteFile(part, make([]byte, 200), 0o644))
	if code, said := s.put(t, b[200:], b, 200); code != 422 {
		t.Errorf("a damaged beginning: %d %s", code, said)
	}
	s.good(t, b)
	im, err := random.Image(1000, 1)
	must(t, err)
	all, ix := blobs(t, im)
	for _, b := range append(all, ix) {
		s.good(t, b)
	}
	manifest := all[len(all)-1]
	must(t, os.WriteFile(filepath.Join(s.dir, "blobs", "sha256", store.FromBytes(manifest).Hex()), make([]byte, len(manifest)), 0o644))
	if code, said := s.root(t, "demo", ix, false); code != 409 {
		t.Errorf("a damaged manifest: %d %s", code, said)
	}
}

func TestRef(t *testing.T) {
	d := store.FromBytes(nil)
	for in, want := range map[string]string{
		"registry.k8s.io/pause:3":   "127.0.0.1:5002/registry.k8s.io/pause:3@",
		"a.example:5000/x/y:1":      "127.0.0.1:5002/a.example-5000/x/y:1@",
		"library/nginx:1":           "127.0.0.1:5002/docker.io/library/nginx:1@",
		"nginx":                     "127.0.0.1:5002/docker.io/nginx@",
		"Registry.Example/team/x:1": "127.0.0.1:5002/registry.example/team/x:1@",
	} {
		got := registry.Ref(5002, in, d)
		if got != want+string(d) {
			t.Errorf("%s: %s", in, got)
		}
		if _, err := name.ParseReference(got, name.StrictValidation); err != nil {
			t.Error(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
