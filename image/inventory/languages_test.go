package inventory_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/inventory"
)

// jar is an archive of Java's; names and texts in turn.
func jar(t testing.TB, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		f, err := w.Create(files[i])
		if err == nil {
			_, err = io.WriteString(f, files[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const pom = "#Generated\r\ngroupId=org.example\r\nartifactId=core\r\nversion=1.2.3\r\n"

func TestLanguages(t *testing.T) {
	core := jar(t, "META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n", "META-INF/maven/org.example/core/pom.properties", pom, "x.class", "x")
	for _, c := range []struct {
		file, text string
		want       []string
	}{
		{"app/node_modules/express/package.json", `{"name":"express","version":"4.19.2"}`, []string{"npm express 4.19.2"}},
		{"app/node_modules/@babel/core/package.json", `{"name":"@babel/core","version":"7.0.0-rc.1"}`, []string{"npm @babel/core 7.0.0-rc.1"}},
		{"app/node_modules/a/node_modules/b/package.json", `{"name":"b","version":"1.0.0"}`, []string{"npm b 1.0.0"}},
		{"app/package.json", `{"name":"mine","version":"1.0.0"}`, nil},
		{"app/node_modules/express/lib/package.json", `{"type":"module"}`, nil},
		{"app/node_modules/private/package.json", `{"private":true}`, nil},
		{"usr/lib/python3/dist-packages/Foo_Bar-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.0+local\n\nVersion: 2.0\n", []string{"pypi foo-bar 1.0+local"}},
		{"usr/lib/python3/dist-packages/six.egg-info/PKG-INFO", "Name: six\nVersion: 1.16.0\n", []string{"pypi six 1.16.0"}},
		{"usr/lib/python3/dist-packages/six-1.16.0.egg-info", "Name: six\nVersion: 1.16.0\n", []string{"pypi six 1.16.0"}},
		{"usr/lib/ruby/gems/3.1.0/specifications/rake-13.0.6.gemspec", "Gem::Specification.new do |s|\n  s.name = \"rake\".freeze\n  s.version = \"13.0.6\"\nend\n", []string{"gem rake 13.0.6"}},
		{"opt/app/core.jar", core, []string{"maven org.example:core 1.2.3"}},
		{"opt/app/lib/guava-33.1-jre.jar", jar(t, "x.class", "x"), []string{"maven guava 33.1-jre"}},
		{"opt/app/lib/old.jar", jar(t, "META-INF/MANIFEST.MF", "Implementation-Version: 7\r\n"), []string{"maven old 7"}},
		{"opt/app/lib/nameless.jar", jar(t, "x.class", "x"), nil},
		{"opt/app/all.jar", jar(t, "META-INF/maven/org.example/core/pom.properties", pom,
			"META-INF/maven/org.example/more/pom.properties", strings.Replace(pom, "=core", "=more", 1)), []string{"maven org.example:core 1.2.3", "maven org.example:more 1.2.3"}},
		{"opt/app/boot-1.jar", jar(t, "META-INF/MANIFEST.MF", "Implementation-Version: 1\n", "BOOT-INF/lib/core.jar", core), []string{"maven org.example:core 1.2.3"}},
		{"opt/app/site.war", jar(t, "WEB-INF/lib/core.jar", core), []string{"maven org.example:core 1.2.3"}},
	} {
		got := contents(t, layer(t, entry{name: c.file, text: c.text}))
		if g := names(got); !slices.Equal(g, c.want) && len(g)+len(c.want) > 0 {
			t.Errorf("%s: got %q, want %q", c.file, g, c.want)
		}
	}
	c := contents(t, layer(t, entry{name: "a/node_modules/b/package.json", text: `{"name":"b","version":"1.0.0"}`}, entry{name: "c/node_modules/b/package.json", text: `{"name":"b","version":"1.0.0"}`}))
	if !slices.Equal(c.Notes, []string{"2 files of npm: 1 packages"}) || len(c.Packages) != 1 {
		t.Errorf("got %+v", c)
	}
	// What a higher layer takes away is not there.
	c = contents(t, layer(t, entry{name: "opt/core.jar", text: core}), layer(t, entry{name: "opt/.wh.core.jar"}))
	if len(c.Packages) > 0 {
		t.Errorf("got %+v", c)
	}
}

// What cannot be understood is said; nothing of it stands in the list, and no
// archive takes more than it may.
func TestBadLanguages(t *testing.T) {
	many := make([]string, 0, 200_000)
	for range cap(many) / 2 {
		many = append(many, strings.Repeat("x", 80), "")
	}
	long := jar(t, many...) // a directory of 12 MB
	understated := []byte(jar(t, append([]string{}, many...)...))
	end := bytes.LastIndex(understated, []byte("PK\x05\x06"))
	binary.LittleEndian.PutUint32(understated[end+12:], 100) // says that its directory is short
	bomb := jar(t, "lib/a.jar", strings.Repeat("\x00", 80<<20))
	nested := jar(t, "META-INF/maven/org.example/core/pom.properties", pom)
	for range 8 {
		nested = jar(t, "inner.jar", nested)
	}
	for name, c := range map[string]struct{ file, text, note string }{
		"not JSON":                {"node_modules/x/package.json", "{", "package.json that is not JSON"},
		"a name for a terminal":   {"node_modules/x/package.json", `{"name":"x\u001b[2J","version":"1"}`, "could not be understood"},
		"a path for a name":       {"node_modules/x/package.json", `{"name":"../../x","version":"1"}`, "could not be understood"},
		"no archive":              {"x.jar", strings.Repeat("x", 200), "could not be looked into"},
		"an empty one":            {"x.jar", "", "could not be looked into"},
		"a cut one":               {"x.jar", long[:len(long)-100], "could not be looked into"},
		"a long directory":        {"x.jar", long, "could not be looked into"},
		"one that says it is not": {"x.jar", string(understated), "could not be looked into"},
		"a bomb":                  {"x.jar", bomb, "1 parts could not be understood"},
		"a group for a terminal":  {"x.jar", jar(t, "META-INF/maven/a/b/pom.properties", "groupId=\x1b\nartifactId=b\nversion=1\n"), "could not be understood"},
		"no version":              {"x.jar", jar(t, "META-INF/maven/a/b/pom.properties", "groupId=a\nartifactId=b\n"), "could not be understood"},
	} {
		got := contents(t, layer(t, entry{name: c.file, text: c.text}))
		if len(got.Packages) > 0 || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], c.note) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got := contents(t, layer(t, entry{name: "x.jar", text: nested})); len(got.Packages) > 0 {
		t.Errorf("deep inside: got %+v", got)
	}
	got := contents(t, layer(t, entry{name: "x.jar", text: jar(t, "a.jar", "no archive", "META-INF/maven/org.example/core/pom.properties", pom)}))
	if len(got.Packages) != 1 || !slices.Contains(got.Notes, "x.jar: an archive of Java's, of which 1 parts could not be understood") {
		t.Errorf("a part: got %+v", got)
	}
}

// The stock pip lists the same of what it installed.
func TestReferencePython(t *testing.T) {
	out, err := exec.Command("python3", "-m", "pip", "--version").CombinedOutput()
	if err != nil {
		t.Skipf("no pip: %v: %s", err, out)
	}
	dir := t.TempDir()
	for name, version := range map[string]string{"Some.Thing": "1.2", "other_thing": "0.1.dev3"} {
		wheel := filepath.Join(t.TempDir(), strings.ReplaceAll(strings.ToLower(name), ".", "_")+"-"+version+"-py3-none-any.whl")
		info := strings.TrimSuffix(filepath.Base(wheel), "-py3-none-any.whl") + ".dist-info/"
		text := jar(t, info+"METADATA", "Metadata-Version: 2.1\nName: "+name+"\nVersion: "+version+"\n", info+"WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n", info+"RECORD", "")
		if err := os.WriteFile(wheel, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("python3", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--root-user-action=ignore", "--target", dir, wheel).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, err = exec.Command("python3", "-m", "pip", "list", "--path", dir, "--format", "freeze").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		name, version, _ := strings.Cut(strings.TrimSpace(line), "==")
		want = append(want, "pypi "+strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))+" "+version)
	}
	slices.Sort(want)
	tarred, err := exec.Command("tar", "-C", dir, "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := names(contents(t, tarred)); !slices.Equal(got, want) || len(want) != 2 {
		t.Errorf("got %q, pip says %q", got, want)
	}
}

func FuzzJar(f *testing.F) {
	f.Add([]byte(jar(f, "META-INF/MANIFEST.MF", "Implementation-Version: 7\n", "META-INF/maven/org.example/core/pom.properties", pom)))
	f.Add([]byte(jar(f, "inner.jar", jar(f, "META-INF/maven/org.example/core/pom.properties", pom))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range contents(t, layer(t, entry{name: "a/x.jar", text: string(b)})).Packages {
			if p.Kind != inventory.Maven || p.Name == "" || strings.ContainsAny(p.Name+p.Version, " \n\x1b/") {
				t.Errorf("got %+v", p)
			}
		}
	})
}
