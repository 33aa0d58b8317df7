package pcap

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// packet is what matters of an IP packet.
type packet struct {
	proto    string
	from, to netip.AddrPort
	opens    bool   // a TCP connection
	answers  bool   // of ICMP: an answer, an error, or of the link
	question string // of a DNS query
}

var malformed = packet{proto: "malformed"}

// parse reads an Ethernet frame; ok is false when it is one of ARP, which stays on
// the link.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < 14 {
		return malformed, true
	}
	kind, b := binary.BigEndian.Uint16(b[12:]), b[14:]
	for kind == 0x8100 || kind == 0x88a8 { // a VLAN's tag
		if len(b) < 4 {
			return malformed, true
		}
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	switch kind {
	case 0x0800:
		return ipv4(b), true
	case 0x86dd:
		return ipv6(b), true
	case 0x0806:
		return packet{}, false
	}
	return packet{proto: fmt.Sprintf("ethertype %#04x", kind)}, true
}

// ipv4 is RFC 791.
func ipv4(b []byte) packet {
	if len(b) < 20 || b[0]>>4 != 4 {
		return malformed
	}
	n := int(b[0]&15) * 4
	if n < 20 || len(b) < n {
		return malformed
	}
	from, to := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // a later fragment has no ports
		return packet{proto: "fragment", from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0)}
	}
	return transport(b[9], from, to, b[n:])
}

// ipv6 is RFC 8200; extension headers are stepped over.
func ipv6(b []byte) packet {
	if len(b) < 40 || b[0]>>4 != 6 {
		return malformed
	}
	from, to := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	next, b := b[6], b[40:]
	for next == 0 || next == 43 || next == 60 { // hop-by-hop, routing, destination
		if len(b) < 8 {
			return malformed
		}
		n := int(b[1])*8 + 8
		if len(b) < n {
			return malformed
		}
		next, b = b[0], b[n:]
	}
	return transport(next, from, to, b)
}

// What a machine says of its own accord in neither is an answer, an error, or of
// the link: RFC 792; RFC 4443 and 4861.
var (
	icmpAnswers  = []byte{0, 3, 11, 12}
	icmp6Answers = []byte{1, 2, 3, 4, 129, 133, 134, 135, 136, 137}
)

func transport(proto byte, from, to netip.Addr, b []byte) packet {
	p := packet{from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0)}
	ports := func(least int) bool {
		if len(b) < least {
			p.proto = malformed.proto
			return false
		}
		p.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
		p.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:]))
		return true
	}
	switch proto {
	case 1, 58:
		p.proto = "icmp"
		if len(b) > 0 {
			p.answers = proto == 1 && slices.Contains(icmpAnswers, b[0]) || proto == 58 && slices.Contains(icmp6Answers, b[0])
		}
	case 6:
		p.proto = "tcp"
		if ports(20) {
			p.opens = b[13]&0x12 == 0x02 // SYN without ACK
		}
	case 17:
		p.proto = "udp"
		if ports(8) && p.to.Port() == 53 {
			p.question = question(b[8:])
		}
	default:
		p.proto = fmt.Sprint(proto)
	}
	return p
}

// question is the first name of a DNS query, RFC 1035; empty if there is none
// that can be read.
func question(b []byte) string {
	if len(b) < 12 {
		return ""
	}
	b = b[12:]
	var labels []string
	for total := 0; len(b) > 0 && total < 256; {
		n := int(b[0])
		if n == 0 {
			return strings.Join(labels, ".")
		}
		if n > 63 || len(b) < n+1 {
			return ""
		}
		labels = append(labels, printable(b[1:n+1]))
		total += n + 1
		b = b[n+1:]
	}
	return ""
}

func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return '?'
		}
		return r
	}, string(b))
}
