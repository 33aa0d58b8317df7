// Package netpol enforces NetworkPolicies on the pods of this node. Compile
// makes of policies, namespaces and pods a value that says what may pass;
// Table loads it as one nftables transaction; Controller keeps both up to date
// with the cluster. The meaning of policies is that of networking.k8s.io/v1.
package netpol

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// State is what policies are looked at with.
type State struct {
	Policies   []*networkingv1.NetworkPolicy
	Namespaces map[string]map[string]string // labels by name
	Pods       []Pod                        // of all nodes
}

// Pod is a pod that has an address of its own and has not ended. Those on the
// network of their node are none: they are the node.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
	IP              netip.Addr // IPv4
	Ports           []corev1.ContainerPort
	Here            bool // on this node
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Rules are what may pass on this node.
type Rules struct {
	Pods     []Pod // those here, in order of their names; nobody else may use a pod's link
	Policies []Policy
	// By place in Pods, the places in Policies of those that select the pod. A
	// pod without an entry is not isolated in that direction.
	Ingress, Egress map[int][]int
}

// Direction is seen from the pod that a policy selects.
type Direction string

const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Policy is one direction of a NetworkPolicy.
type Policy struct {
	Namespace, Name string
	Direction       Direction
	Allow           []Allow
}

// Allow admits connections with Peers on Ports.
type Allow struct {
	AnyPeer bool
	Peers   []Range // who connects (ingress) or who is connected to (egress)
	AnyPort bool    // and any protocol
	Ports   []Ports
}

// Ports are destination ports of one protocol.
type Ports struct {
	Protocol corev1.Protocol
	Any      bool
	Ranges   [][2]uint16      // first and last, in order, without overlaps
	Named    []netip.AddrPort // ports that a name stands for, which differ by pod
}

// Compile works out what s allows. Its error names policies that cannot be used,
// which no API server accepts: the rules isolate the pods that these select all
// the same, and allow nothing for what cannot be read.
func Compile(s State) (Rules, error) {
	s.Pods = slices.Clone(s.Pods)
	slices.SortFunc(s.Pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.Policies = slices.Clone(s.Policies)
	slices.SortFunc(s.Policies, func(a, b *networkingv1.NetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	r := Rules{Ingress: map[int][]int{}, Egress: map[int][]int{}}
	for _, p := range s.Pods {
		if p.Here {
			r.Pods = append(r.Pods, p)
		}
	}
	var errs []error
	for _, np := range s.Policies {
		if err := r.add(s, np); err != nil {
			errs = append(errs, fmt.Errorf("cannot use NetworkPolicy %s/%s: %w", np.Namespace, np.Name, err))
		}
	}
	return r, errors.Join(errs...)
}

// add takes in a policy, if it selects pods here.
func (r *Rules) add(s State, np *networkingv1.NetworkPolicy) error {
	sel, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
	if err != nil {
		sel = labels.Everything()
	}
	var selected []int
	for i, p := range r.Pods {
		if p.Namespace == np.Namespace && sel.Matches(labels.Set(p.Labels)) {
			selected = append(selected, i)
		}
	}
	if len(selected) == 0 {
		return err
	}
	for _, d := range directions(np.Spec) {
		p := Policy{Namespace: np.Namespace, Name: np.Name, Direction: d}
		of := r.Ingress
		if d == Egress {
			of = r.Egress
			for _, e := range np.Spec.Egress {
				err = errors.Join(err, p.allow(s, e.To, e.Ports))
			}
		} else {
			for _, in := range np.Spec.Ingress {
				err = errors.Join(err, p.allow(s, in.From, in.Ports))
			}
		}
		for _, i := range selected {
			of[i] = append(of[i], len(r.Policies))
		}
		r.Policies = append(r.Policies, p)
	}
	return err
}

// directions are those that a policy isolates its pods in. The API server sets
// policyTypes; without them a policy is about ingress, and about egress if it
// has rules for it.
func directions(s networkingv1.NetworkPolicySpec) []Direction {
	none := len(s.PolicyTypes) == 0
	var out []Direction
	if none || slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeIngress) {
		out = append(out, Ingress)
	}
	if none && len(s.Egress) > 0 || slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeEgress) {
		out = append(out, Egress)
	}
	return out
}

// allow adds one rule, unless it admits nobody.
func (p *Policy) allow(s State, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) error {
	a := Allow{AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	var all []span
	for _, peer := range peers {
		spans, err := s.peer(p.Namespace, peer)
		if err != nil {
			return err
		}
		all = append(all, spans...)
	}
	a.Peers = merge(all)
	var err error
	if a.Ports, err = s.ports(ports); err != nil {
		return err
	}
	if !a.AnyPeer && len(a.Peers) == 0 || !a.AnyPort && len(a.Ports) == 0 {
		return nil
	}
	p.Allow = append(p.Allow, a)
	return nil
}

// peer gives the addresses that a peer of a policy in namespace stands for.
func (s State) peer(namespace string, peer networkingv1.NetworkPolicyPeer) ([]span, error) {
	if b := peer.IPBlock; b != nil {
		whole, ok, err := block(b.CIDR)
		if err != nil || !ok {
			return nil, err
		}
		var without []span
		for _, e := range b.Except {
			w, ok, err := block(e)
			if err != nil {
				return nil, err
			}
			if ok {
				without = append(without, w)
			}
		}
		return cut(whole, without), nil
	}
	if peer.PodSelector == nil && peer.NamespaceSelector == nil {
		return nil, errors.New("a peer without selector and ipBlock")
	}
	pods, err := selector(peer.PodSelector)
	if err != nil {
		return nil, err
	}
	namespaces, err := selector(peer.NamespaceSelector)
	if err != nil {
		return nil, err
	}
	var out []span
	for _, p := range s.Pods {
		in := p.Namespace == namespace
		if peer.NamespaceSelector != nil {
			in = namespaces.Matches(labels.Set(s.Namespaces[p.Namespace]))
		}
		if in && pods.Matches(labels.Set(p.Labels)) {
			n := number(p.IP)
			out = append(out, span{n, n + 1})
		}
	}
	return out, nil
}

// selector is one that matches everything where there is none.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}
