package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/oci"
	"holdfast.dev/holdfast/image/rootfs"
)

const epoch = 1700000000

func tree(t *testing.T) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New(5)
	for _, f := range []rootfs.File{
		{Path: "usr/bin/app", Mode: rootfs.TypeRegular | 0o4755, Data: rootfs.Bytes(strings.Repeat("program ", 9000)), MTime: 3},
		{Path: "usr/bin/ping", Mode: rootfs.TypeRegular | 0o755, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02", "user.a": "b"}},
		{Path: "bin", Mode: rootfs.TypeSymlink | 0o777, Target: "usr/bin"},
		{Path: "dev/null", Mode: rootfs.TypeChar | 0o666, Major: 1, Minor: 3},
		{Path: "data", Mode: rootfs.TypeDir | 0o1777, UID: 1000, GID: 1000},
		{Path: strings.Repeat("long/", 60) + "ümlaut", Mode: rootfs.TypeRegular | 0o644},
	} {
		if err := tr.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func image(t *testing.T) (*store.Store, store.Content, oci.LayerDesc) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := oci.Layer(s, tree(t), epoch)
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.Compose(s, []oci.LayerDesc{l}, oci.Config{
		Entrypoint: []string{"/usr/bin/app"}, Env: []string{"PATH=/usr/bin"}, User: "1000:1000",
		Labels: map[string]string{"b": "2", "a": "1"},
	}, epoch, oci.LinuxAMD64)
	if err != nil {
		t.Fatal(err)
	}
	return s, m, l
}

// index lets other programs find the image in the store's directory.
func index(t *testing.T, s *store.Store, m store.Content) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"mediaType": v1.MediaTypeImageManifest, "digest": m.Digest, "size": m.Size,
		"annotations": map[string]string{v1.AnnotationRefName: "test"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "index.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSameBytes(t *testing.T) {
	_, a, la := image(t)
	_, b, lb := image(t)
	if a != b || la != lb {
		t.Errorf("built twice: %v and %v", a, b)
	}
}

func TestReadBack(t *testing.T) {
	s, m, l := image(t)
	index(t, s, m)
	p, err := layout.FromPath(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := p.Image(ggcr.Hash{Algorithm: "sha256", Hex: m.Digest.Hex()})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 {
		t.Fatalf("%d layers", len(layers))
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := store.FromBytes(content); got != l.DiffID {
		t.Errorf("the layer's content is %s, its diff ID %s", got, l.DiffID)
	}
	if d, err := layers[0].DiffID(); err != nil || d.String() != string(l.DiffID) {
		t.Errorf("diff ID %v (%v), want %s", d, err, l.DiffID)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Config.User != "1000:1000" || cfg.Created.Unix() != epoch || cfg.Architecture != "amd64" || cfg.OS != "linux" {
		t.Errorf("configuration: %+v", cfg)
	}
	var names []string
	for tr := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != epoch {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		if h.Name == "usr/bin/ping" && h.PAXRecords["SCHILY.xattr.security.capability"] != "\x01\x00\x00\x02" {
			t.Errorf("%s: extended attributes %q", h.Name, h.PAXRecords)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names[:4], " "); got != "bin data/ dev/ dev/null" {
		t.Errorf("names: %s", got)
	}
}

func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	s, m, l := image(t)
	index(t, s, m)
	out, err := exec.Command("skopeo", "inspect", "oci:"+s.Dir()+":test").CombinedOutput()
	if err != nil || !strings.Contains(string(out), string(l.Content.Digest)) {
		t.Errorf("skopeo inspect: %v\n%s", err, out)
	}
}

// shrunk is content with fewer bytes than it says.
// An image over another one has its layers first, and what that says of itself
// only where the one above says nothing.
func TestBase(t *testing.T) {
	s, below, first := image(t)
	layers, says, err := oci.Base(s, below)
	if err != nil || len(layers) != 1 || layers[0] != first {
		t.Fatalf("read %+v, %v", layers, err)
	}
	top := rootfs.New(epoch)
	if err := top.Add(rootfs.File{Path: "usr/bin/start", Mode: rootfs.TypeRegular | 0o755, Data: rootfs.Bytes("start")}); err != nil {
		t.Fatal(err)
	}
	l, err := oci.Layer(s, top, epoch)
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.Compose(s, append(layers, l), says.Over(oci.Config{Entrypoint: []string{"/usr/bin/start", "/usr/bin/app"}}), epoch, oci.LinuxAMD64)
	if err != nil {
		t.Fatal(err)
	}
	again, says, err := oci.Base(s, m)
	if err != nil || len(again) != 2 || again[0] != first || again[1] != l {
		t.Errorf("it has %+v, %v", again, err)
	}
	if strings.Join(says.Entrypoint, " ") != "/usr/bin/start /usr/bin/app" || says.User != "1000:1000" || strings.Join(says.Env, " ") != "PATH=/usr/bin" || says.Labels["a"] != "1" {
		t.Errorf("it says %+v", says)
	}
}

// Whoever published it, an image that does not fit together is refused.
func TestBadBase(t *testing.T) {
	s, _, l := image(t)
	put := func(text string) store.Content {
		c, err := s.WriteBytes([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	manifest := func(config store.Content, layers string) store.Content {
		return put(fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":%q,"size":%d},"layers":[%s]}`, config.Digest, config.Size, layers))
	}
	layer := func(kind string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, kind, l.Content.Digest, l.Content.Size)
	}
	one := put(fmt.Sprintf(`{"os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, l.DiffID))
	docker, _, err := oci.Base(s, manifest(one, layer("application/vnd.docker.image.rootfs.diff.tar.gzip")))
	if err != nil || docker[0].MediaType != v1.MediaTypeImageLayerGzip {
		t.Errorf("of Docker's: %+v, %v", docker, err)
	}
	for name, c := range map[string]struct {
		manifest store.Content
		want     string
	}{
		"layers":    {manifest(put(`{"os":"linux","rootfs":{"diff_ids":[]}}`), layer(v1.MediaTypeImageLayer)), "has 0 layers, and its manifest 1"},
		"foreign":   {manifest(one, layer("application/vnd.docker.image.rootfs.foreign.diff.tar")), "not to be passed on"},
		"not there": {manifest(store.Content{Digest: store.FromBytes([]byte("x")), Size: 1}, ""), string(store.FromBytes([]byte("x")))},
		"no digest": {manifest(store.Content{Digest: "../../etc/passwd", Size: 1}, ""), "etc/passwd"},
		"not JSON":  {put("hello"), "invalid character"},
		"huge":      {store.Content{Digest: one.Digest, Size: 1 << 40}, "more than the"},
	} {
		if _, _, err := oci.Base(s, c.manifest); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

type shrunk struct{ rootfs.Bytes }

func (s shrunk) Size() int64 { return int64(len(s.Bytes)) + 1 }

func TestFaults(t *testing.T) {
	for name, f := range map[string]rootfs.File{
		"no place in a layer": {Path: "run/sock", Mode: rootfs.TypeSocket | 0o600},
		"would delete a file": {Path: "etc/.wh.passwd", Mode: rootfs.TypeRegular},
		"were announced":      {Path: "etc/x", Mode: rootfs.TypeRegular, Data: shrunk{rootfs.Bytes("abc")}},
	} {
		tr := rootfs.New(1)
		if err := tr.Add(f); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := oci.Layer(s, tr, epoch); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		for _, dir := range []string{"tmp", "blobs/sha256"} {
			if left, _ := os.ReadDir(filepath.Join(s.Dir(), dir)); len(left) > 0 {
				t.Errorf("%s: left behind in %s: %v", name, dir, left)
			}
		}
	}
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	absent := oci.LayerDesc{Content: store.Content{Digest: store.FromBytes([]byte("x")), Size: 1}, DiffID: store.FromBytes(nil)}
	if _, err := oci.Compose(s, []oci.LayerDesc{absent}, oci.Config{}, epoch, oci.LinuxAMD64); !errors.Is(err, store.ErrMissing) {
		t.Errorf("a layer that is not there: %v", err)
	}
}
