package boot_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/qemu-tests/longtest"
	"holdfast.dev/holdfast/qemu-tests/prove"
)

// leaks are a pod, and one on the node's own network, that reach outside by
// numbers, which "check" does not take for hosts.
const leaks = `
apiVersion: v1
kind: Namespace
metadata: {name: leak}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: leak}
spec:
  containers:
    - {name: leak, image: "docker.io/library/busybox:1.37.0", command: [/usr/bin/busybox, wget, -O, "-", "http://3325256711/latest"]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: leak}
spec:
  hostNetwork: true
  containers:
    - {name: leak, image: "docker.io/library/busybox:1.37.0", command: [/usr/bin/busybox, nc, -w, "5", "3325256712", "25"]}
`

// TestProve proves of a site that it keeps to itself, through an update; then
// the same site has programs that do not, and the proof names them.
func TestProve(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("takes half an hour; HOLDFAST_LONG=1 runs it")
	}
	site := filepath.Join(openDir(t, "prove"), "quiet")
	run(t, ".", "init", "--name", "quiet", site)
	changeFile(t, filepath.Join(site, "site.yaml"), `(?m)^components:\n(  .*\n)+`, "components: []\n")
	run(t, site, "keys", "generate", "--development")
	lockSite(t, site)
	run(t, site, "collect")
	run(t, site, "build")
	p := run(t, site, "lab", "prove", "--for", "2m")
	if !strings.Contains(p.stdout, "nothing reached outside") {
		t.Errorf("said %s", p.stdout)
	}
	report := filepath.Join(site, "out", "quiet-1.proof.json")
	r := readReport(t, report)
	if !r.Contained || r.Update == nil || r.Update.Release != 2 || len(r.Phases) != 4 || len(r.Wire) != 1 || r.Wire[0].Within < 20 {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(site, "out", "quiet-1.proof.html")); err != nil {
		t.Error(err)
	}

	run(t, site, "lab", "prove", "--verify", report)
	refuses := func(what, word string) {
		t.Helper()
		p, err := try(t, site, "lab", "prove", "--verify", report)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(p.both, word) {
			t.Errorf("%s: %v, %s", what, err, p.both)
		}
	}
	whole, err := os.ReadFile(report)
	must(t, err)
	must(t, os.WriteFile(report, []byte(strings.Replace(string(whole), `"healthy"`, `"Healthy"`, 1)), 0o644))
	refuses("a changed report", "its digest is")
	must(t, os.WriteFile(report, whole, 0o644))
	wire := filepath.Join(site, "out", "prove", r.Wire[0].File)
	f, err := os.OpenFile(wire, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{0xff}, r.Wire[0].Size-1)
	must(t, errors.Join(err, f.Close()))
	refuses("a changed recording", "the report says sha256:")

	must(t, os.WriteFile(filepath.Join(site, "manifests", "leak.yaml"), []byte(leaks), 0o644))
	lockSite(t, site)
	run(t, site, "build")
	// Its pods end, so the component of the site never gets ready: whether it did
	// does not matter here.
	_, err = try(t, site, "lab", "prove", "--for", "2m", "--update", "none", "--timeout", "15m")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("a site that reaches outside ends with %v", err)
	}
	r = readReport(t, report)
	said := map[string]string{}
	for _, f := range r.Outside {
		said[strings.Join(f.Who, ", ")+": "+f.Proto+" "+f.To] += strings.Join(f.Said, "; ")
	}
	if len(said) != 2 || r.Contained {
		t.Errorf("%+v", r.Outside)
	}
	if got := said["pod leak/pod: tcp 198.51.100.7:80"]; got != "GET http://3325256711/latest" {
		t.Errorf("the pod said %q: %+v", got, r.Outside)
	}
	if _, ok := said["pod leak/host: tcp 198.51.100.8:25"]; !ok {
		t.Errorf("the pod on the node's network is not named: %+v", r.Outside)
	}
}

func readReport(t *testing.T, name string) prove.Report {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	var r prove.Report
	must(t, json.Unmarshal(b, &r))
	return r
}
