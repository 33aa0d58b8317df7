package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

func TestParse(t *testing.T) {
	objs, err := Parse([]byte(`# a comment
---
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: a}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: a}}
`))
	if err != nil || len(objs) != 3 || objs[2].GetName() != "c" {
		t.Errorf("%v, %v", objs, err)
	}
	for _, bad := range []string{"kind: X\n", "a: [\n", "- a\n", "apiVersion: v1\nkind: X\nmetadata: {}\n"} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("read %q", bad)
		}
	}
}

func TestReasons(t *testing.T) {
	two := int32(2)
	d := appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &two}}
	d.Generation, d.Status = 3, appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}
	if r := deploymentReason(&d); r == "" {
		t.Error("an old status counts as ready")
	}
	d.Status.ObservedGeneration = 3
	if r := deploymentReason(&d); r != "" {
		t.Error(r)
	}
	d.Status.AvailableReplicas = 1
	if r := deploymentReason(&d); r != "1 of 2 pods available" {
		t.Error(r)
	}
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
		{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}}}}}
	if r := podReason(&p); r != "pod web-0: web: ErrImagePull: not found" {
		t.Error(r)
	}
	s := &p.Status.ContainerStatuses[0]
	s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 5m0s"}
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Message: "starting\nno such role\n"}
	if r := podReason(&p); r != "pod web-0: web: CrashLoopBackOff: no such role" {
		t.Error(r)
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: ephemeral-storage.", ContainerStatuses: p.Status.ContainerStatuses}
	if r := podReason(&p); r != "pod web-0: Evicted: The node was low on resource: ephemeral-storage." {
		t.Error(r)
	}
	p.Status = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no memory"}}}
	if r := podReason(&p); r != "pod web-0: not scheduled: no memory" {
		t.Error(r)
	}
	if stoppedByReboot(&p) || !stoppedByReboot(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Terminated"}}) {
		t.Error("a pod that went down with the machine is not told from others")
	}
	ready := corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	going := ready
	going.DeletionTimestamp = &metav1.Time{}
	if r := podsReason([]corev1.Pod{ready, going, p}, 2); r != "1 of 2 pods ready" {
		t.Error(r)
	}
	if r := podsReason([]corev1.Pod{ready, going}, 1); r != "" {
		t.Error(r)
	}
	// A stateful set whose status is of before the reboot, and no pods.
	if r := podsReason(nil, 1); r != "0 of 1 pods ready" {
		t.Error(r)
	}
	if r := failedChecks("[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed\n"); r != "etcd, poststarthook/x" {
		t.Error(r)
	}
}

// fake is a cluster in which workloads are as unready says.
type fake struct {
	done    []string
	lines   map[string][]string // the inventory
	refuse  string
	unready map[string]string
}

func (f *fake) EnsureNamespace(_ context.Context, n string) error {
	f.done = append(f.done, "ensure "+n)
	return nil
}

func (f *fake) Apply(_ context.Context, o *unstructured.Unstructured) error {
	if f.refuse != "" && strings.Contains(objectName(o), f.refuse) {
		return errors.New("refused")
	}
	f.done = append(f.done, objectName(o))
	return nil
}

func (f *fake) Unready(_ context.Context, r node.Ready) (string, error) {
	return f.unready[r.Name], nil
}

func (f *fake) SaveInventory(_ context.Context, o map[string][]string) error {
	f.done = append(f.done, fmt.Sprintf("inventory of %d", len(o)))
	return nil
}

func (f *fake) Inventory(context.Context) (map[string][]string, error) { return f.lines, nil }

func (f *fake) SetInventory(_ context.Context, o map[string][]string) error {
	f.lines = o
	return nil
}

func (f *fake) Delete(_ context.Context, line string) error {
	if f.refuse != "" && strings.Contains(line, f.refuse) {
		return errors.New("refused")
	}
	f.done = append(f.done, "delete "+line)
	return nil
}

