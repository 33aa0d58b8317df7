package boot_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
	"holdfast.dev/holdfast/qemu-tests/pcap"
)

// TestBootReadme does what the README shows, and looks at the site that runs
// then before it shuts it down.
func TestBootReadme(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img", "bash")
	readme, err := os.ReadFile("../../README.md")
	must(t, err)
	steps, err := transcript(string(readme))
	must(t, err)
	sh := shell{dir: openDir(t, "readme"), program: filepath.Dir(holdfast(t))}
	var down []step
	var times bootTimes
	for _, s := range steps {
		if strings.Contains(s.command, "lab down") {
			down = append(down, s)
			continue
		}
		watch := func() marks { return marks{} }
		if strings.Contains(s.command, "lab up") {
			site := sh.dir
			t.Cleanup(func() {
				if _, err := try(t, site, "lab", "down"); err != nil {
					t.Log(err)
				}
			})
			watch = watchBoot(site)
		}
		sh.do(t, s)
		if m := watch(); !m.healthy.IsZero() {
			times.First = m.since(m.powerOn)
		}
	}
	if times.First == (bootTime{}) {
		t.Fatal("the README's transcript starts no lab that becomes healthy")
	}
	readmeSite = sh.dir
	site := readmeSite
	vm, err := lab.Open(filepath.Join(site, "out", "lab"))
	must(t, err)

	t.Run("Console", func(t *testing.T) { consoleSays(t, vm) })
	t.Run("Versions", func(t *testing.T) { versions(t, site) })
	t.Run("Policies", func(t *testing.T) { policiesHold(t, site) })
	t.Run("BuildAgain", func(t *testing.T) { buildAgain(t, site) })
	t.Run("Database", func(t *testing.T) {
		psql(t, site, "create table kept (word text); insert into kept values ('holdfast')")
		watch, start := watchBoot(site), time.Now()
		run(t, site, "lab", "reboot", "--wait")
		times.Later = watch().since(start)
		if got := psql(t, site, "select word from kept"); !strings.Contains(got, "holdfast") {
			t.Errorf("after a reboot the database says %q", got)
		}
	})
	t.Run("Secrets", func(t *testing.T) { secretsStay(t, site, vm) })
	t.Run("Backup", func(t *testing.T) { comesBack(t, site) })
	times.Accel = vm.Accel().Name
	times.save(t, site)
	for _, s := range down {
		sh.do(t, s)
	}
	run(t, site, "lab", "down")
	t.Run("Wire", func(t *testing.T) { nothingLeft(t, vm) })
	t.Run("RawImage", func(t *testing.T) {
		_, base := result(t, site)
		run(t, site, "bundle", "verify", base+".raw")
	})
	t.Run("Manifest", func(t *testing.T) { changeManifest(t, site) })
}

// comesBack loses the disk, and gets the site back from its backup: the row
// that is in its database, and an object of the cluster.
func comesBack(t *testing.T, site string) {
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("make test-long tries it")
	}
	const uid = "jsonpath={.metadata.uid}"
	run(t, site, "lab", "kubectl", "create", "configmap", "kept")
	before := run(t, site, "lab", "kubectl", "get", "configmap", "kept", "-o", uid).stdout
	file := filepath.Join(t.TempDir(), "site.holdfast-backup")
	made := run(t, site, "lab", "backup", file).stdout
	read := run(t, site, "backup", "inspect", file).stdout
	if _, code, ok := strings.Cut(made, "code: "); !ok || !strings.Contains(read, code) {
		t.Errorf("the node says\n%s of the backup, and who reads it\n%s", made, read)
	}
	run(t, site, "lab", "down")
	run(t, site, "lab", "up", "--fresh", "--restore", file, "--wait")
	if got := psql(t, site, "select word from kept"); !strings.Contains(got, "holdfast") {
		t.Errorf("the restored database says %q", got)
	}
	if got := run(t, site, "lab", "kubectl", "get", "configmap", "kept", "-o", uid).stdout; got != before {
		t.Errorf("the restored object is %s, it was %s", got, before)
	}
}

// shell runs commands one after the other, each where the one before ended.
type shell struct {
	dir     string
	program string // the directory of holdfast
}

