package apply

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// services answers as an API server that has no other kind, and keeps what is
// applied to one and to its status.
func services(t *testing.T) (c *Cluster, applied map[string]string) {
	t.Helper()
	applied = map[string]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodPatch && r.URL.Query().Get("fieldManager") == FieldManager && r.URL.Query().Get("force") == "true":
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			applied[strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/")] = string(b)
			w.Write(b)
		case r.URL.Path == "/api":
			io.WriteString(w, `{"kind":"APIVersions","versions":["v1"]}`)
		case r.URL.Path == "/apis":
			io.WriteString(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`)
		case r.URL.Path == "/api/v1":
			io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"services","namespaced":true,"kind":"Service","verbs":["patch"]}]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	c, err := New(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c, applied
}

// A service of type LoadBalancer gets the node's address, and no other does.
func TestServiceAddress(t *testing.T) {
	for _, k := range []struct{ kind, address, want string }{
		{"LoadBalancer", "192.0.2.7", `"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.7","ipMode":"VIP"}]}}`},
		{"LoadBalancer", "", ""},
		{"ClusterIP", "192.0.2.7", ""},
	} {
		c, applied := services(t)
		c.Address = k.address
		objects, err := Parse([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: ingress}\nspec: {type: " + k.kind + "}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(t.Context(), objects[0]); err != nil {
			t.Fatal(err)
		}
		status := applied["ingress/services/web/status"]
		if applied["ingress/services/web"] == "" || (status == "") != (k.want == "") || !strings.Contains(status, k.want) || strings.Contains(status, "spec") {
			t.Errorf("%s at %q: %q", k.kind, k.address, applied)
		}
	}
}
