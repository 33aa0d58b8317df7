package boot_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// TestFaults has a site meet what goes wrong without anybody's doing: its status
// names the component and the cause, it recovers when the cause is gone, and what
// was in it is there.
func TestFaults(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("takes about an hour; HOLDFAST_LONG=1 runs it")
	}
	site := filepath.Join(openDir(t, "faults"), "boot")
	run(t, ".", "init", "--name", "boot", site)
	changeFile(t, filepath.Join(site, "site.yaml"), `(?m)^components:\n(  .*\n)+`, `components:
  - {name: postgresql, origin: source}
  - {name: certificates, origin: source}
  - {name: minio, origin: source}
  - {name: loki, origin: source}
`)
	run(t, site, "keys", "generate", "--development")
	lockSite(t, site)
	run(t, site, "collect")
	run(t, site, "build")
	f := faulty{site: site}
	t.Cleanup(func() {
		if _, err := try(t, site, "lab", "down"); err != nil {
			t.Log(err)
		}
	})
	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"ClockBehind", f.clockBehind},
		{"ClockAhead", f.clockAhead},
		{"SecretMissing", f.secretMissing},
		{"SecretWrong", f.secretWrong},
		{"StoreUnreachable", f.storeUnreachable},
		{"DiskFull", f.diskFull},
		{"CertificatesOver", f.certificatesOver},
	} {
		if !t.Run(step.name, step.do) && t.Context().Err() == nil {
			t.Logf("the site is now:\n%s", f.status(t))
		}
	}
}

const year = 365 * 24 * time.Hour

// faulty is a site with PostgreSQL, and with Loki that keeps its lines in MinIO.
type faulty struct{ site string }

func (f faulty) vm(t *testing.T) *lab.VM {
	t.Helper()
	vm, err := lab.Open(filepath.Join(f.site, "out", "lab"))
	must(t, err)
	return vm
}

func (f faulty) status(t *testing.T) string {
	t.Helper()
	p, _ := try(t, f.site, "lab", "status") // fails while it is not healthy
	return p.both
}

// up boots with a clock that is ahead, and has somebody at the console say that
// it is right, if that is to be asked.
func (f faulty) up(t *testing.T, ahead time.Duration, asked bool, args ...string) {
	t.Helper()
	start := time.Now()
	run(t, f.site, append([]string{"lab", "up", "--memory", "6144", "--clock-ahead", ahead.String()}, args...)...)
	vm := f.vm(t)
	vm.SkipConsole() // has what was asked in earlier boots
	if asked {
		must(t, vm.Expect(t.Context(), "Which is wrong?", 5*time.Minute))
		f.types(t, vm, "the clock is right\r")
		must(t, vm.Expect(t.Context(), "the clock is taken for right", time.Minute))
	}
	f.healthy(t, 40*time.Minute)
	t.Logf("healthy after %.0f s", time.Since(start).Seconds())
}

// isUp starts the site, with the row that is looked for later, if no step before
// did.
func (f faulty) isUp(t *testing.T) {
	t.Helper()
	if vm, err := lab.Open(filepath.Join(f.site, "out", "lab")); err == nil && vm.Running() {
		return
	}
	f.up(t, 0, false, "--fresh")
	psql(t, f.site, "create table kept (word text); insert into kept values ('holdfast')")
}

func (f faulty) types(t *testing.T, vm *lab.VM, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_ = vm.Attach(ctx, strings.NewReader(text), io.Discard) // ends with ctx
}

func (f faulty) healthy(t *testing.T, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	must(t, f.vm(t).WaitHealthy(ctx, nil))
}

// says waits until the status says of the component what re asks for.
func (f faulty) says(t *testing.T, component, re string) {
	t.Helper()
	want := regexp.MustCompile(re)
	vm := f.vm(t)
	said := map[string]bool{}
	for start := time.Now(); time.Since(start) < 10*time.Minute; time.Sleep(2 * time.Second) {
		s, err := vm.Status(t.Context())
		if err != nil {
			continue // an API server without a disk
		}
		for _, c := range s.Components {
			if c.Name != component || c.Healthy {
				continue
			}
			if want.MatchString(c.Reason) {
				t.Logf("after %.0f s: %s: %s", time.Since(start).Seconds(), c.Name, c.Reason)
				return
			}
			said[c.Reason] = true
		}
	}
	t.Fatalf("the status does not say %q of %s, but\n%q", re, component, slices.Sorted(maps.Keys(said)))
}

