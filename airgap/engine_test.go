package airgap_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/origin/debian"
	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/qemu-tests/k3srelease"
)

func engineRequest(dir string, urls ...string) airgap.Request {
	r := request()
	r.Engine = airgap.WantEngine{Name: "k3s", Version: "v1.36.3+k3s1", Dir: dir, URLs: urls}
	return r
}

func engineNetwork() airgap.Network {
	return airgap.Network{Debian: &debian.Client{}, Registry: &registry.Client{}, Files: &fetch.Client{Backoff: time.Millisecond}}
}

func k3sFiles(t *testing.T, images ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "files of k3s")
	if err := k3srelease.Write(dir, images...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// collected runs Collect; there is no package and no toolchain in these tests,
// and that is all that may fail.
func collected(t *testing.T, r airgap.Request, l airgap.Lock, s *store.Store) error {
	t.Helper()
	_, err := airgap.Collect(context.Background(), r, l, engineNetwork(), s, slog.New(slog.DiscardHandler), airgap.Progress{})
	if err == nil {
		t.Fatal("collected without a toolchain")
	}
	return err
}

// The release files are pinned with the images in them, from a directory and
// from a server alike; the lock names neither, and collect brings them in
// elsewhere.
func TestEngineFiles(t *testing.T) {
	dir := k3sFiles(t)
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.EscapedPath())
		http.ServeFile(w, r, filepath.Join(dir, filepath.Base(r.URL.Path)))
	}))
	defer srv.Close()
	net := engineNetwork()
	net.Files.Workers = 1 // asked is not locked
	ctx := context.Background()
	var locks []string
	for _, r := range []airgap.Request{engineRequest(dir), engineRequest("", srv.URL+"/k3s/")} {
		l, err := airgap.Resolve(ctx, r, locked(), net, newStore(t), airgap.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Fits(l); err != nil {
			t.Error(err)
		}
		b, err := l.Encode()
		if err != nil || strings.Contains(string(b), srv.URL) || strings.Contains(string(b), dir) {
			t.Errorf("the lock names a place: %v\n%s", err, b)
		}
		locks = append(locks, string(b))
		var names []string
		for _, im := range l.Images {
			names = append(names, im.Name)
			if im.Component != "k3s" || im.Origin != "engine" || im.Bytes == 0 {
				t.Errorf("%+v", im)
			}
		}
		if want := []string{"docker.io/rancher/mirrored-coredns-coredns:1.12.1", "docker.io/rancher/mirrored-pause:3.6", "ghcr.io/k3s-io/klipper-helm:v0.9.8"}; !slices.Equal(names, want) {
			t.Errorf("images are %q", names)
		}
		s := newStore(t)
		if err := collected(t, r, l, s); strings.Contains(err.Error(), "k3s") {
			t.Error(err)
		}
		if missing := append(airgap.MissingImages(l, s), airgap.MissingEngine(l, s)...); len(missing) != 0 {
			t.Errorf("missing: %q", missing)
		}
		// A lock that fits needs neither directory nor server.
		again := r
		again.Engine.Dir, again.Engine.URLs = filepath.Join(dir, "gone"), nil
		kept, err := airgap.Resolve(ctx, again, l, net, newStore(t), airgap.Options{})
		if b2, _ := kept.Encode(); err != nil || string(b2) != string(b) {
			t.Errorf("locked again: %v\n%s", err, b2)
		}
	}
	if locks[0] != locks[1] {
		t.Errorf("directory and server give different locks:\n%s\n%s", locks[0], locks[1])
	}
	if !slices.Contains(asked, "/k3s/v1.36.3%2Bk3s1/sha256sum-amd64.txt") {
		t.Errorf("asked for %q", asked)
	}
}

