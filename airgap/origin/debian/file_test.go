package debian_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"

	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/store"
)

// directory makes a mirror of files, and returns its URL.
func directory(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "my mirror")
	for name, b := range files {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(b), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + strings.ReplaceAll(dir, " ", "%20")
}

func TestDirectoryAsMirror(t *testing.T) {
	key := newKey(t)
	files := suite(t, key, "trixie")
	files["/debian/pool/a.deb"] = body
	url := directory(t, files)
	c := client(openpgp.EntityList{key}, url)
	r, err := debian.Index(context.Background(), c, trixie)
	if err != nil || r.URL != url+"/debian" {
		t.Fatalf("from %s: %v", r.URL, err)
	}
	// A beginning that is there already is continued.
	s := open(t)
	it := item("a", body)
	partial := filepath.Join(s.Dir(), "partial", it.Content.Digest.Hex())
	if err := errors.Join(os.MkdirAll(filepath.Dir(partial), 0o755), os.WriteFile(partial, []byte(body[:1000]), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := debian.Fetch(context.Background(), c, s, []debian.Item{it}, nil); err != nil {
		t.Error(err)
	}
	if err := s.Check(it.Content); err != nil {
		t.Error(err)
	}
}

func TestDirectoryRefuses(t *testing.T) {
	url := directory(t, map[string]string{"debian/pool/short.deb": body[:10], "debian/pool/other.deb": "x" + body[1:], "debian/pool/dir.deb/file": ""})
	for name, want := range map[string]string{
		"gone":  "hint: the mirror has moved on",
		"short": "unexpected EOF: 10 of 300000 bytes",
		"other": store.ErrMismatch.Error(),
		"dir":   "not a regular file",
	} {
		s := open(t)
		it := item(name, body)
		err := debian.Fetch(context.Background(), client(nil, url), s, []debian.Item{it}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), url) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
		if _, err := os.Stat(s.Path(it.Content.Digest)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it is in the store: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := debian.Fetch(ctx, client(nil, url), open(t), []debian.Item{item("other", body)}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
