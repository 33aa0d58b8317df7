package netpol

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// The world of upstream's cases: namespaces x, y and z with pods a, b and c
// each. Every pod serves ports 80 and 81 over TCP and UDP, and calls them
// serve-80-tcp and so on.

// conn is an attempt to connect.
type conn struct {
	from, to string // "x/a"
	protocol corev1.Protocol
	port     uint16
}

func (c conn) String() string { return fmt.Sprintf("%s -> %s %s/%d", c.from, c.to, c.protocol, c.port) }

// in reports whether a pod is in one of the namespaces.
func in(pod string, namespaces string) bool { return strings.Contains(namespaces, pod[:1]) }

// one reports whether pod is one of those listed.
func one(pod string, pods ...string) bool {
	for _, p := range pods {
		if p == pod {
			return true
		}
	}
	return false
}

const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP

func world() State {
	s := State{Namespaces: map[string]map[string]string{}}
	for i, ns := range []string{"x", "y", "z"} {
		s.Namespaces[ns] = map[string]string{"ns": ns, "kubernetes.io/metadata.name": ns}
		for j, name := range []string{"a", "b", "c"} {
			p := Pod{Namespace: ns, Name: name, Labels: map[string]string{"pod": name}, Here: true,
				IP: netip.AddrFrom4([4]byte{10, 244, 0, byte(2 + 3*i + j)})}
			for _, protocol := range []corev1.Protocol{tcp, udp} {
				for _, n := range []int32{80, 81} {
					p.Ports = append(p.Ports, corev1.ContainerPort{Name: fmt.Sprintf("serve-%d-%s", n, strings.ToLower(string(protocol))), ContainerPort: n, Protocol: protocol})
				}
			}
			s.Pods = append(s.Pods, p)
		}
	}
	return s
}

// conns are all attempts in the world. A pod always reaches itself.
func conns(s State) []conn {
	var out []conn
	for _, from := range s.Pods {
		for _, to := range s.Pods {
			for _, protocol := range []corev1.Protocol{tcp, udp} {
				for _, port := range []uint16{80, 81} {
					out = append(out, conn{from.String(), to.String(), protocol, port})
				}
			}
		}
	}
	return out
}

// policies reads specs, each under "namespace/name".
func policies(t *testing.T, specs map[string]string) []*networkingv1.NetworkPolicy {
	t.Helper()
	var out []*networkingv1.NetworkPolicy
	for name, spec := range specs {
		np := &networkingv1.NetworkPolicy{}
		np.Namespace, np.Name, _ = strings.Cut(name, "/")
		if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, np)
	}
	return out
}

const (
	denyIngress = "{podSelector: {}, policyTypes: [Ingress]}"
	denyEgress  = "{podSelector: {}, policyTypes: [Egress]}"
)

