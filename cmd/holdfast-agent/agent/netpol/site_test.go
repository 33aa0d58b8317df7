package netpol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/containerd"
)

// site is a node with pods, each a network namespace. The pods' links are made
// by the CNI plugins that a node has, as its configuration says.
type site struct {
	t       *testing.T
	node    string
	pods    map[string]string // namespace by pod
	ip      map[string]netip.Addr
	cni     map[string]any
	outside string // a machine beyond the node, which knows it as nodeIP
	table   Table
}

const (
	subnet    = "10.244.0.0/24"
	nodeIP    = "192.0.2.1"
	outsideIP = "192.0.2.2"
	cniBin    = "/usr/lib/cni"
)

// newSite makes the node, and what is outside of it.
func newSite(t *testing.T) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	for _, tool := range []string{"ip", "nft", "sysctl", filepath.Join(cniBin, "ptp"), filepath.Join(cniBin, "host-local")} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing; make setup installs it", tool)
		}
	}
	s := &site{t: t, pods: map[string]string{}, ip: map[string]netip.Addr{}}
	s.node, s.outside = s.namespace("node"), s.namespace("outside")
	s.run(s.node, "sysctl -qw net.ipv4.ip_forward=1")
	// Every refusal is answered, however many there are in a second.
	s.run(s.node, "sysctl -qw net.ipv4.icmp_ratemask=0")
	s.run(s.node, "ip link add uplink type veth peer name eth0 netns "+s.outside)
	s.run(s.node, "ip address add "+nodeIP+"/24 dev uplink")
	s.run(s.node, "ip link set uplink up")
	s.run(s.outside, "ip address add "+outsideIP+"/24 dev eth0")
	s.run(s.outside, "ip link set eth0 up")
	s.run(s.outside, "ip route add default via "+nodeIP)
	s.run(s.node, "ip route add unreachable 10.244.0.0/16") // as the agent does
	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal(containerd.CNI(subnet), &list); err != nil || len(list.Plugins) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	s.cni = list.Plugins[0]
	s.cni["name"], s.cni["cniVersion"] = "holdfast", "1.0.0"
	s.cni["ipam"].(map[string]any)["dataDir"] = t.TempDir()
	s.serve(s.node)
	s.serve(s.outside)
	return s
}

func (s *site) namespace(name string) string {
	s.t.Helper()
	name = fmt.Sprintf("hf%d-%s", os.Getpid(), strings.ReplaceAll(name, "/", "-"))
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		s.t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	s.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			s.t.Errorf("%v: %s", err, out)
		}
	})
	s.run(name, "ip link set lo up")
	return name
}

func (s *site) run(ns, command string) string {
	s.t.Helper()
	out, err := exec.Command("ip", append([]string{"netns", "exec", ns}, strings.Fields(command)...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// pod starts a pod that serves ports 80 and 81.
func (s *site) pod(name string) netip.Addr {
	s.t.Helper()
	ns := s.namespace("pod-" + name)
	config, err := json.Marshal(s.cni)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", s.node, filepath.Join(cniBin, s.cni["type"].(string)))
	cmd.Stdin = strings.NewReader(string(config))
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+ns, "CNI_NETNS=/run/netns/"+ns, "CNI_IFNAME=eth0", "CNI_PATH="+cniBin)
	out, err := cmd.Output()
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err == nil {
		err = json.Unmarshal(out, &result)
	}
	if err != nil || len(result.IPs) != 1 {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.pods[name], s.ip[name] = ns, result.IPs[0].Address.Addr()
	s.serve(ns)
	return s.ip[name]
}

// inside runs f on a thread that is in the network namespace.
func inside(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and it ends with this goroutine
		file, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			err = errors.Join(err, file.Close())
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// serve answers what it is sent on ports 80 and 81.
func (s *site) serve(ns string) {
	s.t.Helper()
	err := inside(ns, func() error {
		for _, port := range []string{":80", ":81"} {
			l, err := net.Listen("tcp4", port)
			if err != nil {
				return err
			}
			u, err := net.ListenPacket("udp4", port)
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { l.Close(); u.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
				}
			}()
			go func() {
				b := make([]byte, 100)
				for {
					n, from, err := u.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = u.WriteTo(b[:n], from)
				}
			}()
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

const patience = 5 * time.Second

// dial connects from a namespace; the connection has a deadline.
func dial(ns, network, to string) (c net.Conn, err error) {
	err = inside(ns, func() error {
		d := net.Dialer{Timeout: patience}
		c, err = d.DialContext(context.Background(), network, to)
		return err
	})
	if err == nil {
		err = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// reaches sends a word and waits for its echo.
func reaches(ns, network, to string) error {
	c, err := dial(ns, network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	return echo(c)
}

func echo(c net.Conn) error {
	if _, err := c.Write([]byte("word")); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "word" {
		return fmt.Errorf("answered %q", b)
	}
	return nil
}

// load enforces what a state says.
func (s *site) load(state State) {
	s.t.Helper()
	r, err := Compile(state)
	if err == nil {
		err = inside(s.node, func() error { return s.table.Load(context.Background(), r) })
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// build starts the pods of a state, which get their addresses in it.
func (s *site) build(state *State) {
	s.t.Helper()
	for i, p := range state.Pods {
		state.Pods[i].IP = s.pod(p.String())
	}
}

// refused reports whether the attempt was answered by a refusal, rather than by
// nothing.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ECONNRESET)
}
