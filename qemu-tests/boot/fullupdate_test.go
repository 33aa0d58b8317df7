package boot_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// TestUpdateFull takes the README's site, with Kubernetes and a database,
// through a good update, one in place, one whose engine never gets ready and one
// in place whose component never gets healthy. What users wrote must be there
// after all.
func TestUpdateFull(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("takes most of an hour; HOLDFAST_LONG=1 runs it")
	}
	site := builtSite(t)
	_, second := withConfigMap(t, site, 2, "b")
	next, third := withConfigMap(t, site, 3, "c")

	u := upForUpdates(t, site, 4096)
	psql(t, u.dir, "create table kept (word text); insert into kept values ('before')")
	run(t, u.dir, "lab", "kubectl", "create", "configmap", "users", "-n", "default", "--from-literal=a=b")
	start := time.Now()
	run(t, u.dir, "lab", "reboot", "--wait")
	plain := time.Since(start)
	t.Logf("plain reboot to healthy: %.0f s", plain.Seconds())

	u.goodUpdate(t, second, 2, "--reboot")
	good := u.times(t)
	update := good["confirming"].Sub(good["switching"])
	t.Logf("update, from the order to reboot to healthy: %.0f s, %.2f of a plain reboot (aim: 1.3)", update.Seconds(), update.Seconds()/plain.Seconds())
	if got := run(t, u.dir, "lab", "kubectl", "get", "configmap", "new", "users", "-n", "default").stdout; strings.Count(got, "\n") != 3 {
		t.Errorf("the objects of the new release and of the user are not there:\n%s", got)
	}

	pods := u.pods(t)
	start = time.Now()
	u.goodUpdate(t, third, 3)
	t.Logf("update in place, to healthy: %.0f s", time.Since(start).Seconds())
	if got := u.pods(t); got != pods {
		t.Errorf("an update in place that changes no pod leaves\n%s\nof\n%s", got, pods)
	}
	if got := run(t, u.dir, "lab", "kubectl", "get", "configmap", "new", "-n", "default", "-o", "jsonpath={.data.a}").stdout; got != "c" {
		t.Errorf("after an update in place the new object says %q", got)
	}

	engine := forge(t, next, "noengine", 4, func(f *forgery) {
		f.cmdline += " systemd.mask=kubelet.service"
		f.node["updates"] = map[string]any{"healthyWithin": 4}
	})
	u.badUpdate(t, engine, 4, "not healthy within 4m0s: engine: ")

	bad := forge(t, next, "never", 5, func(f *forgery) {
		f.node["updates"] = map[string]any{"healthyWithin": 12}
		for _, c := range f.node["components"].([]any) {
			if c := c.(map[string]any); c["name"] == "postgresql" {
				c["ready"] = append(c["ready"].([]any), map[string]any{"kind": "StatefulSet", "namespace": "postgresql", "name": "never"})
			}
		}
	})
	acknowledged := make(chan bool, 1)
	go func() { acknowledged <- u.writeOnTrial(t, 5) }()
	u.badUpdate(t, bad, 5, "not healthy within 12m0s")
	healthy := time.Now()
	back := healthy.Sub(u.times(t)["failing"])
	t.Logf("going back, from the verdict to healthy: %.0f s, %.2f of a plain reboot (aim: 2)", back.Seconds(), back.Seconds()/plain.Seconds())
	if !<-acknowledged {
		t.Error("no row was written during the trial")
	}
	if got := psql(t, u.dir, "select word from kept order by word"); got != "before\ntrial\n" {
		t.Errorf("after going back the database has %q", got)
	}
	run(t, u.dir, "lab", "kubectl", "get", "configmap", "users", "-n", "default")
	run(t, u.dir, "lab", "kubectl", "get", "configmap", "new", "-n", "default")
}

// withConfigMap builds a release of site that has an object "new" with a value.
func withConfigMap(t *testing.T, site string, number int, value string) (dir, bundle string) {
	t.Helper()
	dir = filepath.Join(openDir(t, fmt.Sprint("full-", number)), "boot")
	copyInputs(t, dir, site)
	changeFile(t, filepath.Join(dir, "site.yaml"), `(?m)^release: \d+$`, fmt.Sprint("release: ", number))
	must(t, os.MkdirAll(filepath.Join(dir, "manifests"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "manifests", "new.yaml"),
		[]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new, namespace: default}\ndata: {a: "+value+"}\n"), 0o644))
	run(t, dir, "lock")
	run(t, dir, "build")
	_, base := result(t, dir)
	return dir, base + ".bundle"
}

// pods are all pods, and how often their containers were started again.
func (u *updating) pods(t *testing.T) string {
	t.Helper()
	return run(t, u.dir, "lab", "kubectl", "get", "pods", "-A", "--field-selector", "status.phase=Running", "--sort-by", "metadata.uid", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}`).stdout
}

// writeOnTrial writes a row as soon as the database of a release on trial
// takes it, and reports whether it was acknowledged.
func (u *updating) writeOnTrial(t *testing.T, number int64) bool {
	for end := time.Now().Add(40 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Second) {
		s, err := u.vm.Status(t.Context())
		if err != nil || s.Release.Number != number {
			continue
		}
		_, err = try(t, u.dir, "lab", "kubectl", "--request-timeout=20s", "exec", "-n", "postgresql", "postgresql-0", "--",
			"psql", "-h", "/run/postgresql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", "insert into kept values ('trial')")
		if err == nil {
			return true
		}
	}
	return false
}

// times are when the last event of each kind was, by the node's clock.
func (u *updating) times(t *testing.T) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	for line := range strings.Lines(u.audit(t)) {
		var l struct {
			What string    `json:"what"`
			Time time.Time `json:"time"`
		}
		must(t, json.Unmarshal([]byte(line), &l))
		out[l.What] = l.Time
	}
	return out
}

func changeFile(t *testing.T, name, pattern, text string) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	re := regexp.MustCompile(pattern)
	if !re.Match(b) {
		t.Fatalf("%s has nothing like %s", name, pattern)
	}
	must(t, os.WriteFile(name, re.ReplaceAll(b, []byte(text)), 0o644))
}
