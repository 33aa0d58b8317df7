package netpol

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestConnect reads the cluster over HTTP, as from an API server of 1.36: what
// is there is streamed, then a mark, then what changes.
func TestConnect(t *testing.T) {
	later := make(chan any)
	deny := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "deny"}}
	there := map[string][]any{
		"/api/v1/namespaces": {namespace("x")},
		"/api/v1/pods":       {pod("x/a", "10.0.0.2"), pod("x/b", "10.0.0.3")},
		"/apis/networking.k8s.io/v1/networkpolicies": {},
	}
	kinds := map[string]metav1.TypeMeta{
		"/api/v1/namespaces": {APIVersion: "v1", Kind: "Namespace"},
		"/api/v1/pods":       {APIVersion: "v1", Kind: "Pod"},
		"/apis/networking.k8s.io/v1/networkpolicies": {APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, known := kinds[r.URL.Path]
		if !known || r.URL.Query().Get("watch") == "" {
			t.Errorf("asked for %s", r.URL)
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		send := func(event string, o any, version int) {
			b, err := json.Marshal(o)
			var m map[string]any
			if err == nil {
				err = json.Unmarshal(b, &m)
			}
			if err != nil {
				t.Error(err)
				return
			}
			m["kind"], m["apiVersion"] = kind.Kind, kind.APIVersion
			m["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(version)
			if err := json.NewEncoder(w).Encode(map[string]any{"type": event, "object": m}); err != nil {
				t.Error(err)
			}
			w.(http.Flusher).Flush()
		}
		for i, o := range there[r.URL.Path] {
			send("ADDED", o, i+1)
		}
		send("BOOKMARK", map[string]any{"metadata": map[string]any{"annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}, 10)
		if kind.Kind != "NetworkPolicy" {
			<-r.Context().Done()
			return
		}
		for version := 11; ; version++ {
			select {
			case o := <-later:
				send("ADDED", o, version)
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	kubeconfig := fmt.Sprintf(`{"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"x","context":{"cluster":"c"}}],"current-context":"x"}`, server.URL)
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(file)
	if err != nil {
		t.Fatal(err)
	}
	var k kernel
	Run(t.Context(), c, "node1", filepath.Join(t.TempDir(), "results"), k.load, slog.New(slog.DiscardHandler))
	k.shows(t, "two pods", func(r Rules) bool { return len(r.Pods) == 2 && len(r.Pods[0].Ports) == 1 })
	later <- deny
	k.shows(t, "a new policy", func(r Rules) bool { return len(r.Ingress) == 2 })
}
