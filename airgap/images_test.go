package airgap_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/origin/debian"
	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
)

// imageFile is an OCI layout of one image as a tar file.
func imageFile(t *testing.T) []byte {
	t.Helper()
	im, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	if im, err = mutate.ConfigFile(im, c); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(im)
	}
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An image from a web server's file is used only if the file has the digest
// that the site gives; lock finds its size, and collect brings it in elsewhere.
func TestImageFromURL(t *testing.T) {
	file := imageFile(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	}))
	defer srv.Close()
	ref, err := registry.ParseRef("registry.example/team/far:1")
	if err != nil {
		t.Fatal(err)
	}
	r, previous := request(), locked()
	r.Images = []airgap.WantImage{{Name: ref.Name(), Ref: ref, Archive: srv.URL + "/far.tar", File: store.FromBytes(file)}}
	net := airgap.Network{Debian: &debian.Client{}, Registry: &registry.Client{}, Files: &fetch.Client{Backoff: time.Millisecond}}
	ctx := context.Background()
	l, err := airgap.Resolve(ctx, r, previous, net, newStore(t), airgap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if im, _ := l.Image(ref.Name()); im.File != (store.Content{Digest: store.FromBytes(file), Size: int64(len(file))}) || im.Origin != "archive" {
		t.Errorf("got %+v", im)
	}
	if err := r.Fits(l); err != nil {
		t.Error(err)
	}
	b, err := l.Encode()
	if err != nil || strings.Contains(string(b), srv.URL) {
		t.Errorf("the lock names the server: %v", err)
	}
	// There is no package and no toolchain in this test, and that is all that fails.
	s := newStore(t)
	if _, err := airgap.Collect(ctx, r, l, net, s, slog.New(slog.DiscardHandler), airgap.Progress{}); err == nil || strings.Contains(err.Error(), "far") {
		t.Errorf("got %v", err)
	}
	if missing := airgap.MissingImages(l, s); len(missing) != 0 {
		t.Errorf("missing: %v", missing)
	}

	r.Images[0].File = store.FromBytes([]byte("another"))
	if err := r.Fits(l); err == nil || !strings.Contains(err.Error(), "far:1 is asked for otherwise") {
		t.Errorf("got %v", err)
	}
	if _, err := airgap.Resolve(ctx, r, l, net, s, airgap.Options{}); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir(), "partial", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// An archive that is not the locked one any more is refused by collect, and
// read again by an update.
func TestArchiveChanged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "app.tar")
	write := func() {
		if err := os.WriteFile(name, imageFile(t), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	ref, err := registry.ParseRef("registry.example/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	r := request()
	r.Images = []airgap.WantImage{{Name: ref.Name(), Ref: ref, Archive: name}}
	net := airgap.Network{Debian: &debian.Client{}, Registry: &registry.Client{}}
	ctx := context.Background()
	l, err := airgap.Resolve(ctx, r, locked(), net, newStore(t), airgap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	write()
	_, err = airgap.Collect(ctx, r, l, net, newStore(t), slog.New(slog.DiscardHandler), airgap.Progress{})
	if !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), `hint: run "holdfast lock --update registry.example/team/app:1"`) {
		t.Errorf("got %v", err)
	}
	moved, err := airgap.Resolve(ctx, r, l, net, newStore(t), airgap.Options{Update: []string{ref.Name()}})
	if err != nil {
		t.Fatal(err)
	}
	if lines := l.Changes(moved); len(lines) != 1 || !strings.Contains(lines[0], "image registry.example/team/app:1 moved from sha256:") {
		t.Errorf("got %v", lines)
	}
}
