package kubeadm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/kubeadm"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != string(got) {
		t.Errorf("%s differs (%v); got:\n%s", file, err, got)
	}
}

func TestConfigGolden(t *testing.T) {
	n := node.Node{Name: "node1", Address: "10.0.2.15/24"}
	b, err := kubeadm.Config(node.Config{Name: "demo", Domain: "demo.example", Engine: node.Engine{Version: "v1.36.3"}}, n)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "config.yaml", b)
}

// Whose tokens the API accepts is in a file that the API server sees.
func TestSignIn(t *testing.T) {
	signIn := node.SignIn{Issuer: "https://id.demo.example/realms/site", Audience: "kubernetes"}
	n := node.Node{Name: "node1", Address: "10.0.2.15/24"}
	b, err := kubeadm.Config(node.Config{Name: "demo", Domain: "demo.example", Services: node.Services{SignIn: &signIn}}, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"  extraArgs:\n  - name: authentication-config\n    value: " + kubeadm.SignInFile + "\n",
		"  - hostPath: " + filepath.Dir(kubeadm.SignInFile) + "\n    mountPath: " + filepath.Dir(kubeadm.SignInFile) + "\n",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("kubeadm's configuration lacks\n%s:\n%s", want, b)
		}
	}
	if b, err = kubeadm.SignIn(signIn, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"); err != nil {
		t.Fatal(err)
	}
	golden(t, "authentication.yaml", b)
}

// The kubelet would write a longer delay into the root, which is read-only.
func TestShutdownFitsLogind(t *testing.T) {
	b, err := kubeadm.Config(node.Config{}, node.Node{Address: "10.0.2.15/24"})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile("../../../../image/files/usr/lib/systemd/logind.conf.d/holdfast.conf")
	if err != nil {
		t.Fatal(err)
	}
	seconds := func(text []byte, form string) int {
		m := regexp.MustCompile(form).FindSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in:\n%s", form, text)
		}
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	period := seconds(b, `shutdownGracePeriod: (\d+)s`)
	critical := seconds(b, `shutdownGracePeriodCriticalPods: (\d+)s`)
	delay := seconds(conf, `(?m)^InhibitDelayMaxSec=(\d+)$`)
	if period-critical < 20 || period > delay {
		t.Errorf("pods have %d s, with the critical ones %d s; logind waits %d s", period-critical, period, delay)
	}
}

func TestPatches(t *testing.T) {
	var images []node.Image
	for _, n := range []string{"kube-apiserver:v1.36.3", "kube-controller-manager:v1.36.3", "kube-scheduler:v1.36.3", "etcd:3.6.5-0"} {
		images = append(images, node.Image{Name: "registry.k8s.io/" + n, Digest: "sha256:aa"})
	}
	fs, err := kubeadm.Patches(images)
	if err != nil || len(fs) != 4 {
		t.Fatal(fs, err)
	}
	for _, name := range []string{"etcd0+strategic.json", "kube-apiserver0+strategic.json"} {
		golden(t, name, fs[name])
	}
	if _, err := kubeadm.Patches(images[1:]); err == nil || !strings.Contains(err.Error(), "kube-apiserver") {
		t.Errorf("without an image: %v", err)
	}
}

// machine is a fake node whose kubeadm does what fail does not forbid.
type machine struct {
	kubeadm.Node
	ran  []string
	fail string
}

