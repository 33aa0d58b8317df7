package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/netpol"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/signing"
)

const (
	rootHash = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	mac      = "52:54:00:12:34:56"
	epoch    = 1_700_000_000
)

// box is a machine on disk, with what it was asked to do.
type box struct {
	agent.Host
	t *testing.T

	mu      sync.Mutex
	console bytes.Buffer
	log     bytes.Buffer
	ran     []string
	outside string // what the kernel counted, as nft prints it
	set     time.Time
	clock   time.Time
	slept   time.Duration
	name    string
	disk    string
	typed   chan string
	kubeadm func(arg []string) error
	engine  map[string]any // in node.json
	keys    []string       // there too, that open backups
	backups map[string]any // there too
	pulled  []string       // sockets
}

func (b *box) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.console.Write(p)
}

func (b *box) Close() error { return nil }

// logOf is where the agent of a box writes its log.
type logOf struct{ b *box }

func (l logOf) Write(p []byte) (int, error) {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	return l.b.log.Write(p)
}

func (b *box) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.console.String()
}

func (b *box) write(name, data string) {
	b.t.Helper()
	p := filepath.Join(b.Root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(data), 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) remove(name string) {
	b.t.Helper()
	if err := os.RemoveAll(filepath.Join(b.Root, name)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) read(name string) string {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.Root, name))
	if err != nil {
		b.t.Error(err)
	}
	return string(data)
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{t: t, clock: time.Unix(epoch+1000, 0)}
	b.engine = map[string]any{"name": "kubeadm", "version": "v1.36.3", "pause": "registry.k8s.io/pause:3.10.1"}
	b.Host = agent.Host{
		Root: t.TempDir(), Getenv: func(string) string { return "" }, Random: rand.Reader,
		Now:         func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.clock.Add(b.slept) },
		SetTime:     func(n time.Time) error { b.mu.Lock(); defer b.mu.Unlock(); b.set, b.clock = n, n; return nil },
		SetHostname: func(s string) error { b.name = s; return nil },
		HasAddress:  func(link, ip string) bool { return link == "eth0" && ip == "10.0.2.15" },
		Console:     func() (io.WriteCloser, error) { return b, nil },
		Disk:        func(string) (string, error) { return b.disk, nil },
		Mounted:     func(string) (bool, error) { return true, nil },
		Input:       func(context.Context) <-chan string { return b.typed },
		Run: func(_ context.Context, line func(string), name string, arg ...string) error {
			if filepath.Base(name) == "nft" && arg[0] == "--json" {
				line(b.outside) // it is asked now and again
				return nil
			}
			b.mu.Lock()
			b.ran = append(b.ran, strings.Join(append([]string{filepath.Base(name)}, arg...), " "))
			b.mu.Unlock()
			if name == "kubeadm" && b.kubeadm != nil {
				return b.kubeadm(arg)
			}
			return nil
		},
		// A minute of the test is a hundredth of a second.
		Pull: func(_ context.Context, socket string, _ []string, _ func(string)) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.pulled = append(b.pulled, socket)
			return nil
		},
		Forget:  func(context.Context, string, time.Time) (int, error) { return 0, nil },
		Enforce: func(context.Context, netpol.Rules) error { return nil },
		Sleep: func(ctx context.Context, d time.Duration) error {
			b.mu.Lock()
			if d < time.Minute { // not that of the clock's keeper
				b.slept += d
			}
			b.mu.Unlock()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(d / 6000):
				return nil
			}
		},
	}
	b.disk = filepath.Join(b.Root, "disk")
	hash, err := hex.DecodeString(rootHash)
	if err != nil {
		t.Fatal(err)
	}
	root, verity := disk.RootGUIDs([32]byte(hash))
	const slotSize = 1 << 20
	err = disk.Write(b.disk, disk.Layout{GUID: "00000000-0000-4000-8000-000000000001", Partitions: []disk.Partition{
		{Name: "holdfast-root-a", TypeGUID: disk.TypeRootX86, PartGUID: root, Size: slotSize},
		{Name: "holdfast-verity-a", TypeGUID: disk.TypeRootX86Verity, PartGUID: verity, Size: slotSize},
		{Name: "holdfast-root-b", TypeGUID: disk.TypeRootX86, PartGUID: "00000000-0000-4000-8000-000000000002", Size: slotSize},
		{Name: "holdfast-verity-b", TypeGUID: disk.TypeRootX86Verity, PartGUID: "00000000-0000-4000-8000-000000000003", Size: slotSize},
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.write("run/holdfast/esp/EFI/Linux/holdfast-7.efi", "kernel")
	b.write("proc/cmdline", "quiet roothash="+rootHash+" holdfast.release=7 panic=5\n")
	b.write("sys/class/dmi/id/product_serial", "S1\n")
	b.write("sys/class/net/eth0/address", mac+"\n")
	b.write("sys/class/net/eth0/device/vendor", "")
	for _, d := range []string{"etc/kubernetes/manifests", "var/lib/etcd", "var/lib/holdfast"} {
		if err := os.MkdirAll(filepath.Join(b.Root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := signing.GenerateRelease(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (b *box) trust(k *ecdsa.PrivateKey) {
	b.t.Helper()
	pk, err := signing.NewKey("test", &k.PublicKey, false)
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := signing.NewPolicy([]signing.Key{pk}, []signing.Rule{{Zone: "official", Threshold: 1, Keys: []string{pk.ID}}})
	if err != nil {
		b.t.Fatal(err)
	}
	j, err := p.Marshal()
	if err != nil {
		b.t.Fatal(err)
	}
	b.write("usr/lib/holdfast/trust/policy.json", string(j))
	b.write("usr/lib/holdfast/os.json", `{"zone":"official"}`)
}

// seed writes signed release 7 into the seed store.
func (b *box) seed(k *ecdsa.PrivateKey, mac string) {
	b.t.Helper()
	s, rel, sigs := b.release(k, mac, 7)
	entries, err := bundles.Layout(s, rel, sigs)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		data := e.Data
		if data == nil {
			if data, err = os.ReadFile(s.Path(e.Content.Digest)); err != nil {
				b.t.Fatal(err)
			}
		}
		b.write("run/holdfast/seed/"+e.Path, string(data))
	}
}

// bundle is a signed release in a file.
func (b *box) bundle(k *ecdsa.PrivateKey, mac string, number uint64) string {
	b.t.Helper()
	s, rel, sigs := b.release(k, mac, number)
	var out bytes.Buffer
	if err := bundles.Pack(b.t.Context(), &out, s, rel, sigs, nil); err != nil {
		b.t.Fatal(err)
	}
	return out.String()
}

// release composes and signs a release.
func (b *box) release(k *ecdsa.PrivateKey, mac string, number uint64) (*store.Store, bundles.Release, []signing.Signature) {
	b.t.Helper()
	s, err := store.Open(b.t.TempDir())
	if err != nil {
		b.t.Fatal(err)
	}
	put := func(data string) store.Content {
		c, err := s.WriteBytes([]byte(data))
		if err != nil {
			b.t.Fatal(err)
		}
		return c
	}
	config := put(`{"os":"linux"}`)
	manifest := put(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, config.Digest, config.Size))
	node := map[string]any{
		"name": "demo", "release": number, "zone": "official", "domain": "demo.example", "labAccess": true,
		"engine": b.engine, "recovery": b.keys, "backups": b.backups,
		"nodes": []any{map[string]any{"name": "node1", "match": map[string]string{"mac": mac}, "address": "10.0.2.15/24", "gateway": "10.0.2.2"}},
		"components": []any{map[string]any{"name": "db", "namespace": "db",
			"secrets": []any{map[string]any{"name": "admin", "namespace": "db", "generate": map[string]int{"password": 32}}}}},
	}
	var images []bundles.Image
	var listed []any
	for _, n := range []string{"pause:3.10.1", "kube-apiserver:v1.36.3", "kube-controller-manager:v1.36.3", "kube-scheduler:v1.36.3", "etcd:3.6.5-0"} {
		images = append(images, bundles.Image{Name: "registry.k8s.io/" + n, Component: "kubernetes", Manifest: manifest})
		listed = append(listed, map[string]any{"name": "registry.k8s.io/" + n, "digest": manifest.Digest, "component": "kubernetes"})
	}
	node["images"] = listed
	nodeJSON, err := json.Marshal(node)
	if err != nil {
		b.t.Fatal(err)
	}
	raw := store.Content{Digest: store.FromBytes([]byte("raw")), Size: 3}
	root := rootHash // of 7, which runs
	if number != 7 {
		root = fmt.Sprintf("%064x", number)
	}
	rel, err := bundles.Compose(s, bundles.ReleaseInput{
		Facts: bundles.Facts{Name: "demo", Release: number, Zone: "official", Domain: "demo.example", Version: "0.1.0", Epoch: epoch, RootHash: root},
		OS: []bundles.File{
			{Title: bundles.RootErofs, MediaType: bundles.MediaRoot, Content: put("root"), Raw: raw},
			{Title: bundles.RootVerity, MediaType: bundles.MediaVerity, Content: put("verity"), Raw: raw},
			{Title: bundles.UKI, MediaType: bundles.MediaUEFI, Content: put("kernel")},
		},
		Images: images,
		Manifests: []bundles.ComponentManifests{{Component: "db", Files: []bundles.File{{Title: "db.yaml",
			Content: put("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: db}\n")}}}},
		Site: put(`{"site":1}`), Node: put(string(nodeJSON)),
		SBOM: put(`{"spdxVersion":"SPDX-2.3","packages":[],"files":[]}`), Provenance: put(`{"lock":"x"}`),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	sig, err := signing.Sign(string(rel.Index.Digest), fmt.Sprintf("demo:%d", number), k, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return s, rel, []signing.Signature{sig}
}

// start runs the agent until the console shows want.
func (b *box) start(want string) {
	b.t.Helper()
	b.startAnd(want, func() {})
}

// startAnd runs the agent until the console shows want, and on while f does.
func (b *box) startAnd(want string, f func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan int)
	go func() {
		done <- agent.Main(ctx, []string{"run"}, func(string) agent.Host { return b.Host }, nil, io.Discard, logOf{b})
	}()
	deadline := time.After(20 * time.Second)
	for !strings.Contains(b.said(), want) {
		select {
		case <-time.After(5 * time.Millisecond):
			continue
		case <-deadline:
			b.t.Errorf("the console does not show %q:\n%s", want, b.said())
		case code := <-done:
			b.t.Fatalf("run ended with %d:\n%s", code, b.said())
		}
		break
	}
	f()
	cancel()
	if code := <-done; code != 0 {
		b.t.Errorf("stopped with %d", code)
	}
}

func (b *box) status() (s status.Status) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.read("run/holdfast/status.json")), &s); err != nil {
		b.t.Error(err)
	}
	return s
}

const kubeconfig = `{"clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],"contexts":[{"name":"x","context":{"cluster":"c"}}],"current-context":"x"}`

// Where the processor is emulated, what the engine runs does not push itself
// forward.
func TestEmulated(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	b.kubeadm = func([]string) error { b.write("etc/kubernetes/admin.conf", kubeconfig); return nil }
	b.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n")
	b.start("waiting for the API server since 1")
	reload, start := slices.Index(b.ran, "systemctl daemon-reload"), slices.Index(b.ran, "systemctl start containerd.service")
	if reload < 0 || start < reload {
		t.Errorf("ran %q", b.ran)
	}
	for _, u := range []string{"kubelet", "containerd"} {
		got := b.read("run/systemd/system/" + u + ".service.d/50-emulated.conf")
		if !strings.Contains(got, "CPUSchedulingPolicy=batch\n") || !strings.Contains(got, "Environment=GODEBUG=asyncpreemptoff=1\n") {
			t.Errorf("%s: %q", u, got)
		}
	}
	if got := b.read("run/holdfast/kubeadm/patches/kube-apiserver1+strategic.json"); !strings.Contains(got, `"GODEBUG"`) {
		t.Errorf("the API server: %q", got)
	}
}

// What the kernel counted is told, with the name of the pod that has the address.
func TestOutside(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	b.write("var/lib/cni/results/bridge-1-eth0", `{"cniArgs":[["K8S_POD_NAMESPACE","db"],["K8S_POD_NAME","db-0"]],"result":{"ips":[{"address":"10.244.0.5/24"}]}}`)
	b.outside = `{"nftables":[{"set":{"name":"pods","elem":[{"elem":{"val":{"concat":["10.244.0.5","198.51.100.1","tcp",443]},"counter":{"packets":3}}}]}}]}`
	b.start("OUTSIDE: pod db/db-0: tcp to 198.51.100.1:443 (3 packets)")
	if rules := b.read("run/holdfast/outside.nft"); !strings.Contains(rules, "ip daddr 10.0.2.2 goto") || !strings.Contains(rules, "ip daddr 10.244.0.0/16 return") {
		t.Error(rules)
	}
	b.outside = "damaged"
	b.kubeadm = func([]string) error { b.write("etc/kubernetes/admin.conf", kubeconfig); return nil }
	b.start("waiting for the API server since 1")
	if o := b.status().Outside; len(o.Tries) != 0 || !strings.Contains(o.Fault, "cannot read what nft lists") {
		t.Errorf("%+v", o)
	}
}

func TestUpToTheAPIServer(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	b.clock = time.Unix(1000, 0) // a dead battery
	b.kubeadm = func(arg []string) error {
		b.write("etc/kubernetes/admin.conf", kubeconfig)
		b.write("etc/kubernetes/kubelet.conf", kubeconfig)
		return nil
	}
	b.start("waiting for the API server since 1")
	if b.set.Unix() != epoch {
		t.Errorf("the clock was set to %v", b.set)
	}
	// What needs the API server waits for it.
	want := []string{"nft -f /run/holdfast/outside.nft", "networkctl reload", "udevadm settle --timeout=30", "systemctl start containerd.service", "kubeadm init --config /run/holdfast/kubeadm/config.yaml --skip-token-print --skip-phases "}
	if len(b.ran) != 5 || !slices.Equal(b.ran[:4], want[:4]) || !strings.HasPrefix(b.ran[4], want[4]) || b.name != "node1" {
		t.Errorf("ran %q as %s", b.ran, b.name)
	}
	for _, f := range []string{
		"run/systemd/network/10-holdfast.network", "run/holdfast/resolv.conf", "run/holdfast/containerd/config.toml",
		"run/holdfast/certs.d/registry.k8s.io/hosts.toml",
		"run/holdfast/kubeadm/patches/etcd0+strategic.json", "var/lib/holdfast/time",
		"var/lib/holdfast/secrets/db_admin.json",
	} {
		b.read(f)
	}
	s := b.status()
	if s.Phase != status.EngineUp || s.Release.Number != 7 || s.Node.Name != "node1" || s.Engine.Reason == "" {
		t.Errorf("%+v", s)
	}
	// The next boot after an init that ended renders the static pods again, and
	// makes nothing anew.
	b.write("var/lib/holdfast/kubeadm.done", "done\n")
	secret := b.read("var/lib/holdfast/secrets/db_admin.json")
	b.ran, b.console = nil, bytes.Buffer{}
	const network = "etc/cni/net.d/10-holdfast.conflist"
	b.write(network, "of the boot before")
	b.remove("run/holdfast/containerd")
	b.start("waiting for the API server")
	if _, err := os.Stat(filepath.Join(b.Root, network)); err == nil {
		t.Error("pods have a network before service addresses work")
	}
	// In the same boot, a new agent leaves it open.
	b.write(network, "of this boot")
	b.start("waiting for the API server")
	b.read(network)
	if len(b.ran) != 14 || !strings.HasPrefix(b.ran[3], "kubeadm init phase etcd local") {
		t.Errorf("ran %q", b.ran)
	}
	if b.read("var/lib/holdfast/secrets/db_admin.json") != secret {
		t.Error("the secret changed")
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *box, k *ecdsa.PrivateKey)
		want   []string
	}{
		"another key": {func(b *box, k *ecdsa.PrivateKey) { b.trust(key(b.t)) }, []string{"cannot find the running release", "cannot accept release"}},
		"no policy": {func(b *box, k *ecdsa.PrivateKey) {
			b.remove("usr/lib/holdfast/trust/policy.json")
		}, []string{"cannot read the trust policy"}},
		"another root": {func(b *box, k *ecdsa.PrivateKey) {
			b.write("proc/cmdline", "holdfast.release=7 roothash="+strings.Repeat("b", 64))
		},
			[]string{"release demo 7 is not it: its root is aaaa"}},
		"another release with this root": {func(b *box, k *ecdsa.PrivateKey) {
			b.write("proc/cmdline", "holdfast.release=8 roothash="+rootHash)
		}, []string{"cannot find the running release, number 8", "release demo 7 is not it"}},
		"no root hash": {func(b *box, k *ecdsa.PrivateKey) { b.write("proc/cmdline", "quiet") }, []string{"no roothash="}},
		"no release": {func(b *box, k *ecdsa.PrivateKey) {
			b.remove("run/holdfast/seed")
		}, []string{"cannot find"}},
		"another machine": {func(b *box, k *ecdsa.PrivateKey) { b.seed(k, "52:54:00:00:00:01") },
			[]string{"no node of this site matches this machine", `serial "S1"`, mac, "node1"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			k := key(t)
			b.trust(k)
			b.seed(k, mac)
			c.change(b, k)
			b.start("FAULT")
			for _, w := range c.want {
				if !strings.Contains(b.said(), w) {
					t.Errorf("no word of %q in:\n%s", w, b.said())
				}
			}
			if len(b.ran) != 0 {
				t.Errorf("started %q", b.ran)
			}
			if s := b.status(); s.Phase != status.Refused || len(s.Faults) != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestTheFaultIsRepeatedAndThenGone(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan int)
	go func() {
		done <- agent.Main(ctx, []string{"run"}, func(string) agent.Host { return b.Host }, nil, io.Discard, io.Discard)
	}()
	for strings.Count(b.said(), "FAULT") < 3 {
		time.Sleep(time.Millisecond)
	}
	b.seed(k, mac)
	for !strings.Contains(b.said(), "this machine is node node1") {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
}

func TestTheClockOnlyGoesForward(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	b.start("this machine is node node1")
	if !b.set.IsZero() {
		t.Errorf("a clock that is right was set to %v", b.set)
	}
	later := int64(epoch + 1_000_000)
	b.write("var/lib/holdfast/time", fmt.Sprint(later))
	b.console.Reset()
	b.start("this machine is node node1")
	if b.set.Unix() != later {
		t.Errorf("set to %v, not to the time persisted last", b.set)
	}
}

// A clock that is later than the release and earlier than what was written may
// be right, and what was written wrong: somebody at the console says so.
func TestAClockThatWasAhead(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	right, wrong := b.clock.Unix(), b.clock.AddDate(2, 0, 0).Unix()
	b.write("var/lib/holdfast/time", fmt.Sprint(wrong))
	b.typed = make(chan string, 2)
	b.typed <- "yes"
	b.typed <- "the clock is right"
	b.start("this machine is node node1")
	if b.set.Unix() != right {
		t.Errorf("the clock was set to %v", b.set)
	}
	if !strings.Contains(b.said(), `that is not "the clock is right"`) {
		t.Errorf("the console shows:\n%s", b.said())
	}
	if s := b.read("var/lib/holdfast/time"); s != fmt.Sprint(right) {
		t.Errorf("%s is written, not %d", s, right)
	}
	// timesyncd has its own file, and has set the time forward already.
	b.write("var/lib/systemd/timesync/clock", "")
	b.write("sys/class/rtc/rtc0/since_epoch", fmt.Sprintln(right))
	b.clock = time.Unix(wrong, 0)
	b.console.Reset()
	b.typed <- "the clock is right"
	b.start("the clock is taken for right")
	if fi, err := os.Stat(filepath.Join(b.Root, "var/lib/systemd/timesync/clock")); err != nil || fi.ModTime().Unix() != right || b.set.Unix() != right {
		t.Errorf("set to %v; timesyncd's file: %v, %v", b.set, fi, err)
	}
	b.remove("sys/class/rtc")
	// Before the release was made it is wrong for certain, and nobody is asked.
	b.write("var/lib/holdfast/time", fmt.Sprint(wrong))
	b.clock = time.Unix(epoch-1000, 0)
	b.typed <- "the clock is right"
	b.start("this machine is node node1")
	if b.set.Unix() != wrong {
		t.Errorf("the clock was set to %v", b.set)
	}
}

// TestLabPort talks over a terminal, a device as the port is one.
func TestLabPort(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	host, name, err := openPTY()
	if err != nil {
		t.Skip("no pseudo terminal: ", err)
	}
	defer host.Close()
	port := filepath.Join(b.Root, "dev/virtio-ports/dev.holdfast.lab")
	if err := errors.Join(os.MkdirAll(filepath.Dir(port), 0o755), os.Symlink(name, port)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		done <- agent.Main(ctx, []string{"run"}, func(string) agent.Host { return b.Host }, nil, io.Discard, io.Discard)
	}()
	fmt.Fprint(host, "\n{\"id\":5,\"op\":\"status\"}\n")
	in := bufio.NewScanner(host)
	for in.Scan() && !strings.Contains(in.Text(), `"ok":true`) { // past the terminal's echo
	}
	if !strings.Contains(in.Text(), `"id":5`) || !strings.Contains(in.Text(), `"name":"demo"`) {
		t.Errorf("answered %s", in.Text())
	}
	cancel()
	<-done
}

func openPTY() (*os.File, string, error) {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, "", err
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.TIOCSPTLCK, 0)
	}
	return f, fmt.Sprintf("/dev/pts/%d", n), err
}

// TestServe asks the real port, where another program may listen.
func TestServe(t *testing.T) {
	for name, trusted := range map[string]bool{"trusted": true, "untrusted": false} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			k := key(t)
			b.seed(k, mac)
			if !trusted {
				k = key(t)
			}
			b.trust(k)
			if l, err := net.Listen("tcp", "127.0.0.1:5001"); err != nil {
				t.Skip("port 5001 is in use: ", err)
			} else {
				l.Close()
			}
			socket := filepath.Join(t.TempDir(), "notify")
			systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer systemd.Close()
			b.Getenv = func(string) string { return socket }
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan int)
			go func() {
				done <- agent.Main(ctx, []string{"serve"}, func(string) agent.Host { return b.Host }, nil, io.Discard, io.Discard)
			}()
			buf := make([]byte, 100)
			if n, err := systemd.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "READY=1\n") {
				t.Errorf("systemd was told %q, %v", buf[:n], err)
			}
			resp, err := http.Get("http://127.0.0.1:5001/v2/etcd/manifests/3.6.5-0?ns=registry.k8s.io")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if (resp.StatusCode == http.StatusOK) != trusted {
				t.Error(resp.Status)
			}
			cancel()
			if code := <-done; code != 0 {
				t.Errorf("stopped with %d", code)
			}
		})
	}
}

