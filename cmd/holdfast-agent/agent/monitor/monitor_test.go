package monitor_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/monitor"
)

func ask(t *testing.T, h http.Handler, method, path, token, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b)
}

func TestMetrics(t *testing.T) {
	m := monitor.Measures{
		Site: "demo", Node: "node1", Version: "0.1.0", Release: 7, Healthy: true,
		Components: map[string]bool{"db": true, "web": false},
		VarSize:    100, VarFree: 40,
		Ends: map[string]time.Time{"/pki/a.crt": time.Unix(1800000000, 0)}, Backup: time.Unix(1790000000, 0), ClockAlone: true,
		Outside: []monitor.Outside{{Who: `pod web/"x"`, To: "192.0.2.1:443", Proto: "tcp", Packets: 3}},
	}
	h := monitor.Handler("secret", func() monitor.Measures { return m }, nil)
	code, text := ask(t, h, "GET", "/metrics", "secret", "")
	for _, want := range []string{
		`holdfast_release{node="node1",site="demo",version="0.1.0"} 7`, "holdfast_healthy 1",
		`holdfast_component_healthy{component="db"} 1`, `holdfast_component_healthy{component="web"} 0`,
		"holdfast_var_size_bytes 100", "holdfast_var_free_bytes 40",
		`holdfast_certificate_end_seconds{file="/pki/a.crt"} 1.8e+09`, "holdfast_backup_time_seconds 1.79e+09",
		"holdfast_backup_overdue 0", "holdfast_clock_alone 1", "holdfast_update_under_way 0", "holdfast_update_failed 0",
		`holdfast_outside_packets{proto="tcp",to="192.0.2.1:443",who="pod web/\"x\""} 3`,
	} {
		if code != 200 || !strings.Contains(text, want+"\n") {
			t.Errorf("%d, no %s in\n%s", code, want, text)
		}
	}
	// What is not known is not there.
	m = monitor.Measures{}
	if code, text = ask(t, h, "GET", "/metrics", "secret", ""); code != 200 || strings.Contains(text, "holdfast_var") || strings.Contains(text, "holdfast_backup_time") {
		t.Errorf("%d\n%s", code, text)
	}
}

// Without the token nobody is told anything, or believed.
func TestToken(t *testing.T) {
	h := monitor.Handler("secret", func() monitor.Measures { t.Error("measured"); return monitor.Measures{} }, func([]monitor.Alert) { t.Error("alerted") })
	for _, token := range []string{"", "secre", "secret2", "Secret"} {
		for method, path := range map[string]string{"GET": "/metrics", "POST": "/alerts"} {
			if code, text := ask(t, h, method, path, token, `{"alerts":[]}`); code != http.StatusUnauthorized {
				t.Errorf("%s %s with %q: %d %s", method, path, token, code, text)
			}
		}
	}
}

func TestAlerts(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	var b monitor.Book
	var begun, over []monitor.Alert
	h := monitor.Handler("secret", nil, func(as []monitor.Alert) { begun, over = b.Take(as, now) })
	send := func(status, id, summary string) {
		t.Helper()
		body := fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":%q,"labels":{"alertname":"DiskFull","severity":"critical"},
			"annotations":{"summary":%q},"startsAt":"2026-11-28T10:00:00+01:00","fingerprint":%q}]}`, status, summary, id)
		if code, text := ask(t, h, "POST", "/alerts", "secret", body); code != 200 {
			t.Fatalf("%d %s", code, text)
		}
	}
	is := func(what string, nBegun, nOver, nNow int) {
		t.Helper()
		if len(begun) != nBegun || len(over) != nOver || len(b.Now(now)) != nNow {
			t.Errorf("%s: begun %v, over %v, now %v", what, begun, over, b.Now(now))
		}
	}
	send("firing", "a", "/var is\nfull")
	is("a new one", 1, 0, 1)
	if a := begun[0]; a.Name != "DiskFull" || a.Summary != "/var is full" || a.Severity != "critical" || !a.Since.Equal(now.Add(-3*time.Hour)) {
		t.Errorf("%+v", a)
	}
	send("firing", "a", "/var is full")
	is("said again", 0, 0, 1)
	send("firing", "b", strings.Repeat("ä", 400))
	is("another", 1, 0, 2)
	if s := begun[0].Summary; len(s) > 510 || !strings.HasSuffix(s, "ä…") {
		t.Errorf("a long one: %d bytes, %q", len(s), s)
	}
	send("resolved", "a", "/var is full")
	is("over", 0, 1, 1)
	send("resolved", "a", "/var is full")
	is("over again", 0, 0, 1)
	now = now.Add(26 * time.Hour)
	is("forgotten", 0, 0, 0)

	for _, body := range []string{"", "{", `{"alerts":1}`, `{"alerts":"` + strings.Repeat("x", 2<<20) + `"}`} {
		if code, _ := ask(t, h, "POST", "/alerts", "secret", body); code != http.StatusBadRequest {
			t.Errorf("%.20q: %d", body, code)
		}
	}
	if code, _ := ask(t, h, "POST", "/alerts", "secret", `{}`); code != 200 {
		t.Error("a message without alerts is refused")
	}
}
