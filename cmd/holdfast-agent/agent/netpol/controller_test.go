package netpol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	cachetest "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/knftables"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"ns": name}}}
}

func pod(name, ip string, change ...func(*corev1.Pod)) *corev1.Pod {
	ns, name, _ := strings.Cut(name, "/")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"pod": name}},
		Spec:   corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

// here gives the pods of a state, with their addresses.
func here(s State) (out []string) {
	for _, p := range s.Pods {
		out = append(out, fmt.Sprintf("%s %s %v", p, p.IP, p.Here))
	}
	slices.Sort(out)
	return out
}

func TestState(t *testing.T) {
	now := time.Now()
	rec := func(name, uid, ip string, age time.Duration) record {
		ns, name, _ := strings.Cut(name, "/")
		return record{ns, name, uid, netip.MustParseAddr(ip), now.Add(-age)}
	}
	for name, c := range map[string]struct {
		pods    []*corev1.Pod
		records []record
		want    []string
	}{
		"by status": {[]*corev1.Pod{pod("x/a", "10.0.0.2")}, nil, []string{"x/a 10.0.0.2 true"}},
		"not told yet, but given": {[]*corev1.Pod{pod("x/a", "")}, []record{rec("x/a", "uid-a", "10.0.0.2", 0)},
			[]string{"x/a 10.0.0.2 true"}},
		"neither": {[]*corev1.Pod{pod("x/a", "")}, nil, nil},
		"the newest record counts, before the status": {[]*corev1.Pod{pod("x/a", "10.0.0.2")},
			[]record{rec("x/a", "uid-a", "10.0.0.4", 0), rec("x/a", "uid-a", "10.0.0.3", time.Hour)}, []string{"x/a 10.0.0.4 true"}},
		"a record of another pod of that name": {[]*corev1.Pod{pod("x/a", "")}, []record{rec("x/a", "uid-old", "10.0.0.2", 0)}, nil},
		"a pod of the node's own files": {[]*corev1.Pod{pod("x/a", "", func(p *corev1.Pod) { p.Annotations = map[string]string{mirrors: "hash"} })},
			[]record{rec("x/a", "hash", "10.0.0.2", 0)}, []string{"x/a 10.0.0.2 true"}},
		"an address that went to another": {[]*corev1.Pod{pod("x/a", "10.0.0.2"), pod("x/b", "")}, []record{rec("x/b", "uid-b", "10.0.0.2", 0)},
			[]string{"x/b 10.0.0.2 true"}},
		"an address that two claim": {[]*corev1.Pod{pod("x/a", "10.0.0.2"), pod("x/b", "10.0.0.2")}, nil, nil},
		"on the node's network":     {[]*corev1.Pod{pod("x/a", "192.0.2.1", func(p *corev1.Pod) { p.Spec.HostNetwork = true })}, nil, nil},
		"ended": {[]*corev1.Pod{pod("x/a", "10.0.0.2", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
			pod("x/b", "10.0.0.3", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, nil, nil},
		"its namespace is not known yet": {[]*corev1.Pod{pod("new/a", "10.0.0.2")}, nil, nil},
		"on another node": {[]*corev1.Pod{pod("x/a", "10.0.1.2", func(p *corev1.Pod) { p.Spec.NodeName = "node2" })}, nil,
			[]string{"x/a 10.0.1.2 false"}},
		"IPv6": {[]*corev1.Pod{pod("x/a", "fd00::2")}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{namespace("x")}
			for _, p := range c.pods {
				o, err := slim(p)
				if err != nil {
					t.Fatal(err)
				}
				objects = append(objects, o.(runtime.Object))
			}
			if got := here(state(objects, c.records, "node1")); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A record as containerd 2 writes it, shortened.
const written = `{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"holdfast","netns":"/var/run/netns/n",
"cniArgs":[["K8S_POD_NAME","%s"],["K8S_POD_INFRA_CONTAINER_ID","c1"],["K8S_POD_UID","%s"],["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","x"]],
"result":{"cniVersion":"1.0.0","interfaces":[{"name":"vethaa"},{"name":"eth0","sandbox":"/var/run/netns/n"}],"ips":[{"address":"%s/24","gateway":"10.0.0.1","interface":1}]}}`

func writeRecord(t *testing.T, dir, pod, ip string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "holdfast-"+pod+"-eth0"), fmt.Appendf(nil, written, pod, "uid-"+pod, ip), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	if rs, err := readRecords(filepath.Join(dir, "none")); err != nil || rs != nil {
		t.Errorf("%v, %v", rs, err)
	}
	writeRecord(t, dir, "a", "10.0.0.2")
	for name, data := range map[string]string{"half": written[:50], "empty": "", "list": "[]", "noargs": `{"result":{"ips":[{"address":"10.0.0.3/24"}]}}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := readRecords(dir)
	if err != nil || len(rs) != 1 || rs[0].namespace != "x" || rs[0].name != "a" || rs[0].uid != "uid-a" || rs[0].ip.String() != "10.0.0.2" {
		t.Errorf("%+v, %v", rs, err)
	}
}

// kernel remembers what was loaded, and can refuse.
type kernel struct {
	mu     sync.Mutex
	rules  []Rules
	refuse error
}

func (k *kernel) load(_ context.Context, r Rules) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse == nil {
		k.rules = append(k.rules, r)
	}
	return k.refuse
}

func (k *kernel) set(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = err
}

// shows waits until the rules in force are as wanted.
func (k *kernel) shows(t *testing.T, what string, want func(Rules) bool) {
	t.Helper()
	for range 500 {
		k.mu.Lock()
		ok := len(k.rules) > 0 && want(k.rules[len(k.rules)-1])
		k.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never in force: %s", what)
}

// source lists and watches what a test changes.
type source struct {
	*cachetest.FakeControllerSource
}

func (s source) IsWatchListSemanticsUnSupported() bool { return true }

func TestController(t *testing.T) {
	namespaces, pods, nps := source{cachetest.NewFakeControllerSource()}, source{cachetest.NewFakeControllerSource()}, source{cachetest.NewFakeControllerSource()}
	dir := filepath.Join(t.TempDir(), "results")
	var k kernel
	c := Run(t.Context(), Cluster{lister(nps), lister(namespaces), lister(pods)}, "node1", dir, k.load, slog.New(slog.DiscardHandler))
	k.shows(t, "nothing, of an empty cluster", func(r Rules) bool { return len(r.Pods) == 0 })

	namespaces.Add(namespace("x"))
	pods.Add(pod("x/a", ""))
	writeRecord(t, dir, "a", "10.0.0.2")
	k.shows(t, "a pod that just got its address", func(r Rules) bool { return len(r.Pods) == 1 && r.Pods[0].IP.String() == "10.0.0.2" })

	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "deny"}}
	nps.Add(np)
	k.shows(t, "a new policy", func(r Rules) bool { return len(r.Ingress[0]) == 1 })
	if err := c.Err(); err != nil {
		t.Error(err)
	}

	k.set(errors.New("no memory"))
	nps.Delete(np)
	for range 500 {
		if c.Err() != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := c.Err(); err == nil || err.Error() != "no memory" {
		t.Errorf("rules that cannot be loaded: %v", err)
	}
	k.set(nil)
	k.shows(t, "the policy's deletion, tried again", func(r Rules) bool { return len(r.Ingress) == 0 })

	bad := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "bad"},
		Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{}}}}}}
	nps.Add(bad)
	k.shows(t, "a policy that cannot be used, which allows nothing", func(r Rules) bool { return len(r.Ingress[0]) == 1 && r.Policies[0].Allow == nil })
}

func lister(s source) cache.ListerWatcher {
	return &cache.ListWatch{ListFunc: s.List, WatchFunc: s.Watch, DisableChunking: true}
}

// The rules as the kernel gets them.
func TestGolden(t *testing.T) {
	s := world()
	s.Pods = s.Pods[:4]
	s.Policies = policies(t, map[string]string{
		"x/default-deny": "{podSelector: {}, policyTypes: [Ingress, Egress]}",
		"x/a": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress],
		  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}, {podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}, {port: 8000, endPort: 8009}, {port: serve-80-udp, protocol: UDP}]}],
		  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}], ports: [{port: 6443}]}, {to: [{podSelector: {matchLabels: {pod: c}}}]}]}`,
	})
	r, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	tx := knftables.NewFake(knftables.InetFamily, TableName).NewTransaction()
	clearTable(tx, map[string][]string{"chain": {"forward", "servers", "pod-ingress/x/gone"}, "map": {"ingress"}, "set": {"pods"}})
	fill(tx, r)
	const name = "testdata/rules.nft"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(tx.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || string(want) != tx.String() {
		t.Errorf("%s differs (%v); got:\n%s", name, err, tx)
	}
}

func TestLongNames(t *testing.T) {
	a, b := chainName("pod-ingress", strings.Repeat("n", 63), strings.Repeat("a", 253)), chainName("pod-ingress", strings.Repeat("n", 63), strings.Repeat("a", 252)+"b")
	if a == b || len(a) > 255 {
		t.Errorf("%d %s %s", len(a), a, b)
	}
}
