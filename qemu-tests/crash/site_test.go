package crash_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// release is what a build made.
type release struct{ image, bundle string }

// releases are 1 and 2 of a site that is only an operating system; 2 has
// another root.
type releases struct {
	old, new release
	trust    string // directory
}

const siteYAML = `apiVersion: holdfast/v1alpha1
kind: Site
name: bare
domain: bare.example
release: %d
zone: official
os: {suite: trixie, kernel: cloud, packages: [%s]}
kubernetes: {engine: none}
nodes:
  - name: node1
    match: {serial: holdfast-lab}
    address: 10.0.2.15/24
    gateway: 10.0.2.2
`

// build makes both releases, or takes those of HOLDFAST_CRASH_SITES, a
// directory with the sites a and b.
func build(t *testing.T) releases {
	t.Helper()
	dir := os.Getenv("HOLDFAST_CRASH_SITES")
	if dir == "" {
		dir = keepDir(t, "sites")
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		holdfast(t, "init", "--name", "bare", a)
		must(t, os.WriteFile(filepath.Join(a, "site.yaml"), fmt.Appendf(nil, siteYAML, 1, ""), 0o644))
		holdfast(t, "-C", a, "keys", "generate", "--development")
		must(t, os.CopyFS(b, os.DirFS(a)))
		must(t, os.WriteFile(filepath.Join(b, "site.yaml"), fmt.Appendf(nil, siteYAML, 2, "less"), 0o644))
		for _, site := range []string{a, b} {
			for _, what := range [][]string{{"lock", "--accept-scripts"}, {"collect"}, {"build"}} {
				holdfast(t, append([]string{"-C", site}, what...)...)
			}
		}
	}
	made := func(site string, n int) release {
		base := filepath.Join(dir, site, "out", "bare-"+strconv.Itoa(n))
		return release{base + ".raw", base + ".bundle"}
	}
	return releases{made("a", 1), made("b", 2), filepath.Join(dir, "a", "trust")}
}

func holdfast(t *testing.T, args ...string) {
	t.Helper()
	program := os.Getenv("HOLDFAST_BIN")
	if program == "" {
		program = "../../bin/holdfast"
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("holdfast %s: %v\n%s\nhint: make build, or HOLDFAST_BIN", strings.Join(args, " "), err, out)
	}
}

// keepDir is a directory that stays where the test fails, so that what it left
// can be looked at; HOLDFAST_CRASH_DIR says where.
func keepDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("HOLDFAST_CRASH_DIR"), "holdfast-crash-"+name+"-*")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("HOLDFAST_CRASH_LOG") != "" && name == "record" {
			t.Log("kept:", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
