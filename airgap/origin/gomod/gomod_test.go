package gomod

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/dirhash"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/gobuild"
)

// server is a module proxy whose files a test can change, and which can be
// taken away.
type server struct {
	mu    sync.Mutex
	files map[string][]byte
	*httptest.Server
}

func serve(t *testing.T, files map[string][]byte) *server {
	t.Helper()
	s := &server{files: files}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		b, ok := s.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(b)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) proxy() Proxy { return Proxy{URLs: s.URL} }

func pack(t *testing.T, prefix string, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w, err := zw.Create(prefix + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func h1(t *testing.T, archive []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(name, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := dirhash.HashZip(name, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

const (
	toolchain = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/"
	zipPath   = "/golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip"
)

func toolchainFiles() map[string]string {
	return map[string]string{"VERSION": "go1.26.8\n", "bin/go": "#!", "pkg/tool/linux_amd64/compile": "#!",
		"src/_go.mod": "module std\n", "src/a/a.go": "package a\n"}
}

func TestFetchToolchain(t *testing.T) {
	good := pack(t, toolchain, toolchainFiles())
	want := h1(t, good)
	s := serve(t, map[string][]byte{zipPath: good})
	cache := t.TempDir()
	proxy, told := s.proxy(), int64(0)
	proxy.Progress = func(_ string, done, _ int64) { told = done }
	goroot, got, err := FetchToolchain(t.Context(), proxy, "go1.26.8", "", cache)
	if err != nil || got != want {
		t.Fatalf("at lock: %s, %v; want %s", got, err, want)
	}
	if told != int64(len(good)) {
		t.Errorf("told of %d bytes of %d", told, len(good))
	}
	for name, mode := range map[string]os.FileMode{"bin/go": 0o755, "pkg/tool/linux_amd64/compile": 0o755, "src/go.mod": 0o644, "src/a/a.go": 0o644} {
		if fi, err := os.Stat(filepath.Join(goroot, name)); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, fi, err, mode)
		}
	}

	// A damaged archive is fetched again.
	archive := filepath.Join(cache, "toolchain", "go1.26.8.linux-amd64.zip")
	if err := errors.Join(os.Truncate(archive, 50), os.RemoveAll(goroot)); err != nil {
		t.Fatal(err)
	}
	if again, _, err := FetchToolchain(t.Context(), s.proxy(), "go1.26.8", want, cache); err != nil || again != goroot {
		t.Fatalf("after damage: %s, %v", again, err)
	}

	// What is unpacked needs no proxy.
	s.Close()
	if again, _, err := FetchToolchain(t.Context(), s.proxy(), "go1.26.8", want, cache); err != nil || again != goroot {
		t.Errorf("without a proxy: %s, %v", again, err)
	}
}

func TestBadToolchains(t *testing.T) {
	good := pack(t, toolchain, toolchainFiles())
	with := func(name string) []byte {
		f := toolchainFiles()
		f[name] = "x"
		return pack(t, toolchain, f)
	}
	for _, c := range []struct {
		name, version, h1, want string
		archive                 []byte
	}{
		{"altered", "go1.26.8", h1(t, good), "digest mismatch", with("more")},
		{"not a hash", "go1.26.8", "sha256:00", "not an h1 hash", good},
		{"not a version", "../x", "", "not a version", good},
		{"not a zip", "go1.26.8", "", "cannot read the archive", []byte("<html>")},
		{"absent", "go1.26.9", "", "not found", good},
		{"climbs", "go1.26.8", "", "not a file of", with("../../evil")},
		{"absolute", "go1.26.8", "", "not a file of", with("/evil")},
		{"other module", "go1.26.8", "", "not a file of", pack(t, "golang.org/other@v1.0.0/", toolchainFiles())},
		{"no go command", "go1.26.8", "", "holds no go command", pack(t, toolchain, map[string]string{"VERSION": "x"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, map[string][]byte{zipPath: c.archive})
			cache := t.TempDir()
			_, _, err := FetchToolchain(t.Context(), s.proxy(), c.version, c.h1, cache)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			left, _ := filepath.Glob(filepath.Join(cache, "toolchain", "go1*"))
			hidden, _ := filepath.Glob(filepath.Join(cache, "toolchain", ".*"))
			if len(left)+len(hidden) != 0 {
				t.Errorf("left behind: %v %v", left, hidden)
			}
		})
	}
}

func TestProxiesInTurn(t *testing.T) {
	good := pack(t, toolchain, toolchainFiles())
	s := serve(t, map[string][]byte{zipPath: good})
	none := serve(t, map[string][]byte{})
	gone := serve(t, nil)
	gone.Close()
	fetch := func(urls string) error {
		_, _, err := FetchToolchain(t.Context(), Proxy{URLs: urls}, "go1.26.8", "", t.TempDir())
		return err
	}
	if err := fetch(none.URL + "," + s.URL + ",direct"); err != nil {
		t.Errorf("next after not found: %v", err)
	}
	if err := fetch(gone.URL + "|" + s.URL); err != nil {
		t.Errorf("next after any error: %v", err)
	}
	if err := fetch(strings.Replace(gone.URL, "http://", "http://user:secret@", 1) + "," + s.URL); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v; want one without the password", err)
	}
	dir := t.TempDir()
	name := filepath.Join(dir, filepath.FromSlash(zipPath))
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, good, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := fetch("file://" + dir); err != nil {
		t.Errorf("from a directory: %v", err)
	}
}

func TestConfig(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	goEnv := func() (map[string]string, error) {
		return map[string]string{"GOPROXY": "https://go.example", "GONOSUMDB": "corp.example"}, nil
	}
	for _, c := range []struct {
		name, site, want string
		env              map[string]string
		goEnv            func() (map[string]string, error)
	}{
		{"site first", "https://site.example", "https://site.example", map[string]string{"GOPROXY": "https://env.example"}, goEnv},
		{"then environment", "", "https://env.example", map[string]string{"GOPROXY": "https://env.example"}, goEnv},
		{"then go env", "", "https://go.example", nil, goEnv},
	} {
		p, err := Config(env(c.env), c.goEnv, c.site)
		if err != nil || p.URLs != c.want || !slices.Contains(p.Env, "GONOSUMDB=corp.example") {
			t.Errorf("%s: %+v, %v; want %s", c.name, p, err, c.want)
		}
	}
	for _, bad := range []string{"", "off", "direct", "ftp://x", "https://%zz"} {
		if _, err := Config(env(map[string]string{"GOPROXY": bad}), nil, ""); err == nil || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("GOPROXY=%q: error is %v, want one with a hint", bad, err)
		}
	}
}

// dependency is a module of one package, and a recipe that requires it.
func dependency(t *testing.T) (gobuild.Recipe, map[string][]byte) {
	t.Helper()
	mod := "module example.org/dep\n\ngo 1.26.0\n"
	archive := pack(t, "example.org/dep@v1.0.0/", map[string]string{"go.mod": mod, "dep.go": "package dep\n\nconst Word = \"word\"\n"})
	modSum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(mod)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"/example.org/dep/@v/v1.0.0.info": []byte(`{"Version":"v1.0.0"}`),
		"/example.org/dep/@v/v1.0.0.mod":  []byte(mod),
		"/example.org/dep/@v/v1.0.0.zip":  archive,
	}
	return gobuild.Recipe{
		Name: "word",
		Files: map[string][]byte{
			"go.mod":  []byte("module example.org/word\n\ngo 1.26.0\n\nrequire example.org/dep v1.0.0\n"),
			"go.sum":  []byte("example.org/dep v1.0.0 " + h1(t, archive) + "\nexample.org/dep v1.0.0/go.mod " + modSum + "\n"),
			"main.go": []byte("package main\n\nimport \"example.org/dep\"\n\nfunc main() { println(dep.Word) }\n"),
		},
		Programs: []gobuild.Program{{Name: "word", Package: "."}},
	}, files
}

