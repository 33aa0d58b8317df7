package cli

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestValkey runs the server from its image by its manifests: by TLS alone, with
// the password alone, without what administers it, and with what was written
// after it was killed.
func TestValkey(t *testing.T) {
	runsPods(t)
	p := platform(t, "valkey")
	p.certificate(t, "valkey", "valkey")
	secret := p.secrets["valkey/valkey"]["password"]
	probe := func() bool { return p.probe("StatefulSet", "valkey", "valkey") }
	server := p.start("StatefulSet", "valkey", "valkey")
	server.until(t.Context(), time.Minute, "ready", probe)

	c := p.valkey(t)
	for _, step := range []struct{ ask, want string }{
		{"PING", "-NOAUTH"},
		{"AUTH " + strings.Repeat("x", 40), "-WRONGPASS"},
		{"AUTH " + secret, "+OK"},
		{"SET it kept", "+OK"},
		{"CONFIG SET dir /tmp", "-NOPERM"},
		{"REPLICAOF 192.0.2.1 6379", "-NOPERM"},
		{"SHUTDOWN NOSAVE", "-NOPERM"},
		{"ACL SETUSER x on nopass +@all", "-NOPERM"},
		{"AUTH probe x", "+OK"}, // asks whether it is there, and nothing else
		{"PING", "+PONG"},
		{"GET it", "-NOPERM"},
		{"AUTH " + secret, "+OK"},
	} {
		if got := c.ask(t, step.ask); !strings.HasPrefix(got, step.want) {
			t.Errorf("%s: the server says %q, want %s", strings.Replace(step.ask, secret, "…", 1), got, step.want)
		}
	}
	time.Sleep(1500 * time.Millisecond) // what a power cut costs is the last second
	said := server.said()
	server.with = syscall.SIGKILL
	server.stop()
	if probe() {
		t.Error("it answers though it is gone")
	}
	server = p.start("StatefulSet", "valkey", "valkey")
	server.until(t.Context(), time.Minute, "ready again", probe)
	c = p.valkey(t)
	c.ask(t, "AUTH "+secret)
	if got := c.ask(t, "GET it"); got != "$4" {
		t.Errorf("what was written is %q", got)
	}
	if said += server.said(); strings.Contains(said, secret) {
		t.Error("the password is in the log")
	}

	// Its certificate changes, and it takes the new one.
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("a new certificate is seen within a minute; HOLDFAST_LONG=1 waits for it")
	}
	old := c.certificate()
	p.certificate(t, "valkey", "valkey")
	o := p.find("StatefulSet", "valkey", "valkey")
	p.volume(o, o.Spec.Template.Spec, "tls")
	server.until(t.Context(), 2*time.Minute, "using the new certificate", func() bool { return p.valkey(t).certificate() != old })
}

// probe runs what the manifest has for the kubelet, and says whether it works.
func (p *pods) probe(kind, namespace, name string) bool {
	o := p.find(kind, namespace, name)
	c := o.Spec.Template.Spec.Containers[0]
	c.Name, c.Command, c.Args = "probe", c.ReadinessProbe.Exec.Command, nil
	o.Spec.Template.Spec.Containers = []container{c}
	return p.container(o, 0).end(time.Minute) == nil
}

type valkeyConn struct {
	*tls.Conn
	in *bufio.Reader
}

// certificate is the server's.
func (c *valkeyConn) certificate() string {
	return string(c.ConnectionState().PeerCertificates[0].Raw)
}

// valkey connects as a client of the site does.
func (p *pods) valkey(t *testing.T) *valkeyConn {
	t.Helper()
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM([]byte(p.site["tls.crt"]))
	raw, err := p.dial("127.0.0.1:6379")
	must(t, err)
	c := tls.Client(raw, &tls.Config{ServerName: "valkey.valkey.svc.cluster.local", RootCAs: authorities})
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	must(t, c.Handshake())
	t.Cleanup(func() { c.Close() })
	return &valkeyConn{c, bufio.NewReader(c)}
}

// dial connects in the network of the pods. The thread that goes there is not
// used again.
func (p *pods) dial(address string) (net.Conn, error) {
	var c net.Conn
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open("/run/netns/" + p.netns)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if err == nil {
			c, err = net.DialTimeout("tcp", address, 10*time.Second)
		}
		done <- err
	}()
	return c, <-done
}

// ask returns the first line of an answer.
func (c *valkeyConn) ask(t *testing.T, command string) string {
	t.Helper()
	_, err := fmt.Fprintf(c, "%s\r\n", command)
	must(t, err)
	line, err := c.in.ReadString('\n')
	must(t, err)
	return strings.TrimSpace(line)
}
