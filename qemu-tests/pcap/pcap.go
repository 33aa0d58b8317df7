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

// gateway are the addresses by which QEMU's user network answers for the
// outside: the host's and the resolver's.
var gateway = [...]netip.Addr{
	netip.AddrFrom4([4]byte{10, 0, 2, 2}), netip.AddrFrom4([4]byte{10, 0, 2, 3}),
	netip.AddrFrom16([16]byte{0: 0xfe, 1: 0xc0, 15: 2}), netip.AddrFrom16([16]byte{0: 0xfe, 1: 0xc0, 15: 3}),
}

// Outside lists the flows that tried to leave, in the order of their first
// packets: to an address in none of inside that is not multicast, broadcast,
// link-local, loopback or unspecified; and to the gateway, whatever inside
// says, a connection opened or a datagram that is no DHCP, so also each name
// asked for. What cannot be read as a packet counts as trying. A recording
// that is empty, cut off or in another format is an error.
func Outside(name string, inside []netip.Prefix) ([]Flow, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the recorded wire: %w", err)
	}
	defer f.Close()
	flows, err := read(bufio.NewReaderSize(f, 1<<20), inside)
	if err != nil {
		return nil, fmt.Errorf("cannot read the recorded wire %s: %w", name, err)
	}
	return flows, nil
}

const maxFrame = 256 << 10

func read(r io.Reader, inside []netip.Prefix) ([]Flow, error) {
	var head [24]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("no header: %w", err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(head[:]) != 0xa1b2c3d4 {
		order = binary.BigEndian
	}
	if order.Uint32(head[:]) != 0xa1b2c3d4 || order.Uint32(head[20:]) != 1 {
		return nil, errors.New("not a pcap file of Ethernet frames")
	}
	type key struct {
		proto, question string
		from            netip.Addr
		to              netip.AddrPort
	}
	at := map[key]int{}
	var flows []Flow
	var rec [16]byte
	frame := make([]byte, maxFrame)
	for n := 1; ; n++ {
		if _, err := io.ReadFull(r, rec[:]); err == io.EOF {
			return flows, nil
		} else if err != nil {
			return nil, fmt.Errorf("packet %d: %w", n, err)
		}
		size := order.Uint32(rec[8:])
		if size > maxFrame {
			return nil, fmt.Errorf("packet %d has %d bytes, more than any frame", n, size)
		}
		if _, err := io.ReadFull(r, frame[:size]); err != nil {
			return nil, fmt.Errorf("packet %d: %w", n, errors.Join(io.ErrUnexpectedEOF, err))
		}
		p, ok := parse(frame[:size])
		if !ok || !p.leaves(inside) {
			continue
		}
		k := key{p.proto, p.question, p.from.Addr(), p.to}
		i, seen := at[k]
		if !seen {
			i = len(flows)
			at[k] = i
			when := time.Unix(int64(order.Uint32(rec[0:])), int64(order.Uint32(rec[4:]))*1000)
			flows = append(flows, Flow{Proto: p.proto, From: k.from, To: p.to, Question: p.question, First: when})
		}
		flows[i].Packets++
	}
}

// leaves reports whether p tries to.
func (p packet) leaves(inside []netip.Prefix) bool {
	if p.proto == "malformed" {
		return true
	}
	to := p.to.Addr()
	for _, g := range gateway {
		if to == g {
			return p.opens || p.proto == "udp" && p.to.Port() != 67
		}
	}
	if to.IsMulticast() || to.IsLinkLocalUnicast() || to.IsLoopback() || to.IsUnspecified() ||
		to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	for _, in := range inside {
		if in.Contains(to) {
			return false
		}
	}
	return true
}
