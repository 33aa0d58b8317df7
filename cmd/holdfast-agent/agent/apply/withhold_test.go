package apply

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// What is for a confirmed release is removed when a trial begins, and applied
// when it ends.
func TestWithhold(t *testing.T) {
	web := component(t, "web", `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: web, annotations: {holdfast.dev/when: confirmed}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: web}
`)
	db := component(t, "db", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: db}\n")
	f := &fake{refuse: "open"}
	r := NewReconciler(f, []Component{web, db}, nil, func() time.Time { return time.Unix(0, 0) })
	if err := r.Withhold(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("what could not be removed is no error: %v", err)
	}
	f.refuse = ""
	if err := r.Withhold(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if h := r.Tick(t.Context()); !h[0].Healthy {
			t.Fatalf("%+v", h)
		}
	}
	trial := []string{"delete networking.k8s.io/v1 NetworkPolicy web open", "inventory of 2", "ensure web", "NetworkPolicy web/deny", "ensure db", "ConfigMap db/c"}
	if !slices.Equal(f.done, trial) {
		t.Errorf("on trial: %q", f.done)
	}
	f.done, f.refuse = nil, "open"
	if !r.Release() || r.Release() {
		t.Error("released not once")
	}
	if h := r.Tick(t.Context()); h[0].Healthy || h[0].Reason != "refused" {
		t.Errorf("healthy without what was refused: %+v", h)
	}
	f.done, f.refuse = nil, ""
	r.parts[0].next = time.Unix(0, 0)
	if h := r.Tick(t.Context()); !h[0].Healthy || !slices.Equal(f.done, []string{"ensure web", "NetworkPolicy web/open", "NetworkPolicy web/deny"}) {
		t.Errorf("confirmed: %q, %+v", f.done, h)
	}
}
