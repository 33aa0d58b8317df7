package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/journal"
)

// TestLogs runs Loki and the collector from their images by their manifests: a
// line that a container wrote is found by its labels, also where Loki, the
// collector or both were away when it was written, and none tries to reach
// anything outside.
func TestLogs(t *testing.T) {
	runsPods(t)
	compilesLong(t, "Loki")
	p := platform(t, "loki", "collector")
	outside := p.wayOut(t)
	app := p.podLog(t, "web", "web-0", "app")
	app.write(t, "before anybody listened")
	must(t, os.MkdirAll(p.host("/var/log/holdfast"), 0o750))

	loki := p.loki(t)
	collector := p.start("DaemonSet", "collector", "collector")
	collector.finds(p, "before anybody listened")
	app.write(t, "hello")
	t.Logf("a line is found after %v", collector.finds(p, "hello"))
	app.partial(t, "the first half and ", "the second")
	collector.finds(p, "the first half and the second")

	unit := journal.NewWriter(p.host("/var/log/holdfast"), nodeName)
	_, err := unit.Write([]byte(`{"__CURSOR":"1","__REALTIME_TIMESTAMP":"` + strconv.FormatInt(time.Now().UnixMicro(), 10) + `","_SYSTEMD_UNIT":"kubelet.service","MESSAGE":"a unit says so"}`))
	must(t, err)
	collector.findsAs(p, `{namespace="JOURNAL", container="kubelet"}`, "a unit says so")

	// Loki is away. What the collector read by then is on its disk, also when its
	// file is gone and the collector is another one.
	loki.stop()
	gone := p.podLog(t, "web", "web-1", "app")
	gone.write(t, "from a pod that is gone")
	buffer := filepath.Join(p.dir, "volumes", "collector", "claim", "collector", "exporter_otlp_http__logs")
	collector.until(t.Context(), time.Minute, "done with the line", func() bool {
		b, err := os.ReadFile(buffer)
		return err == nil && bytes.Contains(b, []byte("from a pod that is gone"))
	})
	must(t, os.RemoveAll(filepath.Dir(filepath.Dir(gone.file))))
	app.write(t, "while Loki was away")
	collector.stop()

	// Both are away, and the kubelet puts the file aside.
	app.write(t, "while both were away")
	app.rotate(t)
	app.write(t, "into the next file")
	collector = p.start("DaemonSet", "collector", "collector")
	app.write(t, "before Loki is back")
	loki = p.loki(t)
	late := []string{"from a pod that is gone", "while Loki was away", "while both were away", "into the next file", "before Loki is back"}
	for _, line := range late {
		collector.finds(p, line)
	}

	// Killed, then ended in order.
	for _, with := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		loki.with = with
		loki.stop()
		loki = p.loki(t)
		for _, line := range append(late, "hello", "before anybody listened") {
			collector.finds(p, line)
		}
	}
	if n := outside(); n != 0 {
		t.Errorf("%d packets were sent to somewhere outside", n)
	}
	if _, err := p.inside("curl", "-s", "--max-time", "2", "http://192.0.2.1/"); err == nil || outside() == 0 {
		t.Error("a packet to somewhere outside is not counted")
	}
}

// loki starts Loki and waits until it is ready.
func (p *pods) loki(t *testing.T) *running {
	t.Helper()
	r := p.start("StatefulSet", "loki", "loki")
	took := r.until(t.Context(), 5*time.Minute, "ready", func() bool {
		_, err := p.inside("curl", "-sf", lokiURL+"/ready")
		return err == nil
	})
	t.Logf("Loki is ready after %v", took)
	return r
}

const lokiURL = "http://loki.loki.svc.cluster.local:3100"

// finds waits until Loki has the line once, from a container "app" of a pod
// "web-…", with no labels but those that tell so.
func (r *running) finds(p *pods, line string) time.Duration {
	r.t.Helper()
	return r.findsAs(p, fmt.Sprintf(`{namespace="web", pod=~"web-[01]", container="app", node=%q}`, nodeName), line)
}

