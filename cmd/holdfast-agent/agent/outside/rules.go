// Package outside records on a node who tries to reach beyond the site. The
// kernel counts, by nftables, the beginnings of all that goes elsewhere: after
// network policies, so that what they refuse does not count, and before
// addresses are translated, so that a pod can still be told from the node.
package outside

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// TableName is the table of family inet that counts.
const TableName = "holdfast-outside"

// Site is what is not outside.
type Site struct {
	Networks []netip.Prefix // of nodes, pods and services; IPv4
	Gateway  netip.Addr     // the way out, in one of Networks; what is asked of it itself is outside too
	DNS, NTP []netip.Addr   // servers that the site file names
}

// most is how many different tries a set of the kernel keeps.
const most = 256

// keys are the types of what identifies a try, by set. A control group is taken
// at the second and the third level, as a container's own is gone when it ends:
// a unit is at the second, and the slice of a pod at either.
func keys() map[string]string {
	const to = " . ipv4_addr . inet_proto . inet_service"
	return map[string]string{
		"pods":   "ipv4_addr" + to,
		"deep":   "cgroupsv2 . cgroupsv2" + to,
		"units":  "cgroupsv2" + to,
		"slices": "cgroupsv2" + to,
		"other":  "ipv4_addr . ipv4_addr . inet_proto",
		"other6": "ipv6_addr . ipv6_addr . inet_proto",
	}
}

// Rules is the input of nft that makes the table, in place of one that is there.
func Rules(s Site) []byte {
	var b bytes.Buffer
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("table inet %s\ndelete table inet %[1]s\ntable inet %[1]s {", TableName)
	sets := keys()
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		line("  set %s { type %s; flags dynamic; size %d; counter; }", name, sets[name], most)
	}
	line("  counter lost { }")
	for _, c := range []struct{ name, hook string }{{"forward", "forwarded"}, {"output", "own"}} {
		line("  chain %s { type filter hook %[1]s priority filter + 10; policy accept;", c.name)
		line("    ct state established,related return")
		line("    tcp flags & (fin | syn | rst | ack) != syn return") // of a connection that nobody knows any more
		line("    fib daddr type { local, broadcast } return")
		// What never leaves a link, or this machine. Of IPv6, fib knows no multicast.
		line("    ip daddr 224.0.0.0/24 return")
		line("    ip6 daddr { fe80::/10, ff01::/16, ff02::/16 } return")
		line("    meta nfproto ipv6 add @other6 { ip6 saddr . ip6 daddr . meta l4proto } return")
		if len(s.DNS) > 0 {
			line("    ip daddr %s meta l4proto { tcp, udp } th dport { 53, 853 } return", set(s.DNS))
		}
		if len(s.NTP) > 0 {
			line("    ip daddr %s udp dport 123 return", set(s.NTP))
		}
		if s.Gateway.IsValid() {
			line("    ip daddr %s goto %s", s.Gateway, c.hook)
		}
		for _, n := range s.Networks {
			line("    ip daddr %s return", n.Masked())
		}
		line("    ip daddr 169.254.0.0/16 return")
		line("    goto %s\n  }", c.hook)
	}
	const ported = "meta l4proto { tcp, udp, sctp } "
	const to = "ip daddr . meta l4proto . th dport"
	line("  chain forwarded {")
	line("    %sadd @pods { ip saddr . %s } return", ported, to)
	line("    goto rest\n  }\n  chain own {")
	line("    %sadd @deep { socket cgroupv2 level 2 . socket cgroupv2 level 3 . %s } return", ported, to)
	line("    %sadd @units { socket cgroupv2 level 2 . %s } return", ported, to)
	line("    %sadd @slices { socket cgroupv2 level 1 . %s } return", ported, to)
	// A packet of the kernel's own, or of a set that is full.
	line("    %sadd @pods { ip saddr . %s } return", ported, to)
	line("    goto rest\n  }\n  chain rest {")
	line("    add @other { ip saddr . ip daddr . meta l4proto } return")
	line("    counter name lost\n  }\n}")
	return b.Bytes()
}

func set[T fmt.Stringer](in []T) string {
	var s []string
	for _, x := range in {
		if t := x.String(); !slices.Contains(s, t) {
			s = append(s, t)
		}
	}
	return "{ " + strings.Join(s, ", ") + " }"
}
