package sink

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What every name resolves to: documentation's addresses, which no site has.
var (
	anywhere4 = netip.AddrFrom4([4]byte{203, 0, 113, 80})
	anywhere6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 0x80})
)

const (
	speakWithin = 5 * time.Second // who says nothing by then waits to be spoken to
	talkFor     = 30 * time.Second
)

// tcp accepts a connection to anywhere.
func (s *Sink) tcp(r *tcp.ForwarderRequest) {
	var q waiter.Queue
	id := r.ID()
	ep, err := r.CreateEndpoint(&q)
	r.Complete(err != nil)
	if err != nil {
		s.note("tcp", id, "connects, and is gone")
		return
	}
	conn := gonet.NewTCPConn(&q, ep)
	s.begin(func() {
		defer conn.Close()
		defer context.AfterFunc(s.ctx, func() { conn.Close() })()
		if conn.SetDeadline(time.Now().Add(talkFor)) == nil {
			s.note("tcp", id, s.talk(conn, id))
		}
	})
}

// talk answers a client in its own protocol, as far as it is one that many
// speak, and returns what it wanted.
func (s *Sink) talk(conn net.Conn, id stack.TransportEndpointID) string {
	in := bufio.NewReaderSize(conn, 16<<10)
	if err := conn.SetReadDeadline(time.Now().Add(speakWithin)); err != nil {
		return "connects"
	}
	first, err := in.Peek(1)
	if err != nil {
		return "connects, and says nothing"
	}
	if err := conn.SetReadDeadline(time.Now().Add(talkFor)); err != nil {
		return "connects"
	}
	switch {
	case id.LocalPort == 53:
		return dnsOverTCP(in, conn)
	case first[0] == 0x16: // TLS, a handshake
		said := "TLS"
		t := tls.Server(spoken{conn, in}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != "" {
				said = "TLS for " + printable(h.ServerName)
			}
			return s.certify.config(h.ServerName)
		}})
		if t.Handshake() != nil {
			return said + ", and does not trust the answer"
		}
		return said + ", then " + web(bufio.NewReader(t), t, "https")
	}
	return web(in, conn, "http")
}

// spoken is a connection of which something was read before.
type spoken struct {
	net.Conn
	in io.Reader
}

func (s spoken) Read(b []byte) (int, error) { return s.in.Read(b) }

// web answers one request of HTTP.
func web(in *bufio.Reader, out io.Writer, scheme string) string {
	if _, err := in.Peek(1); err != nil {
		return "says nothing"
	}
	b, _ := in.Peek(min(in.Buffered(), 64))
	start := printable(string(b))
	r, err := http.ReadRequest(in)
	if err != nil {
		return fmt.Sprintf("says %q", start)
	}
	const page = "holdfast: there is nothing outside\n"
	fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(page))
	if r.Method != http.MethodHead {
		io.WriteString(out, page)
	}
	return fmt.Sprintf("%s %s://%s%s", printable(r.Method), scheme, printable(r.Host), printable(r.URL.Path))
}

func dnsOverTCP(in io.Reader, out io.Writer) string {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return "connects to a resolver"
	}
	q := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(in, q); err != nil {
		return "connects to a resolver"
	}
	said, answer := resolve(q)
	if answer != nil {
		out.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
	return said
}

// udp takes datagrams to anywhere.
func (s *Sink) udp(r *udp.ForwarderRequest) {
	var q waiter.Queue
	id := r.ID()
	ep, err := r.CreateEndpoint(&q)
	if err != nil {
		s.note("udp", id, "sends")
		return
	}
	conn := gonet.NewUDPConn(&q, ep)
	s.begin(func() {
		defer conn.Close()
		defer context.AfterFunc(s.ctx, func() { conn.Close() })()
		b := make([]byte, mtu)
		for {
			if conn.SetReadDeadline(time.Now().Add(talkFor)) != nil {
				return
			}
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			said, answer := datagram(id.LocalPort, b[:n], time.Now())
			s.note("udp", id, said)
			if answer != nil {
				conn.Write(answer)
			}
		}
	})
}

func datagram(port uint16, b []byte, now time.Time) (said string, answer []byte) {
	switch port {
	case 53:
		return resolve(b)
	case 123:
		if answer := ntp(b, now); answer != nil {
			return "asks for the time", answer
		}
	}
	return fmt.Sprintf("sends %q", printable(string(b[:min(len(b), 32)]))), nil
}

// resolve answers a query of RFC 1035, for any name.
func resolve(b []byte) (said string, answer []byte) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response {
		return "sends a resolver what is no query", nil
	}
	qs, err := p.AllQuestions()
	if err != nil || len(qs) != 1 {
		return "sends a resolver what is no query", nil
	}
	q := qs[0]
	said = fmt.Sprintf("asks for %s (%s)", printable(strings.TrimSuffix(q.Name.String(), ".")), strings.TrimPrefix(q.Type.String(), "Type"))
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: qs,
	}
	rh := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
	switch q.Type {
	case dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{Header: rh, Body: &dnsmessage.AResource{A: anywhere4.As4()}}}
	case dnsmessage.TypeAAAA:
		m.Answers = []dnsmessage.Resource{{Header: rh, Body: &dnsmessage.AAAAResource{AAAA: anywhere6.As16()}}}
	}
	if answer, err = m.Pack(); err != nil {
		return said, nil
	}
	return said, answer
}

// ntp answers a client of RFC 5905 with the time.
func ntp(b []byte, now time.Time) []byte {
	if len(b) < 48 || b[0]&7 != 3 {
		return nil
	}
	out := make([]byte, 48)
	out[0], out[1], out[2], out[3] = b[0]&0x38|4, 2, b[2], 0xe9 // a server, two steps from a clock
	copy(out[12:], "HOLD")
	const since1900 = 2_208_988_800
	stamp := uint64(now.Unix()+since1900)<<32 | uint64(now.Nanosecond())<<32/1_000_000_000
	copy(out[24:], b[40:48])
	for _, at := range []int{16, 32, 40} {
		binary.BigEndian.PutUint64(out[at:], stamp)
	}
	return out
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 200)])
}

// Forward leads a port of this host's loopback to one of the machine.
func (s *Sink) Forward(host, machine int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", host))
	if err != nil {
		return fmt.Errorf("cannot forward port %d: %w", host, err)
	}
	s.mu.Lock()
	s.forwards = append(s.forwards, l)
	s.mu.Unlock()
	to := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(s.c.Machine.As4()), Port: uint16(machine)}
	s.begin(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.begin(func() { s.join(c, to) })
		}
	})
	return nil
}

func (s *Sink) join(c net.Conn, to tcpip.FullAddress) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.ctx, talkFor)
	there, err := gonet.DialContextTCP(ctx, s.stack, to, ipv4.ProtocolNumber)
	cancel()
	if err != nil {
		return
	}
	defer there.Close()
	stop := context.AfterFunc(s.ctx, func() { c.Close(); there.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(there, c)
		there.CloseWrite()
	}()
	io.Copy(c, there)
	c.Close()
	<-done
}
