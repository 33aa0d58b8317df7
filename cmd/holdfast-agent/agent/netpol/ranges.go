package netpol

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	netutils "k8s.io/utils/net"
)

// Range is the IPv4 addresses from First to Last, both included.
type Range struct{ First, Last netip.Addr }

func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// span is a range as numbers; 64 bits, so that the end may lie behind the last
// address.
type span struct{ from, to uint64 } // to is not in it

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func address(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(n))))
}

// block reads a CIDR; ok is false for one of IPv6, which no pod has.
func block(cidr string) (s span, ok bool, err error) {
	_, n, err := netutils.ParseCIDRSloppy(cidr) // as the API server reads it
	if err != nil {
		return s, false, fmt.Errorf("cannot read ipBlock %q: %w", cidr, err)
	}
	ip := n.IP.To4()
	if ip == nil {
		return s, false, nil
	}
	ones, bits := n.Mask.Size()
	from := number(netip.AddrFrom4([4]byte(ip)))
	return span{from, from + 1<<(bits-ones)}, true, nil
}

// cut returns what is left of s without the others.
func cut(s span, without []span) []span {
	left := []span{s}
	for _, w := range without {
		var next []span
		for _, l := range left {
			if a := (span{l.from, min(l.to, w.from)}); a.from < a.to {
				next = append(next, a)
			}
			if b := (span{max(l.from, w.to), l.to}); b.from < b.to {
				next = append(next, b)
			}
		}
		left = next
	}
	return left
}

// merge gives the same addresses in order, without overlaps, which nftables
// refuses.
func merge(spans []span) []Range {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var joined []span
	for _, s := range spans {
		if n := len(joined); n > 0 && s.from <= joined[n-1].to {
			joined[n-1].to = max(joined[n-1].to, s.to)
			continue
		}
		joined = append(joined, s)
	}
	var out []Range
	for _, s := range joined {
		out = append(out, Range{address(s.from), address(s.to - 1)})
	}
	return out
}
