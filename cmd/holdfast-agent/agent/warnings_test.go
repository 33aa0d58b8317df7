package agent

import (
	"slices"
	"testing"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

func TestWarnings(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	leaf := func(name string) bool { return name != "/pki/ca.crt" }
	failed := install.State{Step: install.Idle, Failed: install.Failure{Release: install.Ref{Name: "demo", Release: 8}, Reason: "node not ready"}}
	for _, c := range []struct {
		name string
		s    seen
		want []string
	}{
		{"all is well", seen{free: 50 << 30, size: 100 << 30, ends: map[string]time.Time{"/pki/a.crt": now.AddDate(1, 0, 0)}}, nil},
		{"nothing is known", seen{}, nil},
		{"a full disk", seen{free: 14 << 30, size: 100 << 30}, []string{"disk: /var has 14 of 100 GiB free"}},
		{"a small disk", seen{free: 1 << 30, size: 4 << 30}, []string{"disk: /var has 1 of 4 GiB free"}},
		{"certificates, the first to end first", seen{renewed: leaf, ends: map[string]time.Time{
			"/pki/b.crt": now.AddDate(0, 0, 60), "/pki/a.crt": now.AddDate(0, 0, 60), "/pki/ca.crt": now.AddDate(0, 0, -1), "/pki/c.crt": now.AddDate(0, 0, 91),
		}}, []string{
			"certificate: /pki/ca.crt ended on 2026-11-27",
			"certificate: /pki/a.crt ends on 2027-01-27; a reboot renews it",
			"certificate: /pki/b.crt ends on 2027-01-27; a reboot renews it",
		}},
		{"services' certificates", seen{services: map[string]time.Time{"ingress/a": now.AddDate(0, 0, 15), "ingress/b": now.AddDate(0, 0, 13), "db/c": now.AddDate(0, 0, -1)}}, []string{
			"certificate: db/c ended on 2026-11-27",
			"certificate: ingress/b ends on 2026-12-11",
		}},
		{"what a component says", seen{pods: []string{"postgresql: no backup"}}, []string{"postgresql: no backup"}},
		{"no time server", seen{clock: true}, []string{"clock: no time server has answered since the node started"}},
		{"a clock far from the release", seen{made: now.AddDate(-2, 0, 0)}, []string{"clock: it says 2026-11-28, and this release was made on 2024-11-28: the one is wrong or the other old"}},
		{"a release of last year", seen{made: now.AddDate(-1, 0, 0)}, nil},
		{"no backup for long", seen{noBackup: true, backup: &status.Backup{Time: now.AddDate(0, 0, -3)}}, []string{"backup: the last one is of 2026-11-25T12:00:00Z"}},
		{"no backup at all", seen{noBackup: true}, []string{"backup: there is none"}},
		{"a failed update", seen{update: failed}, []string{"update: release demo 8 did not stay: node not ready"}},
		{"an update under way", seen{update: install.State{Step: install.Trial, Failed: failed.Failed}}, nil},
		{"fallback", seen{mode: install.Fallback, update: install.State{Step: install.Idle, Confirmed: install.Ref{Name: "demo", Release: 9}}},
			[]string{"update: release demo 9 is confirmed and does not boot"}},
	} {
		if got := warningsOf(c.s, now); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
