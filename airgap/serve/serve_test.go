package serve_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"holdfast.dev/holdfast/airgap/serve"
	"holdfast.dev/holdfast/airgap/store"
)

const tag = "registry.example/app/web:v1"

// release writes a layout with one release that names img as tag.
func release(t *testing.T, dir, tag string) (img v1.Image, root store.Content) {
	t.Helper()
	img, err := random.Image(100_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
		Annotations: map[string]string{"dev.holdfast.part": "image", "org.opencontainers.image.ref.name": tag}}})
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(idx); err != nil {
		t.Fatal(err)
	}
	raw, err := idx.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return img, store.Content{Digest: store.FromBytes(raw), Size: int64(len(raw))}
}

// trustAll takes every index for verified.
func trustAll(dirs []string) (all []store.Content, err error) {
	for _, dir := range dirs {
		b, e := os.ReadFile(filepath.Join(dir, "index.json"))
		if e != nil {
			continue
		}
		var idx struct{ Manifests []store.Content }
		err = errors.Join(err, json.Unmarshal(b, &idx))
		all = append(all, idx.Manifests...)
	}
	return all, err
}

func server(t *testing.T, roots serve.Roots, dirs ...string) string {
	t.Helper()
	s := httptest.NewServer(serve.Handler(serve.Options{Layouts: dirs, Roots: roots}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func pull(t *testing.T, ref string) (v1.Image, error) {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		return nil, err
	}
	return img, validate.Image(img)
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	q, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

func layerOf(t *testing.T, img v1.Image) (d store.Digest, data []byte) {
	t.Helper()
	ls, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := ls[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := ls[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err = io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return store.Digest(h.String()), data
}

func TestPullByTagAndDigest(t *testing.T) {
	dir := t.TempDir()
	img, _ := release(t, dir, tag)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	host := server(t, trustAll, filepath.Join(dir, "absent"), dir)
	for _, ref := range []string{host + "/app/web:v1", host + "/app/web@" + d.String()} {
		if _, err := pull(t, ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	resp, _, _ := get(t, "http://"+host+"/v2/app/web/manifests/v1?ns=registry.example")
	if resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("with ns: %s, %s", resp.Status, resp.Header.Get("Docker-Content-Digest"))
	}
}

func TestNotFound(t *testing.T) {
	dir := t.TempDir()
	img, _ := release(t, dir, tag)
	stray := []byte("reachable from nothing")
	d := store.FromBytes(stray)
	if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", d.Hex()), stray, 0o644); err != nil {
		t.Fatal(err)
	}
	layer, _ := layerOf(t, img)
	host := server(t, trustAll, dir)
	for _, p := range []string{
		"/", "/v2/app/web/tags/list", "/v2/app/web/manifests/v2", "/v2/other/manifests/v1",
		"/v2/app/web/manifests/v1?ns=other.example", "/v2/app/web/blobs/" + string(d),
		"/v2/app/web/manifests/" + string(layer), "/v2/app/web/blobs/sha256:..", "/v2/_catalog",
	} {
		resp, body, _ := get(t, "http://"+host+p)
		var e struct{ Errors []struct{ Code string } }
		if resp.StatusCode != 404 || json.Unmarshal(body, &e) != nil || len(e.Errors) != 1 || e.Errors[0].Code == "" {
			t.Errorf("%s: %s %s", p, resp.Status, body)
		}
	}
	resp, err := http.Post("http://"+host+"/v2/app/web/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("upload: %s", resp.Status)
	}
}

func TestNothingUnverified(t *testing.T) {
	dir := t.TempDir()
	img, _ := release(t, dir, tag)
	host := server(t, func([]string) ([]store.Content, error) { return nil, errors.New("no key matches") }, dir)
	d, _ := img.Digest()
	for _, ref := range []string{host + "/app/web:v1", host + "/app/web@" + d.String()} {
		if _, err := pull(t, ref); err == nil {
			t.Errorf("%s: served from a release that does not verify", ref)
		}
	}
}

func TestDamagedBytes(t *testing.T) {
	for _, what := range []string{"layer", "manifest"} {
		t.Run(what, func(t *testing.T) {
			dir, whole := t.TempDir(), t.TempDir()
			img, _ := release(t, dir, tag)
			if err := os.CopyFS(filepath.Join(whole, "copy"), os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			d, data := layerOf(t, img)
			if what == "manifest" {
				h, _ := img.Digest()
				d = store.Digest(h.String())
				data, _ = img.RawManifest()
			}
			host := server(t, trustAll, dir)
			if _, err := pull(t, host+"/app/web:v1"); err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(data)
			bad[0] ^= 1
			if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", d.Hex()), bad, 0o644); err != nil {
				t.Fatal(err)
			}
			kind := map[string]string{"layer": "blobs", "manifest": "manifests"}[what]
			url := "http://" + host + "/v2/app/web/" + kind + "/" + string(d)
			for range 2 {
				if resp, body, err := get(t, url); err == nil && resp.StatusCode == 200 {
					t.Errorf("damaged %s served whole, %d bytes", what, len(body))
				}
			}
			if _, _, err := get(t, url, "Range", "bytes=5-9"); err == nil && what == "layer" {
				resp, _, _ := get(t, url, "Range", "bytes=5-9")
				if resp.StatusCode != 404 {
					t.Errorf("range of a damaged layer: %s", resp.Status)
				}
			}
			// A whole copy in another layout takes its place.
			host = server(t, trustAll, dir, filepath.Join(whole, "copy"))
			// The first pull finds the damage; the client can be back before
			// the server has read the blob to its end.
			var err error
			for range 100 {
				if _, err = pull(t, host+"/app/web:v1"); err == nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if err != nil {
				t.Errorf("with a whole copy beside it: %v", err)
			}
		})
	}
}

func TestRange(t *testing.T) {
	dir := t.TempDir()
	img, _ := release(t, dir, tag)
	d, data := layerOf(t, img)
	host := server(t, trustAll, dir)
	n := len(data)
	for _, c := range []struct {
		spec   string
		status int
		want   []byte
	}{
		{"bytes=0-9", 206, data[:10]},
		{"bytes=10-", 206, data[10:]},
		{"bytes=-7", 206, data[n-7:]},
		{fmt.Sprintf("bytes=%d-%d", n-1, n+100), 206, data[n-1:]},
		{fmt.Sprintf("bytes=%d-", n), 416, nil},
		{"bytes=0-1,4-5", 200, data},
		{"bytes=9-1", 200, data},
		{"lines=1-2", 200, data},
	} {
		resp, body, err := get(t, "http://"+host+"/v2/app/web/blobs/"+string(d), "Range", c.spec)
		if err != nil || resp.StatusCode != c.status || !bytes.Equal(body, c.want) {
			t.Errorf("%s: %s, %d bytes, %v", c.spec, resp.Status, len(body), err)
		}
	}
}

func TestNewReleaseWithoutRestart(t *testing.T) {
	seed, later := t.TempDir(), filepath.Join(t.TempDir(), "store")
	release(t, seed, tag)
	host := server(t, trustAll, seed, later)
	if _, err := pull(t, host+"/app/new:v2"); err == nil {
		t.Fatal("served before it arrived")
	}
	release(t, later, "registry.example/app/new:v2")
	if _, err := pull(t, host+"/app/new:v2"); err != nil {
		t.Error(err)
	}
}