// warns waits for a warning.
func (f faulty) warns(t *testing.T, re string) {
	t.Helper()
	want := regexp.MustCompile(re)
	vm := f.vm(t)
	var last []string
	for start := time.Now(); time.Since(start) < 17*time.Minute; time.Sleep(5 * time.Second) {
		s, err := vm.Status(t.Context())
		if err != nil {
			continue
		}
		last = s.Warnings
		for _, w := range s.Warnings {
			if want.MatchString(w) {
				t.Logf("after %.0f s: WARNING: %s", time.Since(start).Seconds(), w)
				return
			}
		}
	}
	t.Errorf("no warning says %q, but %q", re, last)
}

// still looks for the row that was there before.
func (f faulty) still(t *testing.T) {
	t.Helper()
	if got := psql(t, f.site, "select word from kept"); !strings.Contains(got, "holdfast") {
		t.Errorf("the database says %q", got)
	}
}

func (f faulty) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, f.site, append([]string{"lab", "kubectl"}, args...)...).stdout
}

// onNode runs a shell's command as the node would, by a pod that no full disk
// keeps away.
func (f faulty) onNode(t *testing.T, command string) {
	t.Helper()
	image := f.kubectl(t, "get", "pods", "-n", "postgresql", "-o", "jsonpath={.items[0].spec.containers[0].image}")
	pod := map[string]any{"spec": map[string]any{
		"nodeName": "node1", "hostPID": true, "priorityClassName": "system-node-critical", "restartPolicy": "Never",
		"tolerations": []any{map[string]any{"operator": "Exists"}},
		"volumes":     []any{map[string]any{"name": "host", "hostPath": map[string]any{"path": "/"}}},
		"containers": []any{map[string]any{"name": "hand", "image": image, "imagePullPolicy": "IfNotPresent",
			"securityContext": map[string]any{"privileged": true, "runAsUser": 0},
			"volumeMounts":    []any{map[string]any{"name": "host", "mountPath": "/host"}},
			"command": []any{"/host/usr/lib64/ld-linux-x86-64.so.2", "--library-path", "/host/usr/lib/x86_64-linux-gnu", "/host/usr/bin/nsenter",
				"-t", "1", "-m", "--", "/usr/bin/sh", "-ec", command}}},
	}}
	b, err := json.Marshal(pod)
	must(t, err)
	f.kubectl(t, "run", "hand", "--image", image, "--restart", "Never", "--overrides", string(b))
	f.kubectl(t, "wait", `--for=jsonpath={.status.phase}=Succeeded`, "pod/hand", "--timeout=5m")
	f.kubectl(t, "delete", "pod", "hand", "--wait")
}

// A dead battery: the site starts in its release's time.
func (f faulty) clockBehind(t *testing.T) {
	f.up(t, -2*year, false, "--fresh")
	if !strings.Contains(console(t, f.vm(t)), "which is over: set forward to") {
		t.Error("the console does not say that the clock was wrong")
	}
	run(t, f.site, "lab", "down")
}

// A first boot two years ahead, and a right clock afterwards.
func (f faulty) clockAhead(t *testing.T) {
	f.up(t, 2*year, false, "--fresh")
	f.warns(t, `^clock: it says \d+-\d+-\d+, and this release was made on`)
	// By this machine's clock the API server's certificate begins in two years.
	run(t, f.site, "lab", "kubectl", "--insecure-skip-tls-verify", "exec", "-n", "postgresql", "postgresql-0", "--",
		"psql", "-h", "/run/postgresql", "-U", "postgres", "-c", "create table kept (word text); insert into kept values ('holdfast')")
	run(t, f.site, "lab", "down")
	f.up(t, 0, true)
	f.still(t)
	f.current(t, 0)
	for _, w := range f.warnings(t) {
		if strings.HasPrefix(w, "clock") {
			t.Errorf("still a warning: %s", w)
		}
	}
}

