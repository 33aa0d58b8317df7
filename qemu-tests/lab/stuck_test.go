package lab

import "testing"

func TestStuck(t *testing.T) {
	const boot, lost = "BdsDxe: starting Boot0001\r\n", "[ 22.4] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=3\r\n"
	for _, c := range []struct {
		name, console string
		want          bool
	}{
		{"a boot", boot + "holdfast: healthy\r\n", false},
		{"a host that was busy once", boot + lost + "holdfast: healthy\r\n", false},
		{"a lost timer", boot + lost + lost, true},
		{"a lost timer at an earlier boot", boot + lost + lost + boot, false},
		{"nothing", "", false},
	} {
		if got := stuck([]byte(c.console)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
