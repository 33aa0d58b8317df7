package apply

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// pending answers as an API server with one stateful set, whose pod the
// scheduler could not place when the node was tainted.
func pending(t *testing.T, answers map[string]string) *Cluster {
	t.Helper()
	all := map[string]string{
		"/api":  `{"kind":"APIVersions","versions":["v1"]}`,
		"/apis": `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"apps","versions":[{"groupVersion":"apps/v1","version":"v1"}],"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}}]}`,
		"/api/v1": `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","namespaced":true,"kind":"Pod"},
			{"name":"nodes","kind":"Node"},{"name":"persistentvolumeclaims","namespaced":true,"kind":"PersistentVolumeClaim"}]}`,
		"/apis/apps/v1": `{"kind":"APIResourceList","groupVersion":"apps/v1","resources":[{"name":"statefulsets","namespaced":true,"kind":"StatefulSet"}]}`,
		"/apis/apps/v1/namespaces/db/statefulsets/postgresql": `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"postgresql","namespace":"db"},
			"spec":{"replicas":1,"selector":{"matchLabels":{"app":"postgresql"}}},"status":{"replicas":1}}`,
		"/api/v1/namespaces/db/pods": `{"apiVersion":"v1","kind":"PodList","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"postgresql-0","namespace":"db"},
			"spec":{"containers":[],"volumes":[{"name":"data","persistentVolumeClaim":{"claimName":"data-postgresql-0"}}],
				"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}]},
			"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable",
				"message":"0/1 nodes are available: 1 node(s) had untolerated taint(s)."}]}}]}`,
	}
	for path, a := range answers {
		all[path] = a
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if a, ok := all[r.URL.Path]; ok {
			io.WriteString(w, a)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	}))
	t.Cleanup(s.Close)
	c, err := New(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the scheduler said of a try that failed is shown for as long as it is so.
func TestStaleScheduling(t *testing.T) {
	const (
		nodes   = "/api/v1/nodes"
		claim   = "/api/v1/namespaces/db/persistentvolumeclaims/data-postgresql-0"
		tainted = `{"apiVersion":"v1","kind":"NodeList","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"node1"},
			"spec":{"taints":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]}}]}`
		untainted = `{"apiVersion":"v1","kind":"NodeList","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"node1"},"spec":{}}]}`
		unbound   = `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data-postgresql-0","namespace":"db"},"spec":{},"status":{"phase":"Pending"}}`
		chosen    = `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data-postgresql-0","namespace":"db",
			"annotations":{"volume.kubernetes.io/selected-node":"node1"}},"spec":{},"status":{"phase":"Pending"}}`
		theirs = "pod postgresql-0: not scheduled: 0/1 nodes are available: 1 node(s) had untolerated taint(s)."
	)
	for _, k := range []struct{ what, nodes, claim, want string }{
		{"tainted", tainted, unbound, "pod postgresql-0: not scheduled: node1 has node.kubernetes.io/not-ready"},
		{"the taint is gone", untainted, unbound, "pod postgresql-0: not scheduled yet: the node's taint is gone, and the scheduler tries again"},
		{"a node is chosen", untainted, chosen, "pod postgresql-0: waits for the volume of data-postgresql-0 to be made on node1"},
		{"nothing to be read", "", "", theirs},
	} {
		answers := map[string]string{}
		if k.nodes != "" {
			answers[nodes], answers[claim] = k.nodes, k.claim
		}
		got, err := pending(t, answers).Unready(t.Context(), node.Ready{Kind: "StatefulSet", Namespace: "db", Name: "postgresql"})
		if err != nil || got != k.want {
			t.Errorf("%s: got %q, %v", k.what, got, err)
		}
	}
}

// Who takes all of a workload's pods away has an unhealthy site, unless the
// release has it so.
func TestScaledToNone(t *testing.T) {
	c := pending(t, map[string]string{
		"/apis/apps/v1/namespaces/db/statefulsets/postgresql": `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"postgresql","namespace":"db"},
			"spec":{"replicas":0,"selector":{"matchLabels":{"app":"postgresql"}}},"status":{"replicas":0}}`,
		"/api/v1/namespaces/db/pods": `{"apiVersion":"v1","kind":"PodList","items":[]}`,
	})
	for replicas, want := range map[string]string{"1": "StatefulSet postgresql: scaled to 0 pods", "0": ""} {
		p := &part{Component: component(t, "db", "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: postgresql, namespace: db}\nspec: {replicas: "+replicas+"}\n")}
		p.Ready = []node.Ready{{Kind: "StatefulSet", Namespace: "db", Name: "postgresql"}}
		if got := NewReconciler(c, nil, nil, nil).unready(t.Context(), p); got != want {
			t.Errorf("of %s pods: %q, want %q", replicas, got, want)
		}
	}
}

// A pod that ended says nothing where there is another one.
func TestEndedPodsComeLast(t *testing.T) {
	got, err := pending(t, map[string]string{
		"/api/v1/nodes": `{"apiVersion":"v1","kind":"NodeList","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"node1"},
			"spec":{"taints":[{"key":"node.kubernetes.io/disk-pressure","effect":"NoSchedule"}]}}]}`,
		"/api/v1/namespaces/db/pods": `{"apiVersion":"v1","kind":"PodList","items":[
			{"apiVersion":"v1","kind":"Pod","metadata":{"name":"db-old","namespace":"db"},"spec":{"containers":[]},"status":{"phase":"Succeeded"}},
			{"apiVersion":"v1","kind":"Pod","metadata":{"name":"db-new","namespace":"db"},"spec":{"containers":[]},"status":{"phase":"Pending",
				"conditions":[{"type":"PodScheduled","status":"False","message":"0/1 nodes are available: 1 node(s) had untolerated taint(s)."}]}}]}`,
	}).Unready(t.Context(), node.Ready{Kind: "StatefulSet", Namespace: "db", Name: "postgresql"})
	if want := "pod db-new: not scheduled: node1 has node.kubernetes.io/disk-pressure"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestTolerates(t *testing.T) {
	taint := corev1.Taint{Key: "a", Value: "1", Effect: corev1.TaintEffectNoSchedule}
	for _, k := range []struct {
		tol  corev1.Toleration
		want bool
	}{
		{corev1.Toleration{Operator: corev1.TolerationOpExists}, true},
		{corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, true},
		{corev1.Toleration{Key: "a", Value: "1"}, true},
		{corev1.Toleration{Key: "a", Value: "2"}, false},
		{corev1.Toleration{Key: "b", Operator: corev1.TolerationOpExists}, false},
		{corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}, false},
		{corev1.Toleration{}, false},
	} {
		if got := tolerates(k.tol, taint); got != k.want {
			t.Errorf("%+v: %v", k.tol, got)
		}
	}
}

// A pod that has a node is not said to have none.
func TestScheduledSince(t *testing.T) {
	p := corev1.Pod{Spec: corev1.PodSpec{NodeName: "node1"}, Status: corev1.PodStatus{Phase: corev1.PodPending,
		Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "untolerated taint"}}}}
	p.Name = "web-0"
	if r := podReason(&p); r != "pod web-0: Pending" {
		t.Error(r)
	}
}
