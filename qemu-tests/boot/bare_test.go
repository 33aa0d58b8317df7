package boot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// bareYAML is a site that is only an operating system: no engine, so it boots
// in less than a minute.
const bareYAML = `apiVersion: holdfast/v1alpha1
kind: Site
name: bare
domain: bare.example
release: 1
zone: official
os: {suite: trixie, kernel: cloud}
kubernetes: {engine: none}
nodes:
  - name: node1
    match: {serial: holdfast-lab}
    address: 10.0.2.15/24
    gateway: 10.0.2.2
`

// bareBuilt are the sites that were built in this run: directory by what was
// asked for.
var bareBuilt = map[string]string{}

// bareSite is a built site that is only an operating system, in a directory of
// that name. change, which may be nil, gets its site.yaml and returns another.
// The same arguments give the same directory, which is built once in a run: a
// test makes its labs elsewhere.
func bareSite(t *testing.T, name string, change func(yaml string) string) (dir string) {
	t.Helper()
	yaml := changed(bareYAML, change)
	key := name + "\n" + yaml
	if dir, ok := bareBuilt[key]; ok {
		return dir
	}
	dir = openDir(t, name)
	must(t, os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(yaml), 0o644))
	run(t, dir, "keys", "generate", "--development")
	buildBare(t, dir)
	bareBuilt[key] = dir
	return dir
}

// anotherRelease builds another release of the site in dir, with the same
// keys, in a directory beside it, and returns its bundle.
func anotherRelease(t *testing.T, dir string, number int, change func(yaml string) string) (bundle string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "site.yaml"))
	must(t, err)
	yaml := changed(releaseLine.ReplaceAllString(string(b), fmt.Sprint("release: ", number)), change)
	key := dir + "\n" + yaml
	other, ok := bareBuilt[key]
	if !ok {
		other, err = os.MkdirTemp(filepath.Dir(dir), fmt.Sprintf("%s-%d-*", filepath.Base(dir), number))
		must(t, err)
		copyInputs(t, other, dir)
		must(t, os.WriteFile(filepath.Join(other, "site.yaml"), []byte(yaml), 0o644))
		buildBare(t, other)
		bareBuilt[key] = other
	}
	_, base := result(t, other)
	return base + ".bundle"
}

var releaseLine = regexp.MustCompile(`(?m)^release: \d+$`)

func changed(yaml string, change func(string) string) string {
	if change == nil {
		return yaml
	}
	return change(yaml)
}

func buildBare(t *testing.T, dir string) {
	t.Helper()
	lockSite(t, dir)
	run(t, dir, "collect")
	run(t, dir, "build")
}

// withPackages is a change of site.yaml that gives the root these packages, so
// that it is another root.
func withPackages(names ...string) func(yaml string) string {
	return func(yaml string) string {
		return strings.Replace(yaml, "kernel: cloud}", "kernel: cloud, packages: ["+strings.Join(names, ", ")+"]}", 1)
	}
}
