package netpol

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestKernelCases probes every pod from every pod with the rules of each case
// in force, which replace those of the case before while traffic could flow.
func TestKernelCases(t *testing.T) {
	s := newSite(t)
	w := world()
	s.build(&w)
	for i, p := range world().Pods {
		if w.Pods[i].IP != p.IP {
			t.Fatalf("%s has %s, the cases say %s", p, w.Pods[i].IP, p.IP)
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			state := world()
			state.Policies = policies(t, c.policies)
			if c.change != nil {
				c.change(&state)
			}
			s.load(state)
			var wg sync.WaitGroup
			var mu sync.Mutex
			places := make(chan bool, 32)
			for _, k := range conns(state) {
				places <- true
				wg.Go(func() {
					err := reaches(s.pods[k.from], strings.ToLower(string(k.protocol))+"4", netip.AddrPortFrom(s.ip[k.to], k.port).String())
					<-places
					mu.Lock()
					defer mu.Unlock()
					if want := k.from == k.to || c.want(k); (err == nil) != want || err != nil && !refused(err) {
						t.Errorf("%s: want %v, got %v", k, want, err)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				t.Log(s.run(s.node, "nft list ruleset"))
			}
		})
	}
}

// few are the pods x/a, x/b and y/a.
func few(t *testing.T) (*site, State) {
	t.Helper()
	s, w := newSite(t), world()
	w.Pods = []Pod{w.Pods[0], w.Pods[1], w.Pods[3]}
	s.build(&w)
	return s, w
}

// probe is an attempt that must pass, or be refused.
type probe struct {
	what, from, network, to string
	ok                      bool
}

func (s *site) try(t *testing.T, probes ...probe) {
	t.Helper()
	for _, p := range probes {
		err := reaches(p.from, p.network, p.to)
		if (err == nil) != p.ok || err != nil && !refused(err) {
			t.Errorf("%s: want %v, got %v", p.what, p.ok, err)
		}
	}
}

// The node reaches its pods, whatever policies say. Where pods go to the node
// or outside, and who comes from there, is up to policies.
func TestKernelNodeAndOutside(t *testing.T) {
	s, w := few(t)
	xa, pod := s.ip["x/a"].String(), s.pods["x/a"]
	for name, c := range map[string]struct {
		policies                   map[string]string
		toNode, toOutside, fromOut bool
	}{
		"no policy": {nil, true, true, true},
		"denied":    {map[string]string{"x/deny": "{podSelector: {}, policyTypes: [Ingress, Egress]}"}, false, false, false},
		"pods alone": {map[string]string{
			"x/p": "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}], egress: [{to: [{namespaceSelector: {}}]}]}"}, false, false, false},
		"the node's address": {map[string]string{
			"x/p": "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.1/32}}], ports: [{port: 80}]}]}"}, true, false, true},
		"all but pods": {map[string]string{
			"x/p": "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}]}]}"}, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w.Policies = policies(t, c.policies)
			s.load(w)
			s.try(t,
				probe{"node to pod", s.node, "tcp4", xa + ":80", true},
				probe{"node to pod", s.node, "udp4", xa + ":81", true},
				probe{"pod to node", pod, "tcp4", nodeIP + ":80", c.toNode},
				probe{"pod to outside", pod, "tcp4", outsideIP + ":80", c.toOutside},
				probe{"outside to pod", s.outside, "tcp4", xa + ":80", c.fromOut},
			)
		})
	}
	s.try(t, probe{"outside to node", s.outside, "tcp4", nodeIP + ":80", true})
}

// services translates addresses as kube-proxy does: before the rules of policies.
const services = `
table ip services {
  chain translate {
    ip daddr 10.96.0.10 tcp dport 8000 dnat to XA:80
  }
  chain prerouting { type nat hook prerouting priority dstnat;
    jump translate
  }
  chain output { type nat hook output priority -100;
    jump translate
  }
  chain postrouting { type nat hook postrouting priority srcnat;
    ip saddr XA ip daddr XA masquerade
  }
}
`

// Policies are about pods, also where these are reached by a service's address.
// A pod always reaches itself so.
func TestKernelServices(t *testing.T) {
	s, w := few(t)
	const service = "10.96.0.10:8000"
	file := t.TempDir() + "/services"
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(services, "XA", s.ip["x/a"].String())), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(s.node, "ip route add 10.96.0.0/12 dev lo") // for the node's own attempts
	s.run(s.node, "nft -f "+file)
	for name, c := range map[string]struct {
		policies map[string]string
		xb, ya   bool
	}{
		"no policy":           {nil, true, true},
		"denied":              {map[string]string{"x/deny": "{podSelector: {}, policyTypes: [Ingress, Egress]}"}, false, false},
		"ingress":             {map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: 80}]}]}"}, false, true},
		"egress to the pod":   {map[string]string{"y/p": "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: x}}}], ports: [{port: 80}]}]}"}, true, true},
		"the service's port":  {map[string]string{"y/p": "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 8000}]}]}"}, true, false},
		"the service's block": {map[string]string{"y/p": "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/12}}]}]}"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w.Policies = policies(t, c.policies)
			s.load(w)
			s.try(t,
				probe{"x/a to itself", s.pods["x/a"], "tcp4", service, true},
				probe{"x/b", s.pods["x/b"], "tcp4", service, c.xb},
				probe{"y/a", s.pods["y/a"], "tcp4", service, c.ya},
				probe{"the node", s.node, "tcp4", service, true},
			)
		})
	}
}