// TestRealServer goes all the way with the API server that
// HOLDFAST_TEST_KUBECONFIG names, on which it makes a node.
func TestRealServer(t *testing.T) {
	file := os.Getenv("HOLDFAST_TEST_KUBECONFIG")
	if file == "" {
		t.Skip("HOLDFAST_TEST_KUBECONFIG names no API server")
	}
	c, err := apply.Connect(file)
	if err != nil {
		t.Fatal(err)
	}
	objs, err := apply.Parse([]byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"node1"},
	  "status":{"conditions":[{"type":"Ready","status":"True"}],"nodeInfo":{"kubeletVersion":"v1.36.3"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), objs[0]); err != nil {
		t.Fatal(err)
	}
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	real, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b.kubeadm = func([]string) error { b.write("etc/kubernetes/admin.conf", string(real)); return nil }
	b.start("healthy: release demo 7, node node1, 2 components")
	t.Log("\n" + b.said() + b.read("run/holdfast/status.json"))
}

func TestStatusAndUsage(t *testing.T) {
	b := newBox(t)
	do := func(arg ...string) (int, string) {
		var out bytes.Buffer
		code := agent.Main(t.Context(), arg, func(string) agent.Host { return b.Host }, nil, &out, &out)
		return code, out.String()
	}
	if code, out := do("status"); code != 1 || !strings.Contains(out, "hint:") {
		t.Errorf("%d %s", code, out)
	}
	b.write("run/holdfast/status.json", `{"phase":"degraded","node":{"name":"n","ready":true},"components":[{"name":"db","healthy":false,"reason":"pod db-0: pulling"}]}`)
	if code, out := do("status"); code != 0 || !strings.Contains(out, "component db: not healthy: pod db-0: pulling\n") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := do("status", "--json"); code != 0 || !strings.HasPrefix(out, `{"phase"`) {
		t.Errorf("%d %s", code, out)
	}
	for _, arg := range [][]string{{}, {"frob"}, {"status", "x"}, {"--bad"}} {
		if code, _ := do(arg...); code != 2 {
			t.Errorf("%q: %d", arg, code)
		}
	}
}

// A stick is looked at and its bundle verified; what is not verified is not
// offered.
func TestStickRefused(t *testing.T) {
	b := newBox(t)
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	b.write("dev/disk/by-label/HOLDFAST", "")
	b.start("the stick is not taken: cannot choose a bundle: the stick has 0")
	b.write("run/holdfast/stick/demo-8.bundle", "no bundle")
	b.start("the stick is not taken: ")
	if s := b.said(); !strings.Contains(s, "hint: ") && !strings.Contains(s, "bundle") {
		t.Errorf("no reason in:\n%s", s)
	}
}
