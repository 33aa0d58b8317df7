package netpol

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
)

// passes says what r makes of an attempt, as the kernel would.
func passes(r Rules, from, to netip.Addr, protocol corev1.Protocol, port uint16) bool {
	admitted := func(ip netip.Addr, of map[int][]int, peer netip.Addr) bool {
		i := slices.IndexFunc(r.Pods, func(p Pod) bool { return p.IP == ip })
		if i < 0 || of[i] == nil {
			return true
		}
		return slices.ContainsFunc(of[i], func(n int) bool {
			return slices.ContainsFunc(r.Policies[n].Allow, func(a Allow) bool {
				return (a.AnyPeer || slices.ContainsFunc(a.Peers, func(r Range) bool { return !peer.Less(r.First) && !r.Last.Less(peer) })) &&
					(a.AnyPort || slices.ContainsFunc(a.Ports, func(p Ports) bool {
						return p.Protocol == protocol && (p.Any ||
							slices.ContainsFunc(p.Ranges, func(r [2]uint16) bool { return r[0] <= port && port <= r[1] }) ||
							slices.Contains(p.Named, netip.AddrPortFrom(to, port)))
					}))
			})
		})
	}
	return from == to || admitted(from, r.Egress, to) && admitted(to, r.Ingress, from)
}

func (s State) ip(pod string) netip.Addr {
	return s.Pods[slices.IndexFunc(s.Pods, func(p Pod) bool { return p.String() == pod })].IP
}

func TestCases(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			s.Policies = policies(t, c.policies)
			if c.change != nil {
				c.change(&s)
			}
			r, err := Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range conns(s) {
				want := k.from == k.to || c.want(k)
				if got := passes(r, s.ip(k.from), s.ip(k.to), k.protocol, k.port); got != want {
					t.Errorf("%s: %v", k, got)
				}
				if said := oracle(s, k); said != want {
					t.Errorf("%s: the oracle says %v", k, said)
				}
			}
		})
	}
}

// oracle reads the API's words one by one, and knows nothing of rules.
func oracle(s State, k conn) bool {
	pod := func(name string) Pod {
		return s.Pods[slices.IndexFunc(s.Pods, func(p Pod) bool { return p.String() == name })]
	}
	from, to := pod(k.from), pod(k.to)
	if k.from == k.to {
		return true
	}
	side := func(self, other Pod, egress bool) bool {
		isolated := false
		for _, np := range s.Policies {
			types := np.Spec.PolicyTypes
			if len(types) == 0 {
				types = []networkingv1.PolicyType{"Ingress"}
				if len(np.Spec.Egress) > 0 {
					types = append(types, "Egress")
				}
			}
			if np.Namespace != self.Namespace || !selects(&np.Spec.PodSelector, self.Labels) ||
				!slices.Contains(types, map[bool]networkingv1.PolicyType{false: "Ingress", true: "Egress"}[egress]) {
				continue
			}
			isolated = true
			for _, rule := range np.Spec.Ingress {
				if !egress && peersMatch(s, np.Namespace, rule.From, other) && portsMatch(rule.Ports, to, k) {
					return true
				}
			}
			for _, rule := range np.Spec.Egress {
				if egress && peersMatch(s, np.Namespace, rule.To, other) && portsMatch(rule.Ports, to, k) {
					return true
				}
			}
		}
		return !isolated
	}
	return side(from, to, true) && side(to, from, false)
}

func selects(sel *metav1.LabelSelector, labels map[string]string) bool {
	for k, v := range sel.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	for _, e := range sel.MatchExpressions {
		v, has := labels[e.Key]
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !has || !slices.Contains(e.Values, v) {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if has && slices.Contains(e.Values, v) {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !has {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if has {
				return false
			}
		}
	}
	return true
}

func peersMatch(s State, namespace string, peers []networkingv1.NetworkPolicyPeer, other Pod) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if b := p.IPBlock; b != nil {
			_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
			return err == nil && whole.Contains(other.IP.AsSlice()) &&
				!slices.ContainsFunc(b.Except, func(e string) bool { return netip.MustParsePrefix(e).Contains(other.IP) })
		}
		if p.NamespaceSelector == nil && other.Namespace != namespace {
			return false
		}
		return (p.NamespaceSelector == nil || selects(p.NamespaceSelector, s.Namespaces[other.Namespace])) &&
			(p.PodSelector == nil || selects(p.PodSelector, other.Labels))
	})
}

func portsMatch(ports []networkingv1.NetworkPolicyPort, to Pod, k conn) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol == nil && k.protocol != tcp || p.Protocol != nil && *p.Protocol != k.protocol {
			return false
		}
		if p.Port == nil {
			return true
		}
		if p.Port.Type == intstr.String {
			return slices.ContainsFunc(to.Ports, func(c corev1.ContainerPort) bool {
				return c.Name == p.Port.StrVal && (c.Protocol == k.protocol || c.Protocol == "" && k.protocol == tcp) && c.ContainerPort == int32(k.port)
			})
		}
		if p.EndPort != nil {
			return p.Port.IntVal <= int32(k.port) && int32(k.port) <= *p.EndPort
		}
		return p.Port.IntVal == int32(k.port)
	})
}