func (sh *shell) do(t *testing.T, s step) {
	t.Helper()
	t.Logf("$ %s", s.command)
	p, err := sh.bash(s.command)
	if err != nil && strings.Contains(s.command, "holdfast lock") && strings.Contains(p.both, "maintainer scripts") {
		t.Logf("the mirror has maintainer scripts that nobody reviewed; taken as they are:\n%s", p.both)
		p, err = sh.bash(strings.ReplaceAll(s.command, "holdfast lock", "holdfast lock --accept-scripts"))
		s.want = []string{"…"}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", s.command, err, p.both)
	}
	if !p.fits(s.want) {
		t.Errorf("%s printed\n%s\nwhere README.md has\n%s", s.command, p.both, strings.Join(s.want, "\n"))
	}
}

func (sh *shell) bash(command string) (printed, error) {
	where := filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-boot-pwd-%d", os.Getpid()))
	defer os.Remove(where)
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", command+"\npwd >\"$WHERE\"")
	cmd.Dir = sh.dir
	cmd.Env = append(os.Environ(), "PATH="+sh.program+":"+os.Getenv("PATH"), "WHERE="+where)
	p, err := say(cmd)
	if b, readErr := os.ReadFile(where); readErr == nil {
		sh.dir = strings.TrimSpace(string(b))
	}
	return p, err
}

func consoleSays(t *testing.T, vm *lab.VM) {
	for _, line := range []string{"holdfast: node ready", "holdfast: healthy"} {
		if !strings.Contains(console(t, vm), line) {
			t.Errorf("the console does not say %q", line)
		}
	}
}

func console(t *testing.T, vm *lab.VM) string {
	t.Helper()
	c, err := vm.Console()
	must(t, err)
	defer c.Close()
	b, err := io.ReadAll(c)
	must(t, err)
	return string(b)
}

func versions(t *testing.T, site string) {
	s, err := overlays.Load(site)
	must(t, err)
	if got := run(t, site, "lab", "kubectl", "get", "nodes").stdout; !regexp.MustCompile(` Ready .* ` + regexp.QuoteMeta(s.Kubernetes.Version) + `\s`).MatchString(got) {
		t.Errorf("no node is ready with %s:\n%s", s.Kubernetes.Version, got)
	}
	recipe, err := os.ReadFile("../../bundles/catalog/components/containerd/recipes/containerd/recipe.mod")
	must(t, err)
	containerd := regexp.MustCompile(`containerd/containerd/v2 v(\S+)`).FindStringSubmatch(string(recipe))
	if containerd == nil {
		t.Fatal("the recipe of containerd names no version")
	}
	want := s.Kubernetes.Version + " containerd://" + containerd[1]
	got := run(t, site, "lab", "kubectl", "get", "nodes", "-o",
		"jsonpath={.items[0].status.nodeInfo.kubeletVersion} {.items[0].status.nodeInfo.containerRuntimeVersion}").stdout
	if strings.ReplaceAll(got, "//v", "//") != want {
		t.Errorf("the node runs %q, not %q", got, want)
	}
}

// psql asks the site's database as its owner, through its own socket.
func psql(t *testing.T, site, query string) string {
	t.Helper()
	return run(t, site, psqlArgs("postgres", query)...).stdout
}

// psqlArgs are holdfast's, for a query of a database of the site.
func psqlArgs(database, query string) []string {
	return []string{"lab", "kubectl", "exec", "-n", "postgresql", "postgresql-0", "--",
		"psql", "-h", "/run/postgresql", "-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1", "-At", "-c", query}
}

// secretsStay looks for each secret that the cluster holds in what the node
// said on its console and in its journal.
func secretsStay(t *testing.T, site string, vm *lab.VM) {
	var list struct {
		Items []struct {
			Metadata struct{ Namespace, Name string }
			Type     string
			Data     map[string]string
		}
	}
	must(t, json.Unmarshal([]byte(run(t, site, "lab", "kubectl", "get", "secrets", "-A", "-o", "json").stdout), &list))
	journal, err := vm.Logs(t.Context())
	must(t, err)
	said := console(t, vm) + journal
	checked := 0
	for _, s := range list.Items {
		for key, value := range s.Data {
			if s.Type == "bootstrap.kubernetes.io/token" && key != "token-secret" {
				continue // names and times, not secret
			}
			v, err := base64.StdEncoding.DecodeString(value)
			must(t, err)
			if len(v) < 8 {
				continue
			}
			checked++
			if strings.Contains(said, string(v)) {
				t.Errorf("the node's log holds %s of secret %s/%s", key, s.Metadata.Namespace, s.Metadata.Name)
			}
		}
	}
	if checked == 0 {
		t.Error("the cluster has no secret; the database's password should be one")
	}
}

