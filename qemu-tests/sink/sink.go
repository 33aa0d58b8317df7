// Package sink is a tempting outside for a lab: a router, and behind it a
// resolver, a time server and web servers that answer for every name and at
// every address. Whatever wants to leave the site does, and shows itself; what
// is said to it is kept. It reaches nothing itself.
package sink

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Config says which network the sink leads out of.
type Config struct {
	Socket  string       // a unix socket for one network card, as QEMU's "-netdev stream" speaks to it; made anew
	Router  netip.Prefix // the router's own address, with the site's network
	Machine netip.Addr   // who is at the other end
	MAC     string       // of its network card
	Log     *slog.Logger
}

// Contact is something that was said to the outside, and how often.
type Contact struct {
	Proto string         `json:"proto"` // tcp or udp
	From  netip.Addr     `json:"from"`
	To    netip.AddrPort `json:"to"`
	Said  string         `json:"said"` // as "asks for NAME", "TLS for NAME", "GET http://NAME/"
	First time.Time      `json:"first"`
	Times int            `json:"times"`
}

// MAC is the six bytes of the router's address on the wire.
const MAC = "\x52\x54\x00\x68\x66\xfe"

// LinkLocal is the address under which the router announces itself.
var LinkLocal = netip.AddrFrom16([16]byte{0xfe, 0x80, 15: 0xfe})

const (
	nic      = 1
	mac      = tcpip.LinkAddress(MAC)
	mtu      = 1500
	maxFrame = 64 << 10
	most     = 10_000 // contacts that are kept apart
)

// Sink runs until it is closed.
type Sink struct {
	c       Config
	stack   *stack.Stack
	link    *channel.Endpoint
	plug    net.Listener
	machine net.HardwareAddr
	certify *certifier
	stop    context.CancelFunc
	ctx     context.Context
	all     sync.WaitGroup

	mu       sync.Mutex
	contacts map[contactKey]*Contact
	lost     int
	forwards []net.Listener
	closed   bool
}

type contactKey struct {
	proto, said string
	from        netip.Addr
	to          netip.AddrPort
}

// Listen makes the socket and waits for a machine to be plugged in. One that
// ends leaves its place to the next.
func Listen(c Config) (*Sink, error) {
	fail := func(err error) (*Sink, error) { return nil, fmt.Errorf("cannot make the outside: %w", err) }
	if !c.Router.IsValid() || !c.Router.Addr().Is4() || !c.Router.Contains(c.Machine) {
		return fail(fmt.Errorf("internal error: router %s, machine %s", c.Router, c.Machine))
	}
	to, err := net.ParseMAC(c.MAC)
	if err != nil || len(to) != 6 {
		return fail(fmt.Errorf("internal error: the machine's MAC address is %q", c.MAC))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	certify, err := newCertifier()
	if err != nil {
		return fail(err)
	}
	s := &Sink{c: c, machine: to, certify: certify, contacts: map[contactKey]*Contact{}}
	if err := s.makeStack(); err != nil {
		return fail(err)
	}
	if err := os.Remove(c.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	// The path of a socket may have 107 bytes; that of its directory any number.
	dir, err := os.Open(filepath.Dir(c.Socket))
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if s.plug, err = net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(c.Socket))); err != nil {
		return fail(err)
	}
	s.plug.(*net.UnixListener).SetUnlinkOnClose(false) // its name is good for as long as dir is open
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.all.Go(s.accept)
	return s, nil
}

// Close ends it.
func (s *Sink) Close() error {
	s.stop()
	err := s.plug.Close()
	s.mu.Lock()
	s.closed = true
	for _, l := range s.forwards {
		err = errors.Join(err, l.Close())
	}
	s.mu.Unlock()
	s.link.Close()
	s.all.Wait()
	s.stack.Close()
	return errors.Join(err, os.Remove(s.c.Socket))
}

// begin runs f beside all else, unless the sink is being closed.
func (s *Sink) begin(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.all.Go(f)
	}
}