func newMachine(t *testing.T) *machine {
	k := &machine{}
	k.Node = kubeadm.Node{Root: t.TempDir(), Say: t.Logf, Now: time.Now, Run: func(_ context.Context, line func(string), _ string, arg ...string) error {
		k.ran = append(k.ran, strings.Join(arg[:min(len(arg), 3)], " "))
		line("[certs] Generating")
		if arg[0] == "init" && arg[1] == "--config" {
			k.write(t, "etc/kubernetes/pki/sa.key")
			k.write(t, "etc/kubernetes/kubelet.conf")
			k.write(t, "var/lib/etcd/member/wal")
		}
		if k.fail != "" && strings.HasPrefix(strings.Join(arg, " "), k.fail) {
			return errors.New("exit status 1")
		}
		return nil
	}}
	for _, d := range []string{"etc/kubernetes/manifests", "var/lib/etcd", "var/lib/holdfast"} {
		if err := os.MkdirAll(filepath.Join(k.Root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (k *machine) write(t *testing.T, name string) {
	p := filepath.Join(k.Root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// The controllers start in Finish, which the agent calls once the API server is
// ready.
func TestFirstAndLaterBoot(t *testing.T) {
	k := newMachine(t)
	for _, want := range []struct{ up, finish []string }{
		{[]string{"init --config " + kubeadm.ConfigFile}, []string{"init --config " + kubeadm.ConfigFile}},
		{
			[]string{"init phase etcd", "init phase control-plane", "init phase kubelet-start", "start kubelet.service"},
			[]string{"init phase control-plane", "init phase control-plane"},
		},
	} {
		k.ran = nil
		if err := k.Up(t.Context()); err != nil || !slices.Equal(k.ran, want.up) {
			t.Errorf("up ran %q, %v; want %q", k.ran, err, want.up)
		}
		k.ran = nil
		if err := k.Finish(t.Context()); err != nil || !slices.Equal(k.ran, want.finish) {
			t.Errorf("finish ran %q, %v; want %q", k.ran, err, want.finish)
		}
	}
	if _, err := os.Stat(filepath.Join(k.Root, "var/lib/etcd/member/wal")); err != nil {
		t.Errorf("a later boot lost the datastore: %v", err)
	}
}

// Each phase of the first boot is in one of its two halves.
func TestTheHalvesOfInit(t *testing.T) {
	k := newMachine(t)
	var skipped [][]string
	run := k.Run
	k.Run = func(ctx context.Context, line func(string), name string, arg ...string) error {
		skipped = append(skipped, strings.Split(arg[len(arg)-1], ","))
		return run(ctx, line, name, arg...)
	}
	if err := errors.Join(k.Up(t.Context()), k.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	for phase, half := range map[string]int{
		"certs": 0, "kubeconfig": 0, "etcd": 0, "control-plane/apiserver": 0, "kubelet-start": 0,
		"control-plane/controller-manager": 1, "control-plane/scheduler": 1, "wait-control-plane": 1, "upload-config": 1,
		"upload-certs": 1, "mark-control-plane": 1, "bootstrap-token": 1, "kubelet-finalize": 1,
		"preflight": -1, "addon/coredns": -1, "addon/kube-proxy": -1, "show-join-command": -1,
	} {
		for i, s := range skipped {
			if slices.Contains(s, phase) == (i == half) {
				t.Errorf("phase %s, half %d: skipped %q", phase, i, s)
			}
		}
	}
}

// kubeadm finds its authorities there, good at any time.
func TestAuthorities(t *testing.T) {
	k := newMachine(t)
	if err := k.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for file, name := range map[string]string{"ca": "kubernetes", "front-proxy-ca": "front-proxy-ca", "etcd/ca": "etcd-ca"} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(k.Root, "etc/kubernetes/pki", file+".crt"), filepath.Join(k.Root, "etc/kubernetes/pki", file+".key"))
		if err != nil {
			t.Error(err)
			continue
		}
		c := pair.Leaf
		if !c.IsCA || c.Subject.CommonName != name || c.NotBefore.Unix() != 0 || c.NotAfter.Year() != 2099 {
			t.Errorf("%s: %v, authority: %v, from %v to %v", file, c.Subject, c.IsCA, c.NotBefore, c.NotAfter)
		}
	}
}

func TestInterruptedInit(t *testing.T) {
	k := newMachine(t)
	k.fail = "init"
	if err := k.Up(t.Context()); err == nil {
		t.Fatal("a failed init passed")
	}
	if err := k.Finish(t.Context()); err == nil {
		t.Fatal("a failed second half passed")
	}
	k.fail, k.ran = "reset", nil
	k.write(t, "etc/kubernetes/half")
	if err := k.Up(t.Context()); err != nil || len(k.ran) != 2 || !strings.HasPrefix(k.ran[0], "reset") {
		t.Fatalf("ran %q, %v", k.ran, err)
	}
	if _, err := os.Stat(filepath.Join(k.Root, "etc/kubernetes/half")); err == nil {
		t.Error("half-done state stayed")
	}
	if _, err := os.Stat(filepath.Join(k.Root, "etc/kubernetes/manifests")); err != nil {
		t.Error("the mount point of the static pods is gone")
	}
}
