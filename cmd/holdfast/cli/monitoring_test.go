package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/monitor"
)

// TestMonitoring runs Prometheus and Alertmanager from their images by their
// manifests: what is wrong with a node comes back to it as an alert, every rule
// can be evaluated, and none tries to reach anything outside.
func TestMonitoring(t *testing.T) {
	runsPods(t)
	compilesLong(t, "Prometheus")
	p := platform(t, "monitoring", "certificates")
	outside := p.wayOut(t)
	const address = "10.0.2.15" // of the example's node
	p.sh("ip", "-n", p.netns, "addr", "add", address+"/32", "dev", "lo")
	dir := t.TempDir()
	measures := func(m monitor.Measures) {
		b, err := json.Marshal(m)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "measures.json"), b, 0o644))
	}
	well := monitor.Measures{Site: "source", Node: "node1", Release: 1, Healthy: true, Components: map[string]bool{"web": true},
		VarSize: 100 << 30, VarFree: 60 << 30, Ends: map[string]time.Time{"/pki/a.crt": time.Now().AddDate(1, 0, 0)}}
	ill := well
	ill.BackupOverdue = true
	measures(well)
	background(t, "ip", "netns", "exec", p.netns, "watched", address+":5003", p.secrets["monitoring/node"]["token"], dir)

	am := p.start("StatefulSet", "monitoring", "alertmanager")
	am.until(t.Context(), time.Minute, "ready", func() bool {
		_, err := p.inside("curl", "-sf", "http://127.0.0.1:9093/-/ready")
		return err == nil
	})
	prom := p.start("StatefulSet", "monitoring", "prometheus")
	t.Logf("Prometheus is ready after %v", prom.until(t.Context(), time.Minute, "ready", func() bool {
		_, err := p.inside("curl", "-sf", "http://127.0.0.1:9090/-/ready")
		return err == nil
	}))
	asks := func(path string, into any) bool {
		out, err := p.inside("curl", "-sfg", "http://127.0.0.1:9090"+path)
		return err == nil && json.Unmarshal([]byte(out), into) == nil
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State, LastEvaluation string }
			}
		}
	}
	prom.until(t.Context(), 3*time.Minute, "done with the first look at its rules", func() bool {
		if !asks("/api/v1/rules", &rules) || len(rules.Data.Groups) == 0 {
			return false
		}
		for _, r := range rules.Data.Groups[0].Rules {
			if r.Health == "unknown" {
				return false
			}
		}
		return true
	})
	for _, r := range rules.Data.Groups[0].Rules {
		if r.Health != "ok" {
			t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
		}
	}
	var up struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	prom.until(t.Context(), 2*time.Minute, "told by the node", func() bool {
		return asks("/api/v1/query?query=up{job=%22node%22}", &up) && len(up.Data.Result) == 1 && up.Data.Result[0].Value[1] == "1"
	})
	measures(ill)
	took := prom.until(t.Context(), 5*time.Minute, "heard, as far as the node knows", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "alerts"))
		return err == nil && strings.Contains(string(b), "BackupOverdue (warning, over: false): No backup was made")
	})
	t.Logf("an alert is back after %v", took)
	b, err := os.ReadFile(filepath.Join(dir, "alerts"))
	must(t, err)
	if strings.Count(string(b), "\n") != 1 {
		t.Errorf("the node was told\n%s", b)
	}
	if n := outside(); n != 0 {
		t.Errorf("%d packets were sent to somewhere outside", n)
	}
}