func hostGo(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to fetch with")
	}
	b, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestFetchModules(t *testing.T) {
	goroot := hostGo(t)
	recipe, files := dependency(t)
	s := serve(t, files)
	cache := t.TempDir()
	offline := func() error { return Offline(t.Context(), goroot, recipe, cache, nil) }
	if err := offline(); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "example.org/dep@v1.0.0") {
		t.Errorf("before: error is %v, want ErrMissing that names the module", err)
	}
	fetch := func() error { return FetchModules(t.Context(), goroot, s.proxy(), recipe, cache, nil, nil) }
	if err := errors.Join(fetch(), offline()); err != nil {
		t.Fatal(err)
	}

	// An altered file in the cache is noticed, and fetched again.
	name := filepath.Join(ModCache(cache), "example.org", "dep@v1.0.0", "dep.go")
	if err := os.WriteFile(name, []byte("package dep\n\nconst Word = \"evil\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := offline(); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("altered: error is %v, want ErrMismatch", err)
	}
	if err := errors.Join(fetch(), offline()); err != nil {
		t.Errorf("after an alteration: %v", err)
	}

	// All is there: no network.
	s.Close()
	if err := fetch(); err != nil {
		t.Errorf("without a proxy: %v", err)
	}
	in := gobuild.Inputs{GoRoot: goroot, ModCache: ModCache(cache), BuildCache: t.TempDir(), OutDir: t.TempDir()}
	if _, err := gobuild.Build(t.Context(), recipe, in, nil); err != nil {
		t.Error(err)
	}
}