// cases are upstream's, in own words. want says which attempts succeed, apart
// from those of a pod to itself, which always do.
var cases = []struct {
	name     string
	policies map[string]string
	change   func(s *State)
	want     func(c conn) bool
}{
	{"no policy", nil, nil, func(conn) bool { return true }},
	{"ingress is denied by default", map[string]string{"x/deny": denyIngress}, nil,
		func(c conn) bool { return !in(c.to, "x") }},
	{"egress is denied by default", map[string]string{"x/deny": denyEgress}, nil,
		func(c conn) bool { return !in(c.from, "x") }},
	{"everything is denied", map[string]string{"x/deny": "{podSelector: {}, policyTypes: [Ingress, Egress]}"}, nil,
		func(c conn) bool { return !in(c.from, "x") && !in(c.to, "x") }},
	{"without policyTypes a policy is about ingress", map[string]string{"x/p": "{podSelector: {}}"}, nil,
		func(c conn) bool { return !in(c.to, "x") }},
	{"and about egress where it has rules for it", map[string]string{"x/p": "{podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") && (!in(c.from, "x") || in(c.to, "y")) }},
	{"a policy selects pods of its own namespace", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]}"}, nil,
		func(c conn) bool { return c.to != "x/a" }},
	{"an empty rule allows all", map[string]string{"x/deny": denyIngress, "x/all": "{podSelector: {}, ingress: [{}]}"}, nil,
		func(conn) bool { return true }},
	{"so do empty lists", map[string]string{"x/all": "{podSelector: {}, ingress: [{from: [], ports: []}]}"}, nil,
		func(conn) bool { return true }},
	{"a peer that matches nobody allows nobody", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: none}}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") }},

	{"from pods of the namespace", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || c.from == "x/b" }},
	{"from all pods of the namespace", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || in(c.from, "x") }},
	{"from pods by an expression", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || c.from == "x/b" }},
	{"from another namespace", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || in(c.from, "y") }},
	{"from namespaces by an expression", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || in(c.from, "yz") }},
	{"from a namespace by its name", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || in(c.from, "z") }},
	{"from pods of all namespaces", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}"}, nil,
		func(conn) bool { return true }},
	{"pod selector or namespace selector", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || c.from == "x/b" || in(c.from, "y") }},
	{"pod selector and namespace selector", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || c.from == "y/b" }},
	{"several of both", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}, namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: ['y', z]}]}}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || one(c.from, "y/b", "y/c", "z/b", "z/c") }},

	{"on a port", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || c.port == 81 && c.protocol == tcp }},
	{"on a port from a namespace", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: 81, protocol: TCP}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || in(c.from, "y") && c.port == 81 && c.protocol == tcp }},
	{"one rule does not lend its ports to another", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 81}]}]}"}, nil,
		func(c conn) bool {
			return !in(c.to, "x") || c.protocol == tcp && (in(c.from, "y") && c.port == 80 || in(c.from, "z") && c.port == 81)
		}},
	{"policies add up", map[string]string{
		"x/p80": "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: 80}]}]}",
		"x/p81": "{podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 81}]}]}"}, nil,
		func(c conn) bool {
			on80 := in(c.from, "y") && c.port == 80 && c.protocol == tcp
			on81 := in(c.from, "z") && c.port == 81 && c.protocol == tcp
			return c.to == "x/a" && (on80 || on81) || c.to == "x/b" && on81 || !one(c.to, "x/a", "x/b")
		}},
	{"on a named port", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: serve-81-tcp}]}]}"}, nil,
		func(c conn) bool { return c.to != "x/a" || c.port == 81 && c.protocol == tcp }},
	{"a name stands for each pod's own port", map[string]string{"x/p": "{podSelector: {}, ingress: [{ports: [{port: web}]}]}"},
		func(s *State) {
			s.Pods[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 80}}
			s.Pods[1].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 81}}
		},
		func(c conn) bool {
			return !in(c.to, "x") || c.protocol == tcp && (c.to == "x/a" && c.port == 80 || c.to == "x/b" && c.port == 81)
		}},
	{"a name of another protocol is no match", map[string]string{"x/p": "{podSelector: {}, ingress: [{ports: [{port: serve-80-tcp, protocol: UDP}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") }},
	{"a range of ports", map[string]string{"x/p": "{podSelector: {}, ingress: [{ports: [{port: 81, endPort: 90, protocol: TCP}, {port: 79, endPort: 80, protocol: UDP}]}]}"}, nil,
		func(c conn) bool {
			return !in(c.to, "x") || c.port == 81 && c.protocol == tcp || c.port == 80 && c.protocol == udp
		}},
	{"a protocol without port", map[string]string{"x/p": "{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || c.protocol == udp }},
	{"UDP does not open TCP", map[string]string{"x/p": "{podSelector: {}, ingress: [{ports: [{port: 80, protocol: UDP}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || c.protocol == udp && c.port == 80 }},
	{"SCTP opens neither", map[string]string{"x/p": "{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") }},

	{"egress to pods", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}"}, nil,
		func(c conn) bool { return c.from != "x/a" || c.to == "y/b" }},
	{"egress on a named port", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{ports: [{port: serve-80-tcp}]}]}"}, nil,
		func(c conn) bool { return c.from != "x/a" || c.port == 80 && c.protocol == tcp }},
	{"egress policies add up", map[string]string{
		"x/y": "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: 'y'}}}], ports: [{port: 80}]}]}",
		"x/z": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}"}, nil,
		func(c conn) bool {
			return !in(c.from, "x") || in(c.to, "y") && c.port == 80 && c.protocol == tcp || c.from == "x/a" && in(c.to, "z")
		}},
	{"both sides have to agree", map[string]string{
		"x/out": "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: 'y'}}}]}]}",
		"y/in":  "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}}], ports: [{port: 80}]}]}"}, nil,
		func(c conn) bool {
			return (!in(c.from, "x") || in(c.to, "y")) && (!in(c.to, "y") || in(c.from, "x") && c.port == 80 && c.protocol == tcp)
		}},
	{"to a block of addresses", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.5/32}}]}]}"}, nil,
		func(c conn) bool { return c.from != "x/a" || c.to == "y/a" }},
	{"to a block with exceptions", map[string]string{"x/p": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.0/24, except: [10.244.0.5/32, 10.244.0.8/31]}}]}]}"}, nil,
		func(c conn) bool { return c.from != "x/a" || !one(c.to, "y/a", "z/a", "z/b") }},
	{"another policy allows what one excepts", map[string]string{
		"x/p": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.4/30, except: [10.244.0.5/32]}}]}]}",
		"x/q": "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.0.5/32}}]}]}"}, nil,
		func(c conn) bool { return c.from != "x/a" || one(c.to, "x/c", "y/a", "y/b", "y/c") }},
	{"from a block", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.8/30}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || in(c.from, "z") }},
	{"from everywhere on any port, by a long name", map[string]string{"x/0." + strings.Repeat("a", 251): "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 1, endPort: 65535}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || c.protocol == tcp }},
	{"a block as old API servers took it", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.244.000.8/30}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") || in(c.from, "z") }},
	{"no pod has an address of IPv6", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}"}, nil,
		func(c conn) bool { return !in(c.to, "x") }},

	{"a namespace's labels change", map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: db}}}]}]}"},
		func(s *State) { s.Namespaces["z"]["team"] = "db" },
		func(c conn) bool { return !in(c.to, "x") || in(c.from, "z") }},
	{"a pod's labels change", map[string]string{"x/p": "{podSelector: {matchLabels: {role: server}}, ingress: [{from: [{podSelector: {matchLabels: {role: client}}}]}]}"},
		func(s *State) {
			s.Pods[0].Labels["role"] = "server"
			s.Pods[1].Labels["role"] = "client"
		},
		func(c conn) bool { return c.to != "x/a" || c.from == "x/b" }},
}
