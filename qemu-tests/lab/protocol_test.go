package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// serve answers each connection to the socket name in a new directory, whose
// path is too long for a socket's address.
func serve(t *testing.T, name string, answer func(net.Conn)) (dir string) {
	t.Helper()
	dir = t.TempDir() + "/" + strings.Repeat("long", 40)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answer(c)
			c.Close()
		}
	}()
	return dir
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestQMP(t *testing.T) {
	dir := serve(t, "qmp.sock", func(c net.Conn) {
		fmt.Fprintln(c, `{"QMP":{"version":{}}}`)
		for sc := bufio.NewScanner(c); sc.Scan(); {
			switch {
			case strings.Contains(sc.Text(), "query-status"):
				fmt.Fprintln(c, `{"timestamp":{},"event":"RESUME"}`)
				fmt.Fprintln(c, `{"return":{"status":"running"}}`)
			case strings.Contains(sc.Text(), "qmp_capabilities"):
				fmt.Fprintln(c, `{"return":{}}`)
			default:
				fmt.Fprintln(c, `{"error":{"class":"CommandNotFound","desc":"no such command"}}`)
			}
		}
	})
	var r struct{ Status string }
	if err := qmp(short(t), dir, "query-status", &r); err != nil || r.Status != "running" {
		t.Errorf("got %q, %v", r.Status, err)
	}
	if err := qmp(short(t), dir, "nonsense", nil); err == nil || !strings.Contains(err.Error(), "no such command") {
		t.Errorf("got %v", err)
	}
}

func TestQMPSilent(t *testing.T) {
	dir := serve(t, "qmp.sock", func(c net.Conn) { bufio.NewReader(c).ReadByte() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := qmp(ctx, dir, "quit", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// request reads one request as the agent does: a line that is none is skipped.
func request(c net.Conn) (id int64, op string) {
	for sc := bufio.NewScanner(c); sc.Scan(); {
		var r struct {
			ID int64
			Op string
		}
		if json.Unmarshal(sc.Bytes(), &r) == nil {
			return r.ID, r.Op
		}
	}
	return 0, ""
}

func TestAskSkipsForeignAnswersAndReconnects(t *testing.T) {
	calls := 0
	dir := serve(t, "lab.sock", func(c net.Conn) {
		id, op := request(c)
		if calls++; calls == 1 {
			return // the agent went away
		}
		fmt.Fprintf(c, "half a li\n{\"id\":%d,\"ok\":true,\"result\":\"another's\"}\n", id+1)
		fmt.Fprintf(c, "{\"id\":%d,\"ok\":true,\"result\":%q}\n", id, op)
	})
	var got string
	if err := ask(short(t), dir, question{Op: "logs"}, &got); err != nil || got != "logs" || calls != 2 {
		t.Errorf("got %q, %v after %d calls", got, err, calls)
	}
}

func TestAskRefused(t *testing.T) {
	dir := serve(t, "lab.sock", func(c net.Conn) {
		id, _ := request(c)
		fmt.Fprintf(c, "{\"id\":%d,\"error\":\"not in this zone\"}\n", id)
	})
	if err := ask(short(t), dir, question{Op: "kubeconfig"}, nil); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not in this zone") {
		t.Errorf("got %v", err)
	}
}

func TestAskNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := ask(ctx, t.TempDir(), question{Op: "status"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestWaitHealthy(t *testing.T) {
	calls := 0
	dir := serve(t, "lab.sock", func(c net.Conn) {
		id, _ := request(c)
		calls++
		fmt.Fprintf(c, `{"id":%d,"ok":true,"result":{"phase":"healthy","node":{"name":"n","ready":%v},"components":[{"name":"harbor","healthy":%v,"reason":"0 of 1"}]}}`+"\n",
			id, true, calls > 1)
	})
	pretendRunning(t, dir)
	var seen []Status
	if err := (&VM{dir: dir}).WaitHealthy(t.Context(), func(s Status) { seen = append(seen, s) }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0].Healthy() || seen[0].Components[0].Reason != "0 of 1" {
		t.Errorf("%+v", seen)
	}
	calls = -1 << 20
	err := (&VM{dir: dir}).WaitHealthy(short(t), nil)
	if err == nil || !strings.Contains(err.Error(), "harbor: 0 of 1") {
		t.Errorf("got %v", err)
	}
}

// pretendRunning records this test as the directory's QEMU.
func pretendRunning(t *testing.T, dir string) {
	t.Helper()
	p, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(dir+"/qemu.pid", p); err != nil {
		t.Fatal(err)
	}
}

func TestRedirect(t *testing.T) {
	in := "apiVersion: v1\nclusters:\n- name: c\n  cluster:\n    server: https://10.0.2.15:6443\n    certificate-authority-data: eA==\n"
	got, err := redirect([]byte(in), 4711)
	if err != nil || !strings.Contains(string(got), "server: https://127.0.0.1:4711\n") || !strings.Contains(string(got), "certificate-authority-data: eA==") {
		t.Errorf("%v\n%s", err, got)
	}
	for _, bad := range []string{"", "clusters: 1", "clusters: [1]", "{", "[]"} {
		if _, err := redirect([]byte(bad), 1); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