func TestEngineFits(t *testing.T) {
	r := engineRequest(k3sFiles(t))
	l, err := airgap.Resolve(context.Background(), r, locked(), engineNetwork(), newStore(t), airgap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other := r
	other.Engine.Version = "v1.36.4+k3s1"
	none := request()
	for want, r := range map[string]airgap.Request{
		"the release files of k3s v1.36.4+k3s1 are not locked": other,
		"k3s v1.36.3+k3s1 is locked, and the site does not":    none,
	} {
		if err := r.Fits(l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if left, err := airgap.Resolve(context.Background(), none, l, engineNetwork(), newStore(t), airgap.Options{}); err != nil || left.Engine.Name != "" || len(left.Images) != 0 {
		t.Errorf("an engine that is not asked for stays: %v %+v", err, left.Engine)
	}
}

// What is wrong with the files is told by lock, with the file's name and what to
// do; nothing of it gets into the lock.
func TestEngineRefused(t *testing.T) {
	damage := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			f := filepath.Join(dir, name)
			b, err := os.ReadFile(f)
			if err == nil {
				b[len(b)/2] ^= 1
				err = os.WriteFile(f, b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   []string
	}{
		"damaged program": {damage("k3s"), []string{"cannot lock k3s v1.36.3+k3s1", "cannot fetch k3s of k3s v1.36.3+k3s1", "hint: the file is damaged, or of another release"}},
		"damaged images":  {damage("k3s-airgap-images-amd64.tar.zst"), []string{"cannot fetch k3s-airgap-images-amd64.tar.zst", "hint: the file is damaged"}},
		"no program":      {remove("k3s"), []string{"no such file", "hint: put the three files of the release v1.36.3+k3s1 into "}},
		"no sums":         {remove("sha256sum-amd64.txt"), []string{"no such file", "hint: put the three files"}},
		"sums of another architecture": {write("sha256sum-amd64.txt", strings.Repeat("a", 64)+"  k3s-arm64\n"),
			[]string{"cannot use sha256sum-amd64.txt: it has no line for k3s\n", "it has no line for k3s-airgap-images-amd64.tar.zst"}},
		"sums that are none": {write("sha256sum-amd64.txt", "<html>not found</html>\n"), []string{"cannot use sha256sum-amd64.txt: line 1 is not a SHA-256"}},
		"two digests": {write("sha256sum-amd64.txt", strings.Repeat("a", 64)+"  k3s\n"+strings.Repeat("b", 64)+"  k3s\n"),
			[]string{"line 2: k3s is there with two digests"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := k3sFiles(t)
			c.change(t, dir)
			l, err := airgap.Resolve(context.Background(), engineRequest(dir), locked(), engineNetwork(), newStore(t), airgap.Options{})
			if err == nil || l.Engine.Name != "" {
				t.Fatalf("got %v, %+v", err, l.Engine)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no word of %q in:\n%v", w, err)
				}
			}
		})
	}
}

// Files of another release under the same version are refused by collect, and
// taken by an update that names k3s.
func TestEngineChanged(t *testing.T) {
	dir := k3sFiles(t)
	r, ctx := engineRequest(dir), context.Background()
	l, err := airgap.Resolve(ctx, r, locked(), engineNetwork(), newStore(t), airgap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k3srelease.Write(dir); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if err := collected(t, r, l, s); !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), `"holdfast lock --update k3s"`) {
		t.Errorf("got %v", err)
	}
	if missing := airgap.MissingEngine(l, s); !slices.Contains(missing, "k3s-airgap-images-amd64.tar.zst") {
		t.Errorf("missing are %q", missing)
	}
	moved, err := airgap.Resolve(ctx, r, l, engineNetwork(), s, airgap.Options{Update: []string{"k3s"}})
	if err != nil {
		t.Fatal(err)
	}
	if lines := l.Changes(moved); len(lines) != 3 || !strings.Contains(lines[0], "moved from sha256:") {
		t.Errorf("changes are %q", lines)
	}
}

// Release files do not tell of which version they are; the program does.
func TestEngineOfAnotherVersion(t *testing.T) {
	for version, want := range map[string]int{k3srelease.Version: 0, "v1.36.4+k3s1": 1} {
		r := engineRequest(k3sFiles(t))
		r.Engine.Version = version
		var told []string
		_, err := airgap.Resolve(context.Background(), r, locked(), engineNetwork(), newStore(t), airgap.Options{Notice: func(s string) { told = append(told, s) }})
		if err != nil || len(told) != want {
			t.Errorf("%s: %v, told %q", version, err, told)
		}
	}
}

// An image cannot be both the site's own and k3s's.
func TestEngineImageTwice(t *testing.T) {
	r := engineRequest(k3sFiles(t))
	ref, err := registry.ParseRef("docker.io/rancher/mirrored-pause:3.6")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pause.tar")
	if err := os.WriteFile(file, imageFile(t), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Images = []airgap.WantImage{{Name: ref.Name(), Ref: ref, Archive: file}}
	_, err = airgap.Resolve(context.Background(), r, locked(), engineNetwork(), newStore(t), airgap.Options{})
	if err == nil || !strings.Contains(err.Error(), "image docker.io/rancher/mirrored-pause:3.6 comes with it") {
		t.Errorf("got %v", err)
	}
}
