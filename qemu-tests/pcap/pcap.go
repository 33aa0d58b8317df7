// Package pcap reads a recorded wire and lists what tried to leave the site.
//
// The format is the classic one, as QEMU's filter-dump writes it:
// draft-ietf-opsawg-pcap, with Ethernet frames.
package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Flow is all packets of one kind to one place.
type Flow struct {
	Proto    string         // "tcp", "udp", "icmp", a protocol number, or "malformed"
	From     netip.Addr     // not its port: a flow may be tried again from others
	To       netip.AddrPort // port 0 where there is none
	Question string         // the name that was asked for, of a DNS query
	First    time.Time
	Packets  int
}

func (f Flow) String() string {
	s := fmt.Sprintf("%s %s -> %s (%d packets, first at %s)", f.Proto, f.From, f.To, f.Packets, f.First.UTC().Format(time.RFC3339))
	if f.Question != "" {
		s += " asks for " + f.Question
	}
	return s
}

// Site says what is not outside.
type Site struct {
	Inside   []netip.Prefix   // its networks
	Gateways []netip.Addr     // what is asked of them themselves is outside, whatever Inside says
	Servers  []netip.AddrPort // but for these, by TCP or UDP
	Router   string           // six bytes: the MAC address of the outside, whose own frames count for nothing; empty: none
}

// Lab is QEMU's own network with the site's networks. By the gateways it answers
// for the outside: the host's address and the resolver's.
func Lab(inside ...netip.Prefix) Site {
	return Site{Inside: inside, Gateways: []netip.Addr{
		netip.AddrFrom4([4]byte{10, 0, 2, 2}), netip.AddrFrom4([4]byte{10, 0, 2, 3}),
		netip.AddrFrom16([16]byte{0: 0xfe, 1: 0xc0, 15: 2}), netip.AddrFrom16([16]byte{0: 0xfe, 1: 0xc0, 15: 3}),
	}}
}

// Recording is what a recorded wire shows.
type Recording struct {
	Outside []Flow        // what tried to leave, in the order of first packets
	Frames  int64         // all there were
	Within  int64         // packets of IP from one address of its networks to another, or to a gateway as an answer
	Gap     time.Duration // the longest time without a frame
	First   time.Time     // the first frame
	Last    time.Time
}

// Read lists the flows that tried to leave: to an address in none of the site's
// networks that is not broadcast, loopback, unspecified or of the link alone,
// multicast or not; and to a gateway, a connection opened, a datagram that is no
// DHCP, so also each name asked for, and anything else that is no answer. What
// cannot be read as a packet, and any other protocol than IP and ARP, counts as
// trying. A recording that is empty, cut off or in another format is an error.
func Read(name string, site Site) (Recording, error) {
	f, err := os.Open(name)
	if err != nil {
		return Recording{}, fmt.Errorf("cannot read the recorded wire: %w", err)
	}
	defer f.Close()
	r, err := read(bufio.NewReaderSize(f, 1<<20), site)
	if err != nil {
		return Recording{}, fmt.Errorf("cannot read the recorded wire %s: %w", name, err)
	}
	return r, nil
}

const maxFrame = 256 << 10

func read(r io.Reader, site Site) (Recording, error) {
	none := Recording{}
	var head [24]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return none, fmt.Errorf("no header: %w", err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(head[:]) != 0xa1b2c3d4 {
		order = binary.BigEndian
	}
	if order.Uint32(head[:]) != 0xa1b2c3d4 || order.Uint32(head[20:]) != 1 {
		return none, errors.New("not a pcap file of Ethernet frames")
	}
	type key struct {
		proto, question string
		from            netip.Addr
		to              netip.AddrPort
	}
	index := map[key]int{}
	var all Recording
	var rec [16]byte
	frame := make([]byte, maxFrame)
	for n := 1; ; n++ {
		if _, err := io.ReadFull(r, rec[:]); err == io.EOF {
			return all, nil
		} else if err != nil {
			return none, fmt.Errorf("packet %d: %w", n, err)
		}
		size := order.Uint32(rec[8:])
		if size > maxFrame {
			return none, fmt.Errorf("packet %d has %d bytes, more than any frame", n, size)
		}
		if _, err := io.ReadFull(r, frame[:size]); err != nil {
			return none, fmt.Errorf("packet %d: %w", n, errors.Join(io.ErrUnexpectedEOF, err))
		}
		at := time.Unix(int64(order.Uint32(rec[0:])), int64(order.Uint32(rec[4:]))*1000)
		if all.Frames++; all.Frames == 1 {
			all.First, all.Last = at, at
		}
		all.Gap, all.Last = max(all.Gap, at.Sub(all.Last)), at
		if site.Router != "" && size >= 12 && string(frame[6:12]) == site.Router {
			continue
		}
		p, ok := parse(frame[:size])
		if !ok {
			continue
		}
		if !p.leaves(site) {
			if site.has(p.from.Addr()) && site.has(p.to.Addr()) {
				all.Within++
			}
			continue
		}
		k := key{p.proto, p.question, p.from.Addr(), p.to}
		i, seen := index[k]
		if !seen {
			i = len(all.Outside)
			index[k] = i
			all.Outside = append(all.Outside, Flow{Proto: p.proto, From: k.from, To: p.to, Question: p.question, First: all.Last})
		}
		all.Outside[i].Packets++
	}
}

// leaves reports whether p tries to.
func (p packet) leaves(site Site) bool {
	if p.proto == "malformed" {
		return true
	}
	if (p.proto == "tcp" || p.proto == "udp") && slices.Contains(site.Servers, p.to) {
		return false
	}
	to := p.to.Addr()
	if slices.Contains(site.Gateways, to) {
		switch p.proto {
		case "tcp":
			return p.opens
		case "udp":
			return p.to.Port() != 67
		case "icmp":
			return !p.answers
		}
		return true
	}
	if to.IsLinkLocalMulticast() || to.IsInterfaceLocalMulticast() || to.IsLinkLocalUnicast() || to.IsLoopback() || to.IsUnspecified() ||
		to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	return !site.has(to)
}

func (s Site) has(a netip.Addr) bool {
	return slices.ContainsFunc(s.Inside, func(p netip.Prefix) bool { return p.Contains(a) })
}