// random policies mean to Compile what they mean to the oracle.
func TestRandom(t *testing.T) {
	n := 500
	if testing.Short() {
		n = 100
	}
	for seed := range n {
		rnd := rand.New(rand.NewPCG(uint64(seed), 1))
		s := world()
		s.Policies = randomPolicies(rnd)
		r, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range conns(s) {
			if got, want := passes(r, s.ip(k.from), s.ip(k.to), k.protocol, k.port), oracle(s, k); got != want {
				t.Fatalf("seed %d: %s: %v, the oracle says %v", seed, k, got, want)
			}
		}
	}
}

func randomPolicies(rnd *rand.Rand) []*networkingv1.NetworkPolicy {
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	sel := func(key string, values ...string) *metav1.LabelSelector {
		switch rnd.IntN(4) {
		case 0:
			return &metav1.LabelSelector{}
		case 1:
			return &metav1.LabelSelector{MatchLabels: map[string]string{key: pick(values...)}}
		}
		e := metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOperator(pick("In", "NotIn", "Exists", "DoesNotExist"))}
		if strings.HasSuffix(string(e.Operator), "In") {
			e.Values = []string{pick(values...), pick(values...)}
		}
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{e}}
	}
	peers := func() (out []networkingv1.NetworkPolicyPeer) {
		for range rnd.IntN(3) {
			var p networkingv1.NetworkPolicyPeer
			switch rnd.IntN(4) {
			case 0:
				p.PodSelector = sel("pod", "a", "b", "c")
			case 1:
				p.NamespaceSelector = sel("ns", "x", "y", "z")
			case 2:
				p.PodSelector, p.NamespaceSelector = sel("pod", "a", "b", "c"), sel("ns", "x", "y", "z")
			case 3:
				p.IPBlock = &networkingv1.IPBlock{CIDR: pick("10.244.0.0/24", "0.0.0.0/0", "10.244.0.4/30", "10.244.0.8/29")}
				for range rnd.IntN(3) {
					p.IPBlock.Except = append(p.IPBlock.Except, fmt.Sprintf("10.244.0.%d/%d", rnd.IntN(12), 30+rnd.IntN(3)))
				}
			}
			out = append(out, p)
		}
		return out
	}
	ports := func() (out []networkingv1.NetworkPolicyPort) {
		for range rnd.IntN(3) {
			var p networkingv1.NetworkPolicyPort
			if protocol := corev1.Protocol(pick("TCP", "UDP", "SCTP", "")); protocol != "" {
				p.Protocol = &protocol
			}
			switch rnd.IntN(4) {
			case 0:
				v := intstr.FromInt32(79 + rnd.Int32N(4))
				p.Port = &v
			case 1:
				v := intstr.FromString(pick("serve-80-tcp", "serve-81-tcp", "serve-80-udp", "nothing"))
				p.Port = &v
			case 2:
				v, end := intstr.FromInt32(70+rnd.Int32N(11)), 80+rnd.Int32N(5)
				p.Port, p.EndPort = &v, &end
			}
			out = append(out, p)
		}
		return out
	}
	var out []*networkingv1.NetworkPolicy
	for i := range 1 + rnd.IntN(5) {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick("x", "y", "z"), Name: fmt.Sprint("p", i)}}
		np.Spec.PodSelector = *sel("pod", "a", "b", "c")
		for range rnd.IntN(3) {
			np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers(), Ports: ports()})
		}
		for range rnd.IntN(3) {
			np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers(), Ports: ports()})
		}
		for _, t := range []networkingv1.PolicyType{"Ingress", "Egress"} {
			if rnd.IntN(2) == 0 {
				np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, t)
			}
		}
		out = append(out, np)
	}
	return out
}

// What no API server accepts is an error with the policy's name, allows nothing,
// and does not keep other policies from being used.
func TestUnusable(t *testing.T) {
	for _, spec := range []string{
		"{podSelector: {}, ingress: [{from: [{}]}]}",
		"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}",
		"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]}",
		"{podSelector: {matchExpressions: [{key: a, operator: Frob}]}}",
		"{podSelector: {}, ingress: [{ports: [{port: 70000}]}]}",
		"{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}",
		"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}]}",
	} {
		s := world()
		s.Policies = policies(t, map[string]string{"x/bad": spec, "y/good": denyIngress})
		r, err := Compile(s)
		if err == nil || !strings.Contains(err.Error(), "x/bad") {
			t.Errorf("%s: %v", spec, err)
		}
		if (passes(r, s.ip("z/a"), s.ip("x/a"), tcp, 80) && passes(r, s.ip("x/a"), s.ip("z/a"), tcp, 80)) || passes(r, s.ip("z/a"), s.ip("y/a"), tcp, 80) {
			t.Errorf("%s: allows %+v", spec, r)
		}
	}
}

// Pods of other nodes are peers, and nothing is enforced on them.
func TestOtherNodes(t *testing.T) {
	s := world()
	s.Pods[1].Here, s.Pods[2].Here = false, false
	s.Policies = policies(t, map[string]string{"x/p": "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}"})
	r, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Pods) != 7 || len(r.Ingress) != 1 {
		t.Errorf("%+v", r)
	}
	if !passes(r, s.ip("x/b"), s.ip("x/a"), tcp, 80) || passes(r, s.ip("x/c"), s.ip("x/a"), tcp, 80) || !passes(r, s.ip("x/a"), s.ip("x/c"), tcp, 80) {
		t.Error("wrong peers")
	}
}