// What only earlier releases had goes, but for data and what holds it; what
// could not be removed is remembered.
func TestPrune(t *testing.T) {
	f := &fake{refuse: "stuck", lines: map[string][]string{
		"web": {"apps/v1 Deployment web web", "v1 ConfigMap web old", "v1 ConfigMap web stuck", "v1 Secret web password"},
		"db":  {"v1 PersistentVolumeClaim db data", "apps/v1 StatefulSet db db", "v1 Namespace - db", "apps/v1beta1 Deployment web web"},
	}}
	r := NewReconciler(f, []Component{component(t, "web", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: web}\n")}, nil, time.Now)
	removed, err := r.Prune(t.Context())
	if err == nil || !slices.Equal(removed, []string{"apps/v1 StatefulSet db db", "v1 ConfigMap web old"}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	want := map[string][]string{
		"web": {"apps/v1 Deployment web web", "v1 ConfigMap web stuck", "v1 Secret web password"},
		// The same object in an older version of its kind.
		"db": {"v1 PersistentVolumeClaim db data", "v1 Namespace - db", "apps/v1beta1 Deployment web web"},
	}
	if !maps.EqualFunc(f.lines, want, slices.Equal) {
		t.Errorf("the inventory is %q", f.lines)
	}
	f.refuse = ""
	if removed, err := r.Prune(t.Context()); err != nil || len(removed) != 1 {
		t.Errorf("again: %q, %v", removed, err)
	}
	if removed, err := r.Prune(t.Context()); err != nil || len(removed) != 0 {
		t.Errorf("with nothing left: %q, %v", removed, err)
	}
}

func component(t *testing.T, name, yaml string, needs ...string) Component {
	t.Helper()
	objs, err := Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return Component{node.Component{Name: name, Namespace: name, Needs: needs,
		Ready: []node.Ready{{Kind: "Deployment", Namespace: name, Name: name}}}, objs}
}

func TestOrder(t *testing.T) {
	db := component(t, "db", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: db}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: db}\n")
	db.Secrets = []node.Secret{{Name: "pw", Namespace: "db"}}
	web := component(t, "web", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: web}\n", "db")
	f := &fake{unready: map[string]string{"db": "pulling"}, refuse: "Service"}
	clock := time.Unix(0, 0)
	r := NewReconciler(f, []Component{db, web}, func(node.Secret) (map[string]string, error) { return nil, nil }, func() time.Time { return clock })

	h := r.Tick(t.Context())
	want := []string{"inventory of 2", "Namespace db", "Secret db/pw", "ConfigMap db/c"}
	if !slices.Equal(f.done, want) || h[0].Reason != "pulling" || h[1].Reason != "waits for db" {
		t.Fatalf("%q, %+v", f.done, h)
	}
	f.unready, f.done = nil, nil
	clock = clock.Add(lookAgainWaiting)
	if h = r.Tick(t.Context()); !h[0].Healthy || h[1].Reason != "refused" {
		t.Fatalf("%+v", h)
	}
	f.refuse = ""
	if h = r.Tick(t.Context()); h[1].Applied {
		t.Fatal("tried again without a pause")
	}
	clock = clock.Add(firstDelay)
	if h = r.Tick(t.Context()); !h[1].Healthy {
		t.Fatalf("%+v", h)
	}
	f.unready = map[string]string{"db": "gone"}
	if h = r.Tick(t.Context()); !h[0].Healthy {
		t.Errorf("looked again at once: %+v", h)
	}
	clock = clock.Add(lookAgain)
	if h = r.Tick(t.Context()); h[0].Healthy || !h[1].Healthy {
		t.Errorf("%+v", h)
	}
}

// A component lets another one start first, where there is one, and not for ever.
func TestYields(t *testing.T) {
	slow := component(t, "slow", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: slow}\n")
	logs := component(t, "logs", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: logs}\n")
	logs.Yields = []string{"slow", "absent"}
	for _, c := range []struct {
		name   string
		all    []Component
		waited time.Duration
		done   bool // it has started by then
		want   string
	}{
		{"at first", []Component{slow, logs}, 0, false, "lets slow start first"},
		{"later", []Component{slow, logs}, patience - time.Second, false, "lets slow start first"},
		{"after too long", []Component{slow, logs}, patience, false, ""},
		{"once it runs", []Component{slow, logs}, time.Minute, true, ""},
		{"without it", []Component{logs}, 0, false, ""},
	} {
		f := &fake{unready: map[string]string{"slow": "starting"}}
		clock := time.Unix(0, 0)
		r := NewReconciler(f, c.all, nil, func() time.Time { return clock })
		h := r.Tick(t.Context())
		if clock = clock.Add(c.waited); c.done {
			f.unready = nil
		}
		if c.waited > 0 {
			h = r.Tick(t.Context())
		}
		got := h[len(h)-1]
		if got.Reason != c.want || got.Applied != (c.want == "") {
			t.Errorf("%s: %+v", c.name, got)
		}
		if !got.Applied {
			continue
		}
		// What runs is not taken away, and is applied anew like any other.
		f.unready = map[string]string{"slow": "starting again", "logs": "broken"}
		r.Tick(t.Context())
		clock, f.done = clock.Add(lookAgain), nil
		r.Tick(t.Context())
		clock = clock.Add(applyAgain)
		if h := r.Tick(t.Context()); !h[len(h)-1].Applied || !slices.Contains(f.done, "Service logs/s") {
			t.Errorf("%s, broken: %+v, done %q", c.name, h, f.done)
		}
	}
}

// What stays unhealthy is applied anew, with its secrets and with what it needs,
// ever less often; while that is not healthy, its status says so.
func TestAgain(t *testing.T) {
	db := component(t, "db", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: db}\n")
	web := component(t, "web", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: web}\n", "db")
	web.Secrets = []node.Secret{{Name: "pw", Namespace: "web"}}
	f := &fake{}
	clock := time.Unix(0, 0)
	r := NewReconciler(f, []Component{db, web}, func(node.Secret) (map[string]string, error) { return nil, nil }, func() time.Time { return clock })
	after := func(d time.Duration, done ...string) Health {
		t.Helper()
		clock, f.done = clock.Add(d), nil
		h := r.Tick(t.Context())
		if !slices.Equal(f.done, done) {
			t.Errorf("done: %q, want %q; %+v", f.done, done, h)
		}
		return h[1]
	}
	theDB, theWeb := []string{"ensure db", "ConfigMap db/c"}, []string{"ensure web", "Secret web/pw", "Service web/s"}
	both := slices.Concat(theDB, theWeb)
	if h := after(0, append([]string{"inventory of 2"}, both...)...); !h.Healthy {
		t.Errorf("%+v", h)
	}
	after(10 * applyAgain) // all is healthy
	f.unready = map[string]string{"web": `secret "pw" not found`}
	if h := after(lookAgain); h.Reason != `secret "pw" not found` {
		t.Errorf("%+v", h)
	}
	after(lookAgain) // its cause is told for a while
	after(applyAgain, both...)
	f.unready["db"] = "pulling"
	if h := after(lookAgain); h.Reason != `needs db, which is not healthy; secret "pw" not found` {
		t.Errorf("%+v", h)
	}
	after(applyAgain, theDB...)
	delete(f.unready, "db")
	after(lookAgain) // finds that it is healthy
	after(2*applyAgain, both...)
	after(3 * applyAgain) // not due yet
	after(applyAgain, both...)
	f.unready = nil
	if h := after(lookAgain); !h.Healthy {
		t.Errorf("%+v", h)
	}
}

// What its pods wait for by themselves is applied anew too: it may look healthy,
// and its Service be gone.
func TestAgainWhatIsUsed(t *testing.T) {
	store := component(t, "store", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: store}\n")
	logs := component(t, "logs", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: logs}\n")
	logs.Uses = []string{"store"}
	f := &fake{unready: map[string]string{"logs": "no such host"}}
	clock := time.Unix(0, 0)
	r := NewReconciler(f, []Component{store, logs}, nil, func() time.Time { return clock })
	r.Tick(t.Context())
	clock, f.done = clock.Add(applyAgain), nil
	r.Tick(t.Context())
	if want := []string{"ensure store", "Service store/s", "ensure logs", "ConfigMap logs/c"}; !slices.Equal(f.done, want) {
		t.Errorf("done: %q, want %q", f.done, want)
	}
}

// What only comes after another is applied while that one is not healthy.
func TestAfter(t *testing.T) {
	db := component(t, "db", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: db}\n")
	web := component(t, "web", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: web}\n")
	web.After = []string{"db"}
	f := &fake{unready: map[string]string{"db": "pulling", "web": "no volume"}, refuse: "ConfigMap"}
	clock := time.Unix(0, 0)
	r := NewReconciler(f, []Component{db, web}, nil, func() time.Time { return clock })
	if h := r.Tick(t.Context()); h[1].Applied || h[1].Reason != "comes after db" {
		t.Fatalf("%+v", h)
	}
	f.refuse, clock = "", clock.Add(firstDelay)
	if h := r.Tick(t.Context()); h[0].Healthy || !h[1].Applied || h[1].Reason != "no volume" {
		t.Errorf("%+v", h)
	}
}

// A client's workloads wait for the Job that another component runs for it.
func TestFirst(t *testing.T) {
	web := component(t, "web", `apiVersion: v1
kind: Service
metadata: {name: s, namespace: web}
---
apiVersion: batch/v1
kind: Job
metadata: {name: database-web-1, namespace: db}
`)
	web.First = []node.Ready{{Kind: "Job", Namespace: "db", Name: "database-web-1"}}
	f := &fake{unready: map[string]string{"database-web-1": "no such role"}}
	r := NewReconciler(f, []Component{web}, nil, func() time.Time { return time.Unix(0, 0) })
	if h := r.Tick(t.Context()); h[0].Applied || h[0].Reason != "waits for db/database-web-1: no such role" {
		t.Fatalf("%+v", h)
	}
	if want := []string{"inventory of 1", "ensure web", "Job db/database-web-1"}; !slices.Equal(f.done, want) {
		t.Errorf("done: %q", f.done)
	}
	f.unready, f.done = nil, nil
	if h := r.Tick(t.Context()); !h[0].Healthy {
		t.Fatalf("%+v", h)
	}
	if want := []string{"ensure web", "Job db/database-web-1", "Service web/s"}; !slices.Equal(f.done, want) {
		t.Errorf("then done: %q", f.done)
	}
}

func TestInventoryKeepsWhatIsToBePruned(t *testing.T) {
	got := mergeInventory(map[string][]string{"a": {"v1 ConfigMap x old"}, "gone": {"v1 Secret x y"}}, map[string][]string{"a": {"v1 ConfigMap x new"}})
	if !slices.Equal(got["a"], []string{"v1 ConfigMap x new", "v1 ConfigMap x old"}) || !slices.Equal(got["gone"], []string{"v1 Secret x y"}) {
		t.Errorf("%q", got)
	}
}

// The API server answers as Kubernetes does, and leaves out what it is asked to.
func TestReadyz(t *testing.T) {
	failed := map[string]bool{"poststarthook/rbac/bootstrap-roles": true}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body strings.Builder
		code := http.StatusOK
		for _, check := range []string{"etcd", Roles} {
			switch {
			case slices.Contains(r.URL.Query()["exclude"], check):
				fmt.Fprintf(&body, "[+]%s excluded: ok\n", check)
			case failed[check]:
				code = http.StatusInternalServerError
				fmt.Fprintf(&body, "[-]%s failed: reason withheld\n", check)
			default:
				fmt.Fprintf(&body, "[+]%s ok\n", check)
			}
		}
		w.WriteHeader(code)
		io.WriteString(w, body.String())
	}))
	defer s.Close()
	c, err := New(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Readyz(t.Context()); err == nil || !strings.Contains(err.Error(), "not ready: "+Roles) {
		t.Errorf("while roles are made: %v", err)
	}
	if err := c.Readyz(t.Context(), Roles); err != nil {
		t.Errorf("without the roles: %v", err)
	}
	failed["etcd"] = true
	if err := c.Readyz(t.Context(), Roles); err == nil || !strings.Contains(err.Error(), "not ready: etcd") {
		t.Errorf("without a datastore: %v", err)
	}
}