func (f faulty) warnings(t *testing.T) []string {
	t.Helper()
	s, err := f.vm(t).Status(t.Context())
	must(t, err)
	return s.Warnings
}

// current waits until each service's certificate is good, by a clock that is ahead.
func (f faulty) current(t *testing.T, ahead time.Duration) {
	t.Helper()
	bad := ""
	for start := time.Now(); time.Since(start) < 15*time.Minute; time.Sleep(10 * time.Second) {
		bad = ""
		var list struct {
			Items []struct {
				Metadata struct{ Namespace, Name string }
				Data     map[string]string
			}
		}
		must(t, json.Unmarshal([]byte(f.kubectl(t, "get", "secrets", "-A", "--field-selector", "type=kubernetes.io/tls", "-o", "json")), &list))
		if len(list.Items) == 0 {
			t.Fatal("no service has a certificate")
		}
		for _, s := range list.Items {
			b, err := base64.StdEncoding.DecodeString(s.Data["tls.crt"])
			must(t, err)
			c := firstCertificate(t, b)
			if now := time.Now().Add(ahead); c.NotBefore.After(now) || c.NotAfter.Before(now) {
				bad += fmt.Sprintf("%s/%s is good from %s to %s\n", s.Metadata.Namespace, s.Metadata.Name, c.NotBefore, c.NotAfter)
			}
		}
		if bad == "" {
			return
		}
	}
	t.Errorf("certificates that are not good:\n%s", bad)
}

// A secret that somebody removed is there again without anybody's doing.
func (f faulty) secretMissing(t *testing.T) {
	f.isUp(t)
	f.kubectl(t, "delete", "secret", "-n", "loki", "objects")
	f.kubectl(t, "delete", "pod", "-n", "loki", "loki-0")
	f.says(t, "loki", `secret "objects" not found|references non-existent secret`)
	f.healthy(t, 20*time.Minute)
	f.still(t)
}

func (f faulty) secretWrong(t *testing.T) {
	f.isUp(t)
	f.kubectl(t, "patch", "secret", "-n", "loki", "objects", "-p", `{"data":{"secretKey":"d3JvbmdCdXRMb25nRW5vdWdoRm9yQUtleTEyMzQ1Njc="}}`)
	f.kubectl(t, "delete", "pod", "-n", "loki", "loki-0")
	f.says(t, "loki", "403|SignatureDoesNotMatch")
	f.healthy(t, 20*time.Minute)
	f.still(t)
}

// The store is there, and nobody finds the way to it.
func (f faulty) storeUnreachable(t *testing.T) {
	f.isUp(t)
	f.kubectl(t, "delete", "service", "-n", "minio", "minio")
	f.kubectl(t, "delete", "pod", "-n", "loki", "loki-0")
	f.says(t, "loki", `minio\.minio\.svc`)
	f.healthy(t, 20*time.Minute)
	f.still(t)
}

// A full disk: the kubelet ends pods, and the site comes back once there is room.
func (f faulty) diskFull(t *testing.T) {
	f.isUp(t)
	f.onNode(t, `set -- $(stat -f -c "%a %S" /var); fallocate -l $(( $1 * $2 - 700 * 1048576 )) /var/full`)
	f.warns(t, `^disk: /var has \d of \d+ GiB free`)
	f.says(t, "postgresql", `Evicted|disk|ephemeral-storage`)
	f.onNode(t, "rm /var/full")
	f.healthy(t, 40*time.Minute)
	f.still(t)
}

// The site was off until after the certificates of its services had ended.
func (f faulty) certificatesOver(t *testing.T) {
	f.isUp(t)
	run(t, f.site, "lab", "down")
	const off = 100 * 24 * time.Hour
	f.up(t, off, false)
	f.current(t, off)
	f.still(t)
	run(t, f.site, "lab", "down")
	f.up(t, 0, true)
	f.current(t, 0)
	f.still(t)
}

func firstCertificate(t *testing.T, b []byte) *x509.Certificate {
	t.Helper()
	p, _ := pem.Decode(b)
	if p == nil {
		t.Fatal("no certificate")
	}
	c, err := x509.ParseCertificate(p.Bytes)
	must(t, err)
	return c
}
