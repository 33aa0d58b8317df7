package gobuild

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap/store"
)

// host returns the toolchain and module cache that run this test.
func host(t *testing.T) Inputs {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to compile with")
	}
	b, err := exec.Command("go", "env", "GOROOT", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b))
	return Inputs{GoRoot: f[0], ModCache: f[1], BuildCache: f[2], OutDir: t.TempDir(), Epoch: 1}
}

func hello() Recipe {
	return Recipe{
		Name: "hello",
		Files: map[string][]byte{
			"go.mod":         []byte("module example.org/hello\n\ngo 1.26.0\n"),
			"main.go":        []byte("package main\n\nvar date string\n\nfunc main() { println(date) }\n"),
			"cmd/bye/bye.go": []byte("package main\n\nfunc main() { println(\"bye\") }\n"),
		},
		Programs: []Program{
			{Name: "hello", Package: ".", LDFlags: "-X main.date=" + BuildDate},
			{Name: "bye", Package: "./cmd/bye"},
			{Name: "ciao", Package: "./cmd/bye"},
		},
	}
}

// withMod needs golang.org/x/mod, which holdfast itself requires.
func withMod(t *testing.T) Recipe {
	t.Helper()
	sums, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	var sum []byte
	for line := range bytes.Lines(sums) {
		if bytes.HasPrefix(line, []byte("golang.org/x/mod v0.42.0")) {
			sum = append(sum, line...)
		}
	}
	return Recipe{
		Name: "semver",
		Files: map[string][]byte{
			"go.mod":  []byte("module example.org/semver\n\ngo 1.26.0\n\nrequire golang.org/x/mod v0.42.0\n"),
			"go.sum":  sum,
			"main.go": []byte("package main\n\nimport \"golang.org/x/mod/semver\"\n\nfunc main() { println(semver.Max(\"v1.0.0\", \"v1.2.0\")) }\n"),
		},
		Programs: []Program{{Name: "semver", Package: "."}},
	}
}

func build(t *testing.T, r Recipe, in Inputs) map[string]string {
	t.Helper()
	paths, err := Build(t.Context(), r, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestSameBytesWhereverItIsBuilt(t *testing.T) {
	a, b := host(t), host(t)
	b.BuildCache = t.TempDir()
	b.OutDir = filepath.Join(b.OutDir, "deeper", "place")
	first := build(t, hello(), a)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	second := build(t, hello(), b)
	if len(first) != 3 || len(second) != 3 {
		t.Fatalf("built %v and %v, want three programs each", first, second)
	}
	for name := range first {
		x, err := os.ReadFile(first[name])
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(second[name])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("%s differs", name)
		}
		if fi, err := os.Stat(second[name]); err != nil || fi.Mode() != 0o755 {
			t.Errorf("%s: mode %v, %v; want 0755", name, fi.Mode(), err)
		}
		if bytes.Contains(x, []byte(a.OutDir)) {
			t.Errorf("%s names the directory it was built in", name)
		}
	}
	out, err := exec.Command(second["hello"]).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "1970-01-01T00:00:01Z" {
		t.Errorf("hello says %q, %v; want the build's epoch", got, err)
	}
}

func TestResultsAreReusedOnlyWhole(t *testing.T) {
	in := host(t)
	r := hello()
	first := build(t, r, in)
	stamp := func() time.Time {
		fi, err := os.Stat(first["bye"])
		if err != nil {
			t.Fatal(err)
		}
		return fi.ModTime()
	}
	before := stamp()
	if again := build(t, r, in); again["bye"] != first["bye"] || !stamp().Equal(before) {
		t.Error("a whole result was not reused")
	}
	good := store.FromBytes(read(t, first["bye"]))
	if err := os.Truncate(first["bye"], 10); err != nil {
		t.Fatal(err)
	}
	if build(t, r, in); store.FromBytes(read(t, first["bye"])) != good {
		t.Error("a damaged program was not made again")
	}
	in.Epoch++
	if later := build(t, r, in); later["hello"] == first["hello"] {
		t.Error("another epoch gave the same result for a program that tells it")
	}
	if x, y := withMod(t), withMod(t); x.Digest() != y.Digest() || x.Digest() == r.Digest() {
		t.Error("digests do not tell recipes apart")
	}
}

func TestModules(t *testing.T) {
	in := host(t)
	mods, err := Modules(build(t, withMod(t), in))
	if err != nil {
		t.Fatal(err)
	}
	if len(mods) != 2 || mods[0].Path != "golang.org/x/mod" || mods[0].Version != "v0.42.0" ||
		!strings.HasPrefix(mods[0].H1, "h1:") || mods[1].Path != "std" || mods[1].Programs[0] != "semver" {
		t.Errorf("modules are %+v", mods)
	}
}

func TestBadRecipes(t *testing.T) {
	in := host(t)
	for _, c := range []struct {
		name, want string
		change     func(*Recipe)
	}{
		{"no go.mod", "no go.mod", func(r *Recipe) { delete(r.Files, "go.mod") }},
		{"file outside", "clean path", func(r *Recipe) { r.Files["../x.go"] = nil }},
		{"no programs", "no program", func(r *Recipe) { r.Programs = nil }},
		{"twice", "twice", func(r *Recipe) { r.Programs[1].Name = "hello" }},
		{"many packages", "not one package", func(r *Recipe) { r.Programs[1].Package = "./..." }},
		{"flag as package", "not one package", func(r *Recipe) { r.Programs[1].Package = "-toolexec" }},
		{"other linker", "another linker", func(r *Recipe) { r.Programs[1].LDFlags = "-extld=evil" }},
		{"does not compile", "undefined: nothing", func(r *Recipe) { r.Files["main.go"] = []byte("package main\n\nfunc main() { nothing() }\n") }},
		{"not a program", "made no program hello", func(r *Recipe) { r.Files["main.go"] = []byte("package lib\n") }},
		{"newer Go", "go.mod requires go >= 1.99", func(r *Recipe) { r.Files["go.mod"] = []byte("module example.org/hello\n\ngo 1.99\n") }},
		{"incomplete go.mod", "go mod tidy", func(r *Recipe) { r.Files["main.go"] = withMod(t).Files["main.go"] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := hello()
			c.change(&r)
			_, err := Build(t.Context(), r, in, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			empty(t, in.OutDir)
		})
	}
}

func TestMissingModule(t *testing.T) {
	in := host(t)
	in.ModCache = t.TempDir()
	_, err := Build(t.Context(), withMod(t), in, nil)
	if !errors.Is(err, ErrMissingModule) || !strings.Contains(err.Error(), "missing: golang.org/x/mod v0.42.0") ||
		!strings.Contains(err.Error(), "hint: run \"holdfast collect\"") {
		t.Errorf("error is %v, want ErrMissingModule with the module and a hint", err)
	}
	empty(t, in.OutDir)
}

func TestCancelled(t *testing.T) {
	in := host(t)
	in.BuildCache = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Build(ctx, hello(), in, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want a deadline", err)
	}
	empty(t, in.OutDir)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