// TestRealServer runs against the API server that HOLDFAST_TEST_KUBECONFIG names.
func TestRealServer(t *testing.T) {
	file := os.Getenv("HOLDFAST_TEST_KUBECONFIG")
	if file == "" {
		t.Skip("HOLDFAST_TEST_KUBECONFIG names no API server")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Readyz(t.Context()); err != nil {
		t.Fatal(err)
	}
	one := component(t, "one", crdYAML)
	one.Secrets = []node.Secret{{Name: "pw", Namespace: "elsewhere"}}
	r := NewReconciler(c, []Component{one}, func(node.Secret) (map[string]string, error) {
		return map[string]string{"password": "x"}, nil
	}, time.Now)
	for range 2 { // the second time everything is there already
		h := r.Tick(t.Context())
		if !h[0].Applied || h[0].Healthy || h[0].Reason == "" {
			t.Errorf("%+v", h)
		}
		t.Logf("%+v", h)
		r = NewReconciler(c, []Component{one}, r.secrets, time.Now)
	}
	var inv corev1.ConfigMap
	if err := c.get(t.Context(), corev1.SchemeGroupVersion.WithKind("ConfigMap"), InventoryNamespace, InventoryName, &inv); err != nil || strings.Count(inv.Data["one"], "\n") != 4 {
		t.Errorf("%q, %v", inv.Data, err)
	}
	if _, _, err := c.NodeReady(t.Context(), "node1", ""); err == nil {
		t.Error("found a node where there is none")
	}
}

const crdYAML = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.holdfast.dev}
spec:
  group: holdfast.dev
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: one, labels: {a: b}}
---
apiVersion: holdfast.dev/v1
kind: Thing
metadata: {name: first, namespace: one}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, namespace: one}
spec:
  selector: {matchLabels: {app: one}}
  template:
    metadata: {labels: {app: one}}
    spec: {containers: [{name: c, image: registry.example/c:v1}]}
`
