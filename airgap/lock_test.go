package airgap_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/gobuild"
)

func content(b string) store.Content {
	return store.Content{Digest: store.FromBytes([]byte(b)), Size: int64(len(b))}
}

func pack(name, version string, scripts ...airgap.Script) airgap.Package {
	return airgap.Package{Name: name, Version: version, Arch: "amd64", Archive: "debian", Path: "pool/" + name + ".deb", Content: content(name + version), Scripts: scripts}
}

func request() airgap.Request {
	return airgap.Request{
		Suite: "trixie", Sections: []string{"main"},
		Sets:       []airgap.Want{{Name: "os", Packages: []string{"bash"}}},
		Recipes:    []gobuild.Recipe{{Name: "etcd", Files: map[string][]byte{"go.mod": []byte("module etcd\n")}}},
		Components: []airgap.Component{{Name: "postgresql", Origin: "source", Digest: store.FromBytes([]byte("p"))}},
		Files:      []airgap.File{{Name: "trust/policy.json", Content: content("{}")}},
	}
}

// locked fits request.
func locked() airgap.Lock {
	r := request()
	return airgap.Lock{
		APIVersion: "holdfast/v1alpha1", Kind: "SiteLock", Epoch: 1700000000,
		Toolchain:  airgap.Toolchain{Version: airgap.GoVersion, H1: airgap.GoH1},
		Sets:       []airgap.Set{{Name: "os", Want: []string{"bash"}, Packages: []string{"bash=1", "libc6=2"}}},
		Packages:   []airgap.Package{pack("bash", "1", airgap.Script{Name: "postinst", Digest: store.FromBytes(nil), Verdict: airgap.Unreviewed}), pack("libc6", "2")},
		Recipes:    []airgap.Recipe{{Name: "etcd", Digest: r.Recipes[0].Digest(), GoMod: store.FromBytes([]byte("module etcd\n"))}},
		Components: r.Components,
		Files:      r.Files,
	}
}

func TestLockRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if err := locked().Write(dir); err != nil {
		t.Fatal(err)
	}
	l, err := airgap.ReadLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, airgap.LockName))
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("read and written again, it differs: %v\n%s\n%s", err, a, b)
	}
	if err := request().Fits(l); err != nil {
		t.Error(err)
	}
	ps, err := l.PackagesOf("os")
	if err != nil || len(ps) != 2 || ps[0].ID() != "bash=1" {
		t.Errorf("got %v, %v", ps, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// A lock that cannot be right is refused, each fault named.
func TestReadLockRefuses(t *testing.T) {
	b, err := locked().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	for name, c := range map[string]struct{ old, new, want string }{
		"another kind":      {"kind: SiteLock", "kind: Site", "not holdfast/v1alpha1 SiteLock"},
		"unknown field":     {"kind: SiteLock", "kind: SiteLock\nmirror: x", "mirror"},
		"not YAML":          {"kind: SiteLock", "kind: [", "cannot "},
		"short digest":      {string(content("bash1").Digest), "sha256:12", "bash=1"},
		"leaves archive":    {"path: pool/bash.deb", "path: pool/../../bash.deb", "leaves the archive"},
		"absolute path":     {"path: pool/bash.deb", "path: /bash.deb", "leaves the archive"},
		"edited packages":   {"- libc6=2\n", "- libc6=3\n", `cannot find package libc6=3 of set "os"`},
		"negative size":     {"size: 5", "size: -5", "negative size"},
		"a size of letters": {"size: 5", "size: many", "cannot "},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("%s: %q is not in\n%s", name, c.old, good)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, airgap.LockName), []byte(strings.Replace(good, c.old, c.new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := airgap.ReadLock(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// All that does not fit comes at once.
func TestFits(t *testing.T) {
	l := locked()
	l.Sets[0].Want = []string{"dash"}
	l.Sets = append(l.Sets, airgap.Set{Name: "image/old:1"})
	l.Toolchain.Version = "go1.20"
	l.Recipes[0].Digest = store.FromBytes([]byte("another"))
	l.Components = nil
	l.Files = []airgap.File{{Name: "trust/policy.json", Content: content("{ }")}, {Name: "manifests/old.yaml", Content: content("")}}
	err := request().Fits(l)
	if err == nil {
		t.Fatal("it fits")
	}
	for _, want := range []string{
		"package set os asks for other packages", "package sets that the site does not ask for any more", "toolchain go1.20 is locked",
		"recipes are not those of this holdfast: etcd", "components are not those of site.yaml and this holdfast: postgresql", "file trust/policy.json is not the one that was locked",
		"file manifests/old.yaml is locked and is not there", `hint: run "holdfast lock"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q:\n%v", want, err)
		}
	}
	if err := request().Fits(airgap.Lock{}); err == nil || !strings.Contains(err.Error(), "package set os is not locked") {
		t.Errorf("an empty lock: %v", err)
	}
}

func TestChanges(t *testing.T) {
	was, is := locked(), locked()
	is.Packages = []airgap.Package{pack("bash", "3"), pack("dash", "1")}
	want := []string{"bash moved from 1 to 3", "dash 1 is new", "libc6 2 is no longer needed"}
	if got := was.Changes(is); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	image := func(name, of string) airgap.Image {
		return airgap.Image{Name: name, Content: store.Content{Digest: store.FromBytes([]byte(of))}}
	}
	chart := func(name, of string) airgap.Chart {
		return airgap.Chart{Name: name, Content: store.Content{Digest: store.FromBytes([]byte(of))}}
	}
	was.Images, is.Images = []airgap.Image{image("app", "1"), image("old", "1"), image("same", "1")}, []airgap.Image{image("app", "2"), image("fresh", "1"), image("same", "1")}
	was.Charts, is.Charts = []airgap.Chart{chart("shop", "1")}, []airgap.Chart{chart("shop", "2")}
	moved := fmt.Sprintf("moved from %s to %s", store.FromBytes([]byte("1")), store.FromBytes([]byte("2")))
	want = append(want, "image app "+moved, "image fresh is new", "image old is no longer needed", "chart shop "+moved)
	if got := was.Changes(is); !slices.Equal(got, want) {
		t.Errorf("with images and charts: got %q", got)
	}
	if got := was.Changes(was); got != nil {
		t.Errorf("no change: %q", got)
	}
	if got := (airgap.Lock{}).Changes(is); got != nil {
		t.Errorf("the first lock: %q", got)
	}
}

func TestAcceptScripts(t *testing.T) {
	l := locked()
	accepted := l.AcceptScripts()
	if got := accepted.UnreviewedScripts(); got != nil {
		t.Errorf("still %q", got)
	}
	if got := accepted.Packages[0].Scripts[0].Verdict; got != "accepted unread" {
		t.Errorf("the lock says %q", got)
	}
	if got := l.UnreviewedScripts(); !slices.Equal(got, []string{"bash=1:postinst"}) {
		t.Errorf("the caller's lock was changed: %q", got)
	}
}

// A lock that fits is given back without a network, with new verdicts: a script
// that was accepted unread and is reviewed later takes the reviewers' word.
func TestResolveWithoutNetwork(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := request()
	r.Files = append(r.Files, airgap.File{Name: "manifests/new.yaml", Content: content("new")})
	l, err := airgap.Resolve(t.Context(), r, locked().AcceptScripts(), airgap.Network{}, s, airgap.Options{
		Verdict: func(pkg, _, script string, _ store.Digest) string { return "ignored: " + pkg + " " + script },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Fits(l); err != nil {
		t.Error(err)
	}
	if got := l.Packages[0].Scripts[0].Verdict; got != "ignored: bash postinst" {
		t.Errorf("the verdict is %q", got)
	}
}

func TestCollectNeeds(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := locked()
	before, err := airgap.CollectNeeds(l, nil, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(l.Packages[0].Content, strings.NewReader("bash1")); err != nil {
		t.Fatal(err)
	}
	after, err := airgap.CollectNeeds(l, nil, s)
	if err != nil {
		t.Fatal(err)
	}
	if before.Items != 2 || after.Items != 1 || before.Missing-after.Missing != 5*5 || after.Free <= 0 {
		t.Errorf("needed before %+v, after %+v", before, after)
	}
	withRecipe, err := airgap.CollectNeeds(l, request().Recipes, s)
	if err != nil || withRecipe.Missing <= after.Missing {
		t.Errorf("a recipe takes no space: %+v, %v", withRecipe, err)
	}
}

func TestLocalFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err := airgap.LocalFile(dir, "a"); err != nil || f.Content != content("abc") || f.Name != "a" {
		t.Errorf("got %v, %v", f, err)
	}
	if _, err := airgap.LocalFile(dir, "b"); err == nil {
		t.Error("a file that is not there")
	}
}

func FuzzReadLock(f *testing.F) {
	b, err := locked().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, airgap.LockName), b, 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := airgap.ReadLock(dir)
		if err != nil {
			return
		}
		// What is taken can be used: every set has its packages.
		for _, s := range l.Sets {
			if _, err := l.PackagesOf(s.Name); err != nil {
				t.Error(err)
			}
		}
	})
}