// A module that the recipe itself holds is not fetched.
func TestReplacedByDirectory(t *testing.T) {
	goroot := hostGo(t)
	recipe, _ := dependency(t)
	recipe.Files["go.mod"] = append(recipe.Files["go.mod"], "\nreplace example.org/dep => ./own\n"...)
	recipe.Files["go.sum"] = nil
	recipe.Files["own/go.mod"] = []byte("module example.org/dep\n\ngo 1.26.0\n")
	recipe.Files["own/dep.go"] = []byte("package dep\n\nconst Word = \"own\"\n")
	cache := t.TempDir()
	if err := FetchModules(t.Context(), goroot, serve(t, nil).proxy(), recipe, cache, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := Offline(t.Context(), goroot, recipe, cache, NewChecks(cache, false)); err != nil {
		t.Error(err)
	}
	in := gobuild.Inputs{GoRoot: goroot, ModCache: ModCache(cache), BuildCache: t.TempDir(), OutDir: t.TempDir()}
	programs, err := gobuild.Build(t.Context(), recipe, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ms, err := gobuild.Modules(programs); err != nil || len(ms) != 1 || ms[0].Path != "std" {
		t.Errorf("modules are %v, %v", ms, err)
	}
}

func TestBadModules(t *testing.T) {
	goroot := hostGo(t)
	for _, c := range []struct {
		name, want string
		change     func(gobuild.Recipe, map[string][]byte)
	}{
		{"other bytes", "digest mismatch", func(_ gobuild.Recipe, f map[string][]byte) {
			f["/example.org/dep/@v/v1.0.0.zip"] = pack(t, "example.org/dep@v1.0.0/", map[string]string{"dep.go": "package dep\n"})
		}},
		{"not there", "not found:\ngo: example.org/dep@v1.0.0", func(_ gobuild.Recipe, f map[string][]byte) { clear(f) }},
		{"not in go.sum", "go.sum lacks example.org/dep@v1.0.0", func(r gobuild.Recipe, _ map[string][]byte) { r.Files["go.sum"] = nil }},
		{"a directory", "by a directory, ./dep, which is no module of the recipe", func(r gobuild.Recipe, _ map[string][]byte) {
			r.Files["go.mod"] = append(r.Files["go.mod"], "\nreplace example.org/dep => ./dep\n"...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			recipe, files := dependency(t)
			c.change(recipe, files)
			err := FetchModules(t.Context(), goroot, serve(t, files).proxy(), recipe, t.TempDir(), nil, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}
