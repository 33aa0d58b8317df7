package probe_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/probe"
)

// A pod that is not ready says why: the kubelet tells the code alone.
func TestRefusal(t *testing.T) {
	const keycloak = `{"status":"DOWN","checks":[
		{"name":"Keycloak cluster health check","status":"UP"},
		{"name":"Keycloak database connections async health check","status":"DOWN","data":{"Failing since":"2026-11-28"}}]}`
	for _, c := range []struct {
		name, body, want string
		code             int
	}{
		{"checks", keycloak, "it answers 503: Keycloak database connections async health check", 503},
		{"text", "Ingester not ready:\n waiting", "it answers 503: Ingester not ready: waiting", 503},
		{"no text", "", "it answers 500", 500},
		{"other JSON", `{"reason":"full"}`, `it answers 503: {"reason":"full"}`, 503},
		{"long", strings.Repeat("x", 1<<20), "it answers 503: " + strings.Repeat("x", 300) + "…", 503},
		{"ready meanwhile", "ok", "", 200},
		{"elsewhere", "", "", 302},
	} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health/ready" {
				t.Errorf("%s: asked for %s", c.name, r.URL.Path)
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.code)
			io.WriteString(w, c.body)
		}))
		at, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(at.Port())
		if err != nil {
			t.Fatal(err)
		}
		p := &corev1.Pod{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "main", Ports: []corev1.ContainerPort{{Name: "management", ContainerPort: int32(port)}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
					Path: "/health/ready", Port: intstr.FromString("management"), Scheme: corev1.URISchemeHTTPS}}},
			}}},
			Status: corev1.PodStatus{PodIP: at.Hostname(), ContainerStatuses: []corev1.ContainerStatus{{
				Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
		}
		if got := probe.Refusal(t.Context(), p); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		s.Close()
		if got := probe.Refusal(t.Context(), p); got != "" {
			t.Errorf("%s, with nobody there: %q", c.name, got)
		}
	}
}
