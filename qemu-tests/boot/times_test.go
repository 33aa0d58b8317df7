package boot_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
)

// marks are the moments of a boot, as seen on the console.
type marks struct{ powerOn, ready, healthy time.Time }

func (m marks) since(start time.Time) bootTime {
	if m.healthy.IsZero() || m.ready.IsZero() {
		return bootTime{}
	}
	return bootTime{m.ready.Sub(start).Seconds(), m.healthy.Sub(start).Seconds()}
}

// watchBoot looks at the console of a site's lab, from what is there now on,
// until the function returned is called.
func watchBoot(site string) (stop func() marks) {
	name := filepath.Join(site, "out", "lab", "console.log")
	var from int
	if b, err := os.ReadFile(name); err == nil {
		from = len(b)
	}
	ended, result := make(chan struct{}), make(chan marks)
	go func() {
		var m marks
		look := func() {
			b, err := os.ReadFile(name)
			if err != nil {
				return
			}
			said := string(b[min(from, len(b)):])
			for line, at := range map[string]*time.Time{"holdfast: node ready": &m.ready, "holdfast: healthy": &m.healthy} {
				if at.IsZero() && strings.Contains(said, line) {
					*at = time.Now()
				}
			}
		}
		for {
			select {
			case <-ended:
				look()
				if fi, err := os.Stat(filepath.Join(site, "out", "lab", "qemu.pid")); err == nil {
					m.powerOn = fi.ModTime()
				}
				result <- m
				return
			case <-time.After(time.Second / 4):
				look()
			}
		}
	}()
	return func() marks { close(ended); return <-result }
}

// bootTime is in seconds after power-on, or after the command to reboot.
type bootTime struct {
	NodeReady float64 `json:"nodeReady"`
	Healthy   float64 `json:"healthy"`
}

// bootTimes are what "make bench" takes into docs/performance.md.
type bootTimes struct {
	Accel   string       `json:"accel"`
	Date    time.Time    `json:"date"`
	First   bootTime     `json:"first"`
	Later   bootTime     `json:"later"`
	Timings []lab.Timing `json:"timings"` // of the later boot
}

func (b bootTimes) save(t *testing.T, site string) {
	t.Helper()
	t.Logf("%s: first boot: node ready after %.0f s, healthy after %.0f s; reboot: node ready after %.0f s, healthy after %.0f s",
		b.Accel, b.First.NodeReady, b.First.Healthy, b.Later.NodeReady, b.Later.Healthy)
	var s lab.Status
	must(t, json.Unmarshal([]byte(run(t, site, "lab", "status", "--json").stdout), &s))
	b.Date, b.Timings = time.Now().UTC(), s.Timings
	doc, err := json.MarshalIndent(b, "", "  ")
	must(t, err)
	must(t, os.MkdirAll("../../.cache", 0o755))
	must(t, os.WriteFile("../../.cache/boot.json", append(doc, '\n'), 0o644))
}
