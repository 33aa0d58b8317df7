package charts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

// A directory is a repository too.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	archive := []byte("an archive")
	index := "apiVersion: v1\nentries:\n  web:\n  - {version: 1.0.0, urls: [web-1.0.0.tgz], digest: " + store.FromBytes(archive).Hex() + "}\n" +
		"  - {version: 1.1.0, urls: [web-1.0.0.tgz], digest: " + store.FromBytes(nil).Hex() + "}\n" +
		"  - {version: 1.2.0, urls: [web-1.0.0.tgz]}\n  - {version: 1.3.0}\n" +
		"  - {version: 1.4.0, urls: ['http://u:p@e.example/a.tgz']}\n  - {version: 1.5.0, urls: ['ftp://e.example/a.tgz']}\n  - {version: 1.6.0, urls: [a.tgz], digest: abc}\n"
	for name, b := range map[string][]byte{"index.yaml": []byte(index), "web-1.0.0.tgz": archive, "sub/index.yaml": []byte("apiVersion: v2\n"), "none/index.yaml": []byte("- a\n")} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ repository, name, version, want string }{
		{"", "web", "1.0.0", ""},
		{"/", "web", "1.0.0", ""},
		{"", "web", "1.1.0", "the repository's index says sha256:e3b0c442"},
		{"", "web", "1.2.0", ""},
		{"", "web", "1.3.0", "chart web 1.3.0 has no URL in it"},
		{"", "web", "1.4.0", "it holds a password"},
		{"", "web", "1.5.0", "ftp from a repository that is asked by file"},
		{"", "web", "1.6.0", "chart web 1.6.0: "},
		{"", "web", "9.0.0", "does not list it: there is 1.0.0, 1.1.0, 1.2.0, 1.3.0, 1.4.0 and 2 more"},
		{"", "other", "1.0.0", "does not list it: there is the charts web"},
		{"/sub", "web", "1.0.0", `no index of charts of version v1, but of "v2"`},
		{"/none", "web", "1.0.0", "it is no index of charts"},
		{"/gone", "web", "1.0.0", "cannot read the repository's index: "},
	} {
		var f fetch.Client
		repository := "file://" + dir + c.repository
		e, err := Find(context.Background(), &f, repository, c.name, c.version)
		if err == nil {
			var b []byte
			if b, err = Get(context.Background(), &f, repository, e); err == nil && string(b) != string(archive) {
				t.Errorf("%v: got %q", c, b)
			}
		}
		if c.want == "" && (err != nil || e.URL != "web-1.0.0.tgz") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: got %+v, %v", c, e, err)
		}
		if strings.Contains(c.want, "does not list it") != errors.Is(err, ErrNone) {
			t.Errorf("%v: ErrNone: %v", c, err)
		}
	}
}