func (s *Sink) makeStack() error {
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	s.link = channel.New(1024, mtu+14, mac)
	router := tcpip.AddrFrom4(s.c.Router.Addr().As4())
	for _, err := range []tcpip.Error{
		s.stack.CreateNIC(nic, ethernet.New(s.link)),
		s.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
			AddressWithPrefix: router.WithPrefix()}, stack.AddressProperties{}),
		s.stack.SetPromiscuousMode(nic, true), // it takes what is for any address,
		s.stack.SetSpoofing(nic, true),        // and answers from there
	} {
		if err != nil {
			return errors.New(err.String())
		}
	}
	everywhere, err := tcpip.NewSubnet(tcpip.AddrFrom4([4]byte{}), tcpip.MaskFromBytes(make([]byte, 4)))
	if err != nil {
		return err
	}
	site, err := tcpip.NewSubnet(tcpip.AddrFrom4(s.c.Router.Masked().Addr().As4()), tcpip.MaskFromBytes(net.CIDRMask(s.c.Router.Bits(), 32)))
	if err != nil {
		return err
	}
	// Pods may send with their own addresses; these are behind the machine.
	s.stack.SetRouteTable([]tcpip.Route{{Destination: site, NIC: nic}, {Destination: everywhere, Gateway: tcpip.AddrFrom4(s.c.Machine.As4()), NIC: nic}})
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s.stack, 0, 1024, s.tcp).HandlePacket)
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s.stack, s.udp).HandlePacket)
	return nil
}

// accept serves one machine after another.
func (s *Sink) accept() {
	for {
		c, err := s.plug.Accept()
		if err != nil {
			return
		}
		ctx, unplug := context.WithCancel(s.ctx)
		stop := context.AfterFunc(ctx, func() { c.Close() })
		var out sync.WaitGroup
		out.Go(func() { s.send(ctx, c) })
		if err := s.receive(c); err != nil && s.ctx.Err() == nil {
			s.c.Log.Info("the machine is unplugged", "reason", err)
		}
		unplug()
		stop()
		c.Close()
		out.Wait()
	}
}

// receive reads frames: each has its length before it, four bytes, the highest
// first.
func (s *Sink) receive(c net.Conn) error {
	var head [4]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(c, frame); err != nil {
			return err
		}
		if !s.takes(frame) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		s.link.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

// takes reports whether a frame is for the router. It does not answer for other
// machines of the site's network, which has none.
func (s *Sink) takes(frame []byte) bool {
	if len(frame) < 14 {
		return false
	}
	body := frame[14:]
	var to netip.Addr
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == 0x0806 && len(body) >= 28: // ARP
		to = netip.AddrFrom4([4]byte(body[24:]))
		return to == s.c.Router.Addr()
	case kind == 0x0800 && len(body) >= 20:
		to = netip.AddrFrom4([4]byte(body[16:]))
		return to == s.c.Router.Addr() || !s.c.Router.Contains(to) && !to.IsMulticast()
	}
	return false
}

// send writes what the stack has, and every ten seconds what the router says by
// itself: who it is, and a question to the machine whether it is there, whose
// answers show that the wire is one.
func (s *Sink) send(ctx context.Context, c net.Conn) {
	var mu sync.Mutex
	write := func(frame []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
		return err
	}
	var announcing sync.WaitGroup
	announcing.Go(func() {
		for n := uint16(0); write(advertisement()) == nil && write(s.echo(n)) == nil; n++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Second):
			}
		}
	})
	defer announcing.Wait()
	for {
		pkt := s.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		err := write(view.AsSlice())
		view.Release()
		pkt.DecRef()
		if err != nil {
			return
		}
	}
}

// Contacts are what was said so far, in the order of time, and how many were
// not kept.
func (s *Sink) Contacts() (all []Contact, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.contacts {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Contact) int {
		return cmp.Or(a.First.Compare(b.First), a.To.Compare(b.To), cmp.Compare(a.Said, b.Said))
	})
	return all, s.lost
}

func (s *Sink) note(proto string, id stack.TransportEndpointID, said string) {
	k := contactKey{proto, said, addr(id.RemoteAddress), netip.AddrPortFrom(addr(id.LocalAddress), id.LocalPort)}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.contacts[k]
	switch {
	case c != nil:
	case len(s.contacts) == most:
		s.lost++
		return
	default:
		c = &Contact{Proto: proto, From: k.from, To: k.to, Said: said, First: time.Now()}
		s.contacts[k] = c
		s.c.Log.Info("contact", "proto", proto, "from", k.from, "to", k.to, "said", said)
	}
	c.Times++
}

func addr(a tcpip.Address) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return ip
}