// nothingLeft reads the recorded wire of every boot.
func nothingLeft(t *testing.T, vm *lab.VM) {
	inside := []netip.Prefix{
		netip.MustParsePrefix("10.0.2.0/24"), // the lab
		netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12"),
	}
	if len(vm.Captures()) == 0 {
		t.Fatal("the wire was not recorded")
	}
	for _, name := range vm.Captures() {
		r, err := pcap.Read(name, pcap.Lab(inside...))
		if err != nil {
			t.Error(err)
		}
		for _, f := range r.Outside {
			t.Errorf("%s: tried to leave: %s", filepath.Base(name), f)
		}
	}
}

func buildAgain(t *testing.T, site string) {
	r, base := result(t, site)
	stat := func() (s string) {
		for _, o := range r.Outputs {
			fi, err := os.Stat(filepath.Join(filepath.Dir(base), o.File))
			must(t, err)
			s += fmt.Sprintln(o.File, fi.Size(), fi.ModTime().UnixNano())
		}
		return s
	}
	before, start := stat(), time.Now()
	p := run(t, site, "build")
	t.Logf("a build with nothing changed took %.1f s beside a running lab", time.Since(start).Seconds())
	if !strings.Contains(p.both, "nothing changed") {
		t.Errorf("a second build does not say that nothing changed:\n%s", p.both)
	}
	if after := stat(); after != before {
		t.Errorf("a second build touched outputs:\n%s%s", before, after)
	}
}

// changeManifest makes a copy of the site with one manifest more.
func changeManifest(t *testing.T, site string) {
	before, _ := result(t, site)
	dir := openDir(t, "manifest")
	copyInputs(t, dir, site)
	must(t, os.MkdirAll(filepath.Join(dir, "manifests"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "manifests", "new.yaml"),
		[]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new, namespace: default}\ndata: {a: b}\n"), 0o644))
	if p, err := try(t, dir, "build"); err == nil || !strings.Contains(p.both, "manifests/new.yaml") {
		t.Errorf("a manifest that is not in the lock is built: %v\n%s", err, p.both)
	}
	run(t, dir, "lock")
	start := time.Now()
	run(t, dir, "build")
	t.Logf("a build with one manifest changed took %.1f s", time.Since(start).Seconds())
	after, _ := result(t, dir)
	if after.RootHash != before.RootHash {
		t.Errorf("a manifest changed the root: %s, %s", before.RootHash, after.RootHash)
	}
	if after.Index == before.Index || after.Outputs[2].Digest == before.Outputs[2].Digest {
		t.Error("a manifest did not change the release")
	}
}

// TestBootNoMatch boots the image on a machine that no node of the site is.
func TestBootNoMatch(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	_, base := result(t, builtSite(t))
	const serial, mac = "no-such-serial", "52:54:00:99:99:99"
	vm, err := lab.Up(t.Context(), lab.Config{
		Dir: filepath.Join(openDir(t, "nomatch"), "lab"), Image: base + ".qcow2", Serial: serial, MAC: mac,
	}, nil)
	must(t, err)
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := vm.Down(ctx); err != nil {
			t.Error(err)
		}
	}()
	must(t, vm.Expect(t.Context(), "no node of this site matches this machine", patience))
	must(t, vm.Expect(t.Context(), serial, 10*time.Second))
	must(t, vm.Expect(t.Context(), mac, 10*time.Second))
	err = vm.WaitHealthy(t.Context(), nil)
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused to start") {
		t.Errorf("waiting for a node that refuses to start: %v", err)
	}
	time.Sleep(15 * time.Second) // to start what it should not
	if c := console(t, vm); strings.Contains(c, "starting kubeadm") || strings.Contains(c, "start containerd") {
		t.Error("a machine that is no node of the site starts Kubernetes")
	}
}