// A connection ends when no policy allows it any more; others go on.
func TestKernelCut(t *testing.T) {
	s, w := few(t)
	s.load(w)
	open := func(from, network string) net.Conn {
		c, err := dial(s.pods[from], network, s.ip["x/a"].String()+":80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	near, far, datagrams := open("x/b", "tcp4"), open("y/a", "tcp4"), open("y/a", "udp4")
	for _, c := range []net.Conn{near, far, datagrams} {
		if err := echo(c); err != nil {
			t.Fatal(err)
		}
	}
	w.Policies = policies(t, map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"})
	s.load(w)
	if err := echo(near); err != nil {
		t.Errorf("cut, although it is allowed: %v", err)
	}
	for what, c := range map[string]net.Conn{"TCP": far, "UDP": datagrams} {
		if err := echo(c); err == nil || !refused(err) {
			t.Errorf("%s goes on: %v", what, err)
		}
	}
}

// A pod that the state does not have reaches nobody and is reached by nobody
// but the node, until it is there. It is not told, so that it tries again.
func TestKernelUnknownPod(t *testing.T) {
	s, w := few(t)
	all := w.Pods
	w.Pods = all[:2]
	s.load(w)
	ya := s.ip["y/a"].String()
	var wg sync.WaitGroup
	for what, c := range map[string]struct{ from, to string }{
		"from it to a pod":    {s.pods["y/a"], s.ip["x/a"].String()},
		"from it to the node": {s.pods["y/a"], nodeIP},
		"from it outside":     {s.pods["y/a"], outsideIP},
		"from a pod to it":    {s.pods["x/a"], ya},
		"from outside to it":  {s.outside, ya},
	} {
		wg.Go(func() {
			var timeout net.Error
			if err := reaches(c.from, "tcp4", c.to+":80"); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	s.try(t, probe{"node to it", s.node, "tcp4", ya + ":80", true})
	done := make(chan error)
	go func() { done <- reaches(s.pods["y/a"], "tcp4", nodeIP+":80") }()
	time.Sleep(100 * time.Millisecond)
	w.Pods = all
	s.load(w)
	if err := <-done; err != nil {
		t.Errorf("an attempt that was under way: %v", err)
	}
}

// A pod that takes another's address gets nothing through, and neither does IPv6.
func TestKernelForged(t *testing.T) {
	s, w := few(t)
	w.Policies = policies(t, map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}"})
	s.load(w)
	heard := make(chan string, 10)
	err := inside(s.pods["x/a"], func() error {
		u, err := net.ListenPacket("udp", ":99")
		if err != nil {
			return err
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				n, _, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				heard <- string(b[:n])
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	send := func(pod string, source netip.Addr) {
		t.Helper()
		err := inside(s.pods[pod], func() error {
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
			c, err := d.Dial("udp4", s.ip["x/a"].String()+":99")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("from " + pod))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	s.run(s.pods["y/a"], "ip address add "+s.ip["x/b"].String()+"/32 dev eth0")
	send("y/a", s.ip["x/b"])
	send("x/b", s.ip["x/b"])
	if got := <-heard; got != "from x/b" {
		t.Errorf("heard %q", got)
	}
}

// Pods have no IPv6, though their links do.
func TestKernelIPv6(t *testing.T) {
	s, w := few(t)
	err := inside(s.node, func() error {
		l, err := net.Listen("tcp6", ":82")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	reached := func() bool {
		var any atomic.Bool
		var wg sync.WaitGroup
		for _, word := range strings.Fields(s.run(s.node, "ip -6 -o address show")) {
			if a, err := netip.ParsePrefix(word); err == nil && a.Addr().IsLinkLocalUnicast() {
				wg.Go(func() {
					if c, err := dial(s.pods["x/a"], "tcp6", "["+a.Addr().String()+"%eth0]:82"); err == nil {
						c.Close()
						any.Store(true)
					}
				})
			}
		}
		wg.Wait()
		return any.Load()
	}
	for range 10 { // until the kernel has tried its addresses
		time.Sleep(300 * time.Millisecond)
		if reached() {
			s.load(w)
			if reached() {
				t.Error("a pod reaches its node by IPv6")
			}
			return
		}
	}
	t.Skip("no IPv6 on links here")
}

// While rules are replaced, what both old and new ones refuse stays refused.
func TestKernelNoGap(t *testing.T) {
	s, w := few(t)
	a := map[string]string{"x/p": denyIngress}
	b := map[string]string{"x/p": denyIngress, "x/q": denyIngress, "y/p": denyIngress}
	w.Policies = policies(t, a)
	s.load(w)
	ctx, cancel := context.WithCancel(t.Context())
	var tried atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				tried.Add(1)
				if err := reaches(s.pods["y/a"], "tcp4", s.ip["x/a"].String()+":80"); err == nil {
					t.Error("a connection slipped through")
					return
				}
			}
		})
	}
	for i := range 60 {
		w.Policies = policies(t, map[bool]map[string]string{true: a, false: b}[i%2 == 0])
		s.load(w)
	}
	cancel()
	wg.Wait()
	t.Logf("%d attempts while rules were replaced", tried.Load())
}
