package crash_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// release is what a build made.
type release struct {
	number        int64
	image, bundle string
}

// releases are those of a site that is only an operating system. The first is
// what a node has; the others come to it. All roots differ but that of shared.
type releases struct {
	old     release
	failing release // is never healthy
	good    release
	shared  release // has the root of good
	trust   string  // directory
}

const siteYAML = `apiVersion: holdfast/v1alpha1
kind: Site
name: bare
domain: bare.example
release: %d
zone: official
os: {suite: trixie, kernel: cloud, packages: [%s]}
kubernetes: {engine: none}
updates: {healthyWithin: %d}
nodes:
  - name: node1
    match: {serial: %s}
    address: 10.0.2.15/24
    gateway: 10.0.2.2
`

// build makes the old release and the good one, and the other two if all.
func build(t *testing.T, all bool) releases {
	t.Helper()
	dir := scratch(t, "sites")
	made := func(number int64, packages string, minutes int, serial string) release {
		site := filepath.Join(dir, strconv.FormatInt(number, 10))
		base := filepath.Join(site, "out", fmt.Sprint("bare-", number))
		r := release{number, base + ".raw", base + ".bundle"}
		if _, err := os.Stat(base + ".json"); err == nil {
			return r // by an earlier run
		}
		must(t, os.RemoveAll(site))
		if first := filepath.Join(dir, "1"); site == first {
			holdfast(t, "init", "--name", "bare", site)
			holdfast(t, "-C", site, "keys", "generate", "--development")
		} else {
			for _, keys := range []string{"keys", "trust"} {
				must(t, os.CopyFS(filepath.Join(site, keys), os.DirFS(filepath.Join(first, keys))))
			}
		}
		must(t, os.WriteFile(filepath.Join(site, "site.yaml"), fmt.Appendf(nil, siteYAML, number, packages, minutes, serial), 0o644))
		for _, what := range [][]string{{"lock", "--accept-scripts"}, {"collect"}, {"build"}} {
			holdfast(t, append([]string{"-C", site}, what...)...)
		}
		return r
	}
	r := releases{trust: filepath.Join(dir, "1", "trust")}
	r.old = made(1, "", 20, "holdfast-lab")
	r.good = made(3, "less", 20, "holdfast-lab")
	if all {
		r.failing = made(2, "tree", 1, "another-machine")
		r.shared = made(4, "less", 20, "holdfast-lab")
	}
	return r
}

func holdfast(t *testing.T, args ...string) {
	t.Helper()
	if out, err := command(args...).CombinedOutput(); err != nil {
		t.Fatalf("holdfast %s: %v\n%s\nhint: make build, or HOLDFAST_BIN", strings.Join(args, " "), err, out)
	}
}

func command(args ...string) *exec.Cmd {
	program := os.Getenv("HOLDFAST_BIN")
	if program == "" {
		program = "../../bin/holdfast"
	}
	return exec.Command(program, args...)
}

// scratch is a directory. HOLDFAST_CRASH_DIR says in which other; it then stays,
// and a later run goes on with what is in it. Without, it stays where the test
// fails, so that what it left can be looked at.
func scratch(t *testing.T, name string) string {
	t.Helper()
	if top := os.Getenv("HOLDFAST_CRASH_DIR"); top != "" {
		dir, err := filepath.Abs(filepath.Join(top, name))
		must(t, errors.Join(err, os.MkdirAll(dir, 0o755)))
		return dir
	}
	dir, err := os.MkdirTemp("", "holdfast-crash-"+name+"-*")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
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
