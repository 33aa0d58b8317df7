package netpol

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ports joins the ports of a rule by protocol. A name that no pod has is left
// out; where nothing is left, no port is allowed.
func (s State) ports(in []networkingv1.NetworkPolicyPort) ([]Ports, error) {
	by := map[corev1.Protocol]*Ports{}
	for _, np := range in {
		protocol := corev1.ProtocolTCP
		if np.Protocol != nil {
			protocol = *np.Protocol
		}
		p := by[protocol]
		if p == nil {
			p = &Ports{Protocol: protocol}
			by[protocol] = p
		}
		switch {
		case np.Port == nil:
			p.Any = true
		case np.Port.Type == intstr.String:
			p.Named = append(p.Named, s.named(protocol, np.Port.StrVal)...)
		default:
			last := np.Port.IntVal
			if np.EndPort != nil {
				last = *np.EndPort
			}
			if np.Port.IntVal < 1 || last < np.Port.IntVal || last > 65535 {
				return nil, fmt.Errorf("ports %d to %d", np.Port.IntVal, last)
			}
			p.Ranges = append(p.Ranges, [2]uint16{uint16(np.Port.IntVal), uint16(last)})
		}
	}
	var out []Ports
	for _, p := range by {
		p.Ranges = mergePorts(p.Ranges)
		slices.SortFunc(p.Named, netip.AddrPort.Compare)
		p.Named = slices.Compact(p.Named)
		if p.Any || p.Ranges != nil || p.Named != nil {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(a, b Ports) int { return cmp.Compare(a.Protocol, b.Protocol) })
	return out, nil
}

// named are the ports that pods call so.
func (s State) named(protocol corev1.Protocol, name string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range s.Pods {
		for _, c := range p.Ports {
			if c.Name == name && cmp.Or(c.Protocol, corev1.ProtocolTCP) == protocol {
				out = append(out, netip.AddrPortFrom(p.IP, uint16(c.ContainerPort)))
			}
		}
	}
	return out
}

func mergePorts(in [][2]uint16) [][2]uint16 {
	slices.SortFunc(in, func(a, b [2]uint16) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	var out [][2]uint16
	for _, r := range in {
		if n := len(out); n > 0 && int(r[0]) <= int(out[n-1][1])+1 {
			out[n-1][1] = max(out[n-1][1], r[1])
			continue
		}
		out = append(out, r)
	}
	return out
}