func (r *running) findsAs(p *pods, stream, line string) time.Duration {
	r.t.Helper()
	query := fmt.Sprintf("%s |= %q", stream, line)
	said := ""
	defer func() {
		if r.t.Failed() {
			r.t.Logf("looked for %q, Loki said %s", line, said)
		}
	}()
	return r.until(r.t.Context(), 30*time.Second, "read, as far as Loki shows", func() bool {
		out, err := p.inside("curl", "-sfG", lokiURL+"/loki/api/v1/query_range", "--data-urlencode", "query="+query, "--data-urlencode", "since=1h")
		said = out
		var answer struct {
			Data struct {
				Result []struct {
					Stream map[string]string
					Values [][2]string
				}
			}
		}
		if err != nil || json.Unmarshal([]byte(out), &answer) != nil || len(answer.Data.Result) == 0 {
			return false
		}
		one := answer.Data.Result[0]
		if len(answer.Data.Result) != 1 || len(one.Values) != 1 || one.Values[0][1] != line {
			r.t.Fatalf("%q is there otherwise than once: %s", line, out)
		}
		return true
	})
}

// podLog is the file that the kubelet keeps for a container.
type podLog struct{ file string }

func (p *pods) podLog(t *testing.T, namespace, pod, container string) podLog {
	t.Helper()
	dir := filepath.Join(p.host("/var/log/pods"), namespace+"_"+pod+"_11111111-2222-3333-4444-555555555555", container)
	// Modes are those of kubelet and containerd.
	must(t, os.MkdirAll(dir, 0o755))
	f, err := os.OpenFile(filepath.Join(dir, "0.log"), os.O_CREATE|os.O_WRONLY, 0o640)
	must(t, err)
	must(t, f.Close())
	return podLog{f.Name()}
}

func (l podLog) write(t *testing.T, line string) {
	t.Helper()
	l.append(t, "F", line)
}

// partial writes one line in pieces, as containerd does with long ones.
func (l podLog) partial(t *testing.T, pieces ...string) {
	t.Helper()
	for i, s := range pieces {
		tag := "P"
		if i == len(pieces)-1 {
			tag = "F"
		}
		l.append(t, tag, s)
	}
}

func (l podLog) append(t *testing.T, tag, text string) {
	t.Helper()
	f, err := os.OpenFile(l.file, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(f, "%s stdout %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), tag, text)
	must(t, err)
	must(t, f.Close())
}

// rotate does what the kubelet does when a file is large.
func (l podLog) rotate(t *testing.T) {
	t.Helper()
	must(t, os.Rename(l.file, l.file+"."+time.Now().UTC().Format("20060102-150405")))
	must(t, os.WriteFile(l.file, nil, 0o640))
}

// wayOut gives the pods a network that seems to lead on, and returns what
// counts the packets that were sent to it.
func (p *pods) wayOut(t *testing.T) func() int {
	t.Helper()
	p.sh("ip", "-n", p.netns, "link", "add", "out", "type", "veth", "peer", "name", "far")
	for _, link := range []string{"out", "far"} {
		p.sh("ip", "netns", "exec", p.netns, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/"+link+"/disable_ipv6")
		p.sh("ip", "-n", p.netns, "link", "set", link, "up")
	}
	p.sh("ip", "-n", p.netns, "addr", "add", "192.0.2.2/24", "dev", "out")
	p.sh("ip", "-n", p.netns, "route", "add", "default", "via", "192.0.2.1")
	return func() int {
		var n int
		out := p.sh("ip", "netns", "exec", p.netns, "cat", "/sys/class/net/out/statistics/tx_packets")
		_, err := fmt.Sscan(strings.TrimSpace(out), &n)
		must(t, err)
		return n
	}
}
