package maven

import (
	"archive/zip"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	fetch "holdfast.dev/holdfast/airgap/origin/http"
	"holdfast.dev/holdfast/airgap/store"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func settings(of, url, more string) string {
	return "<settings><mirrors><mirror><id>m</id><mirrorOf>" + of + "</mirrorOf><url>" + url + "</url>" + more + "</mirror></mirrors></settings>"
}

// install makes the two files of a Maven that say where it fetches from.
func install(t *testing.T, settings string) string {
	home := t.TempDir()
	write(t, home+"/conf/settings.xml", settings)
	f, err := os.Create(write(t, home+"/lib/maven-model-builder-3.8.7.jar", ""))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	w, err := z.Create("org/apache/maven/model/pom-4.0.0.xml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(`<project xmlns="http://maven.example"><repositories><repository><id>central</id><url>https://built-in.example/maven2</url></repository></repositories></project>`)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return home
}

func TestRepositories(t *testing.T) {
	user := write(t, t.TempDir()+"/settings.xml", settings("central", "https://user.example/m2/", ""))
	all := Host{Settings: user, Home: install(t, settings("*", "https://installed.example", ""))}
	for _, c := range []struct {
		name string
		site []string
		env  string
		host Host
		want string
	}{
		{"the site first", []string{"https://a.example/x/", "file:///mnt/maven"}, "https://env.example", all, "https://a.example/x file:///mnt/maven"},
		{"then the environment", nil, "https://env.example https://env2.example", all, "https://env.example https://env2.example"},
		{"then the user's settings", nil, "", all, "https://user.example/m2"},
		{"then the installed ones", nil, "", Host{Home: all.Home}, "https://installed.example"},
		{"a blocked mirror is none", nil, "", Host{Home: install(t, settings("*", "http://0.0.0.0", "<blocked>true</blocked>"))}, "https://built-in.example/maven2"},
		{"a mirror of others is none", nil, "", Host{Home: install(t, settings("*,!central", "https://b.example", ""))}, "https://built-in.example/maven2"},
		{"no settings, no Maven", nil, "", Host{Settings: user + ".missing"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Repositories(func(string) string { return c.env }, c.host, c.site)
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
	noEnv := func(string) string { return "" }
	if _, err := Repositories(noEnv, Host{}, []string{"ftp://a.example"}); err == nil || !strings.Contains(err.Error(), `"ftp://a.example"`) {
		t.Errorf("error is %v", err)
	}
	if _, err := Repositories(noEnv, Host{Settings: write(t, t.TempDir()+"/s.xml", "<settings>")}, nil); err == nil {
		t.Error("half a settings file is accepted")
	}
}

func TestPath(t *testing.T) {
	got, err := Path("org.example:server-dist:1.2.3:tar.gz")
	if want := "org/example/server-dist/1.2.3/server-dist-1.2.3.tar.gz"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", "a:b:c", "a:b:../c:jar", "a/b:c:1:jar", "a:b:1:tar.gz/../x", "a:b..c:1:jar"} {
		if p, err := Path(bad); err == nil {
			t.Errorf("%q is at %q", bad, p)
		}
	}
}

func TestFetch(t *testing.T) {
	const name, text = "org.example:dist:1:jar", "an artifact"
	item := Item{Name: name, Content: store.Content{Digest: store.FromBytes([]byte(text)), Size: int64(len(text))}}
	var asked []string
	serve := func(body string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			if body == "" {
				http.NotFound(w, r)
				return
			}
			w.Write([]byte(body))
		}))
		t.Cleanup(srv.Close)
		return srv.URL + "/m2"
	}
	good, lacks, lies := serve(text), serve(""), serve("not artifact")
	for _, c := range []struct {
		name  string
		repos []string
		want  string // in the error
	}{
		{"the next one has it", []string{lacks, good}, ""},
		{"nobody has it", []string{lacks}, "mirrors.maven"},
		{"other bytes", []string{lies}, "digest mismatch"},
		{"nowhere to ask", nil, "no Maven repository known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := store.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			err = Fetch(t.Context(), &Client{Repositories: c.repos, Client: fetch.Client{Backoff: 1}}, s, []Item{item}, nil)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if (s.Check(item.Content) == nil) != (c.want == "") {
				t.Error("what is in the store is not what was promised")
			}
			// What is there needs nobody.
			if c.want == "" {
				if err := Fetch(t.Context(), nil, s, []Item{item}, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if !slices.Contains(asked, "/m2/org/example/dist/1/dist-1.jar") {
		t.Errorf("asked for %v", asked)
	}
}
