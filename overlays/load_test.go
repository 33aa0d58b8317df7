package overlays

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestGolden reads each testdata/*.yaml and compares the whole error text with
// the .want beside it; no fault means an empty one.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, faults, err := parseSite("site.yaml", data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s: took %s", name, d)
		}
		got := ""
		if err := joinFaults(faults); err != nil {
			got = err.Error() + "\n"
		}
		want := strings.TrimSuffix(name, ".yaml") + ".want"
		if *update {
			if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		b, err := os.ReadFile(want)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(b) {
			t.Errorf("%s:\ngot:\n%s\nwant:\n%s", name, got, b)
		}
		if good := strings.HasPrefix(filepath.Base(name), "good-"); good != (got == "") {
			t.Errorf("%s: good is %v, but the faults are:\n%s", name, good, got)
		}
	}
}

// site writes files into a new folder; site.yaml is a good one unless given.
func site(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	good, err := os.ReadFile("testdata/good-full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"site.yaml": string(good)}
	for name, data := range files {
		all[name] = data
	}
	for name, data := range all {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	s, err := Load(site(t, map[string]string{
		"manifests/b.yaml": cm, "manifests/a.yaml": cm + "---\n" + cm, "manifests/README.md": "hello",
		"trust/policy.json": "{}",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Manifests) != 2 || s.Manifests[0].Name != "a.yaml" || string(s.Manifests[1].Data) != cm {
		t.Errorf("manifests: %v", s.Manifests)
	}
	if s.Release != 1<<63-1 || s.OS.Kernel != "cloud" || s.Nodes[1].Match.MAC != "52:54:00:ab:66:02" ||
		s.Nodes[1].Role != "agent" || s.Nodes[0].NTP[0] != "10.0.2.3" {
		t.Errorf("site: %+v", s)
	}
}

func TestDefaults(t *testing.T) {
	small, err := os.ReadFile("testdata/good-small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(site(t, map[string]string{"site.yaml": string(small)}))
	if err != nil {
		t.Fatal(err)
	}
	if s.OS.Suite != "trixie" || s.OS.Kernel != "generic" || s.Nodes[0].Role != "server" {
		t.Errorf("site: %+v", s)
	}
}

func TestValidate(t *testing.T) {
	s, err := Load(site(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate([]string{"minio", "postgresql"}); err != nil {
		t.Error(err)
	}
	err = s.Validate([]string{"postgres", "minio"})
	for _, want := range []string{"site.yaml:14:11: components[0].name: no component \"postgresql\"", "did you mean \"postgres\"?", "^"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := (Site{Components: []Component{{Name: "x"}}}).Validate(nil); err == nil {
		t.Error("a site made in code was not checked")
	}
}

func TestNoSite(t *testing.T) {
	_, err := Load(t.TempDir())
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "holdfast init") {
		t.Error(err)
	}
}

// TestRefused: one bad file each; the error names it and says the words, and
// never shows what is secret.
func TestRefused(t *testing.T) {
	// In two parts, so that scanners of this repository do not find it.
	key := "-----BEGIN EC PRIVATE" + " KEY-----\nMHc-secret-\n"
	const secret = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\n"
	for name, c := range map[string]struct {
		file, data string
		want       []string
	}{
		"empty":             {"site.yaml", "", []string{"site.yaml: empty"}},
		"huge":              {"site.yaml", strings.Repeat("# huge\n", 200_000), []string{"1048576 bytes"}},
		"NUL":               {"site.yaml", "a: \x00", []string{"UTF-8"}},
		"latin-1":           {"site.yaml", "a: \xe4", []string{"UTF-8"}},
		"manifest empty":    {"manifests/a.yaml", "", []string{"a.yaml: empty"}},
		"manifest huge":     {"manifests/a.yaml", strings.Repeat("# huge\n", 700_000), []string{"4194304 bytes"}},
		"manifest text":     {"manifests/a.yaml", "hello", []string{"a.yaml:1:1: not a Kubernetes object"}},
		"manifest no kind":  {"manifests/a.yaml", "apiVersion: v1\nmetadata: {}", []string{"kind: missing", "metadata.name: missing"}},
		"manifest syntax":   {"manifests/a.yaml", "a: [", []string{"a.yaml:1:"}},
		"manifest yml":      {"manifests/a.yml", "x: y", []string{"a.yml: not a manifest"}},
		"manifest folder":   {"manifests/a/b.yaml", "x: y", []string{"manifests/a: not a manifest"}},
		"secret data":       {"manifests/a.yaml", secret + "data:\n  p: aGk-secret-\n", []string{"a.yaml:5:1: data: the Secret \"x\" has values", "hint: "}},
		"secret stringData": {"manifests/a.yaml", "---\n" + secret + "stringData: {p: -secret-}\n", []string{"a.yaml:6:1: stringData"}},
		"secret text":       {"manifests/a.yaml", secret + "stringData: -secret-\n", []string{"a.yaml:5:1: stringData"}},
		"secret in a list": {"manifests/a.yaml", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: x}\n  data: {a: -secret-}\n",
			[]string{"a.yaml:7:3: items[0].data"}},
		"key in trust":     {"trust/a/key.pem", "x\n" + key, []string{"key.pem:2:1: a private key"}},
		"key in manifests": {"manifests/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  k: |\n    " + key, []string{"a.yaml:6:5: a private key"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Load(site(t, map[string]string{c.file: c.data}))
			if err == nil || s.Name != "" {
				t.Fatalf("accepted: %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got:\n%v\nwant: %s", err, w)
				}
			}
			if strings.Contains(err.Error(), "-secret-") {
				t.Errorf("shows the secret:\n%v", err)
			}
		})
	}
}

func TestEmptySecretIsAccepted(t *testing.T) {
	if _, err := Load(site(t, map[string]string{
		"manifests/a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ndata: {}\nstringData:\n",
	})); err != nil {
		t.Error(err)
	}
}

func TestNotARegularFile(t *testing.T) {
	dir := site(t, nil)
	if err := os.MkdirAll(filepath.Join(dir, "trust"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "trust", "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

// TestHostileShapes: what makes parsers slow or deep ends soon, with a fault.
func TestHostileShapes(t *testing.T) {
	const n = 1 << 17
	for name, unit := range map[string]string{
		"brackets": "[", "braces": "{a: ", "dashes": "- ", "questions": "? ", "colons": "a: ", "tags": "!a ",
		"anchors": "&a ", "documents": "---\n", "keys": "a:\n", "quotes": "\"", "pipes": "|\n", "flow": "[],",
	} {
		start := time.Now()
		if _, faults, err := parseSite("site.yaml", bytes.Repeat([]byte(unit), n/len(unit))); err != nil || len(faults) == 0 {
			t.Errorf("%s: %v, %d faults", name, err, len(faults))
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s took %s", name, d)
		} else if testing.Verbose() {
			t.Log(name, d)
		}
	}
}

func TestZones(t *testing.T) {
	for name, want := range map[string]Rules{
		"official":           {1, false, true, false, "allowed", true},
		"official-sensitive": {2, false, false, true, "allowed", false},
		"secret":             {2, true, false, true, "forbidden", false},
	} {
		if got, err := Zone(name); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	if _, err := Zone("secrets"); err == nil || !strings.Contains(err.Error(), `did you mean "secret"?`) {
		t.Error(err)
	}
	for _, bad := range []string{"", "signers: 1\n", "signers: 1\nssh: allowed\nother: 1\n", "signers: 0\nssh: allowed\n", "signers: 1\nssh: maybe\n"} {
		if _, err := parseRules("x", []byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestInitFiles(t *testing.T) {
	files, err := InitFiles("demo", "source")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for name, b := range files {
		all[name] = string(b)
	}
	s, err := Load(site(t, all))
	if err != nil {
		t.Fatal(err)
	}
	n := s.Nodes[0]
	if s.Name != "demo" || s.Domain != "demo.example" || n.Match != (Match{"holdfast-lab-1", "52:54:00:68:66:01"}) ||
		s.Components[0] != (Component{"postgresql", "source"}) || s.Kubernetes.Engine != "kubeadm" {
		t.Errorf("site: %+v", s)
	}
	if len(files) != 3 || !strings.Contains(all[".gitignore"], "out/\n") || !strings.Contains(all[".gitignore"], "keys/\n") {
		t.Errorf("files: %v", all)
	}
	// What is commented out must be right too.
	open := strings.NewReplacer("# mirrors:", "mirrors:", "#   ", "  ", "    # disk", "    disk").Replace(all["site.yaml"])
	if s, err := Load(site(t, map[string]string{"site.yaml": open})); err != nil || s.Mirrors.GoProxy == "" || s.Nodes[0].Disk == "" {
		t.Error(err, s.Mirrors)
	}
	for _, c := range [][2]string{{"Demo", "source"}, {"", "source"}, {"demo", "upstream"}, {"demo", ""}} {
		if _, err := InitFiles(c[0], c[1]); err == nil {
			t.Errorf("accepted %v", c)
		}
	}
}

// The profile reference takes K3s and the platform from their projects, and what
// stands in the way of the platform is switched off.
func TestReferenceProfile(t *testing.T) {
	files, err := InitFiles("demo", "reference")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(site(t, map[string]string{"site.yaml": string(files["site.yaml"])}))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range s.Components {
		if names = append(names, c.Name); c.Origin != "upstream" {
			t.Errorf("%s is of origin %s", c.Name, c.Origin)
		}
	}
	for _, n := range []string{"harbor", "keycloak", "postgresql", "minio", "loki", "certificates", "ingress", "collector", "monitoring", "grafana"} {
		if !slices.Contains(names, n) {
			t.Errorf("no %s", n)
		}
	}
	k := s.Kubernetes
	if k.Engine != "k3s" || k.Has("coredns") || k.Has("traefik") || k.Has("servicelb") || !k.Has("local-storage") {
		t.Errorf("kubernetes: %+v", k)
	}
	// What is commented out must be right too.
	open := strings.NewReplacer("# mirrors:", "mirrors:", "#   ", "  ", "    # disk", "    disk", "  # files", "  files", "# backups", "backups").Replace(string(files["site.yaml"]))
	if s, err := Load(site(t, map[string]string{"site.yaml": open})); err != nil || len(s.Mirrors.Registries) != 2 || len(s.Mirrors.K3s) != 1 || s.Kubernetes.Files == "" || s.Backups.Keep != 7 {
		t.Error(err, s.Mirrors)
	}
}

// The examples are what init writes.
func TestExamplesAreProfiles(t *testing.T) {
	for _, profile := range []string{"source", "reference"} {
		files, err := InitFiles(profile, profile)
		if err != nil {
			t.Fatal(err)
		}
		delete(files, ".gitignore") // their keys are made by whoever tries them
		for name, want := range files {
			if got, err := os.ReadFile(filepath.Join("../examples", profile, name)); err != nil || string(got) != string(want) {
				t.Errorf("examples/%s/%s is not what init writes: %v", profile, name, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The fuzzer itself does not notice what never ends.
		defer time.AfterFunc(10*time.Second, func() { panic("takes too long") }).Stop()
		s, faults, err := parseSite("site.yaml", data)
		if err != nil {
			t.Fatal(err)
		}
		err = joinFaults(faults)
		if err == nil && (s.Name == "" || len(s.Nodes) == 0 || s.Release < 1) {
			t.Fatalf("accepted %+v", s)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\x00\a\r") {
			t.Fatalf("control characters in %q", err)
		}
		_ = s.Validate([]string{"postgresql"})
		_ = joinFaults(checkManifest("m.yaml", data))
	})
}
