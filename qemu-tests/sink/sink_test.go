package sink

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

var (
	router  = netip.MustParsePrefix("10.0.2.2/24")
	machine = netip.MustParseAddr("10.0.2.15")
)

// guest is a machine's network stack, plugged into the sink as QEMU would.
type guest struct {
	stack  *stack.Stack
	frames chan []byte // what the sink sent
}

func plugIn(t *testing.T) (*Sink, guest) {
	t.Helper()
	// A directory whose name is too long for a socket.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	must(t, mkdir(dir))
	s, err := Listen(Config{Socket: filepath.Join(dir, "net.sock"), Router: router, Machine: machine, MAC: "52:54:00:00:00:01"})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	conn := dialIn(t, dir)
	t.Cleanup(func() { conn.Close() })

	g := guest{frames: make(chan []byte, 1000)}
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	t.Cleanup(g.stack.Close)
	link := channel.New(100, mtu+14, "\x52\x54\x00\x00\x00\x01")
	check := func(err tcpip.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(g.stack.CreateNIC(1, ethernet.New(link)))
	own := tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(machine.As4()), PrefixLen: 24}
	check(g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: own}, stack.AddressProperties{}))
	all, err := tcpip.NewSubnet(tcpip.AddrFrom4([4]byte{}), tcpip.MaskFromBytes(make([]byte, 4)))
	must(t, err)
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: own.Subnet(), NIC: 1},
		{Destination: all, Gateway: tcpip.AddrFrom4(router.Addr().As4()), NIC: 1},
	})
	go func() {
		for {
			pkt := link.ReadContext(t.Context())
			if pkt == nil {
				return
			}
			v := pkt.ToView()
			conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(v.Size())), v.AsSlice()...))
			pkt.DecRef()
		}
	}()
	go func() {
		in := bufio.NewReader(conn)
		for {
			var n uint32
			if binary.Read(in, binary.BigEndian, &n) != nil {
				return
			}
			frame := make([]byte, n)
			if _, err := io.ReadFull(in, frame); err != nil {
				return
			}
			select {
			case g.frames <- frame:
			default:
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
			link.InjectInbound(0, pkt)
			pkt.DecRef()
		}
	}()
	return s, g
}

func full(to string) tcpip.FullAddress {
	a := netip.MustParseAddrPort(to)
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}
}

func (g guest) tcp(ctx context.Context, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, full(to), ipv4.ProtocolNumber)
}

// ask sends a datagram and returns the answer.
func (g guest) ask(t *testing.T, to string, b []byte) []byte {
	t.Helper()
	a := full(to)
	c, err := gonet.DialUDP(g.stack, nil, &a, ipv4.ProtocolNumber)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
	_, err = c.Write(b)
	must(t, err)
	answer := make([]byte, 1500)
	n, err := c.Read(answer)
	must(t, err)
	return answer[:n]
}

// TestEverythingAnswers reaches for the outside as programs do, and finds in
// what was kept all that they said.
func TestEverythingAnswers(t *testing.T) {
	s, g := plugIn(t)

	name := dnsmessage.MustNewName("registry.example.")
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := q.Pack()
	must(t, err)
	var m dnsmessage.Message
	must(t, m.Unpack(g.ask(t, "10.0.2.2:53", b)))
	if len(m.Answers) != 1 || m.ID != 7 || m.Answers[0].Body.(*dnsmessage.AResource).A != anywhere4.As4() {
		t.Errorf("the resolver says %v", m)
	}
	c, err := g.tcp(t.Context(), "192.0.2.53:53")
	must(t, err)
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	must(t, err)
	answer, err := io.ReadAll(c)
	if err != nil || len(answer) < 2 || m.Unpack(answer[2:]) != nil || len(m.Answers) != 1 {
		t.Errorf("the resolver says %q, %v over TCP", answer, err)
	}

	query := make([]byte, 48)
	query[0] = 4<<3 | 3
	copy(query[40:], "mystamp!")
	said := g.ask(t, "192.0.2.7:123", query)
	at := int64(binary.BigEndian.Uint32(said[40:])) - 2_208_988_800
	if len(said) != 48 || said[0] != 4<<3|4 || string(said[24:32]) != "mystamp!" || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		t.Errorf("the time server says %x", said)
	}

	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return g.tcp(ctx, "203.0.113.80:80") },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	for _, url := range []string{"http://updates.example/latest?x=1", "https://telemetry.example/v1"} {
		r, err := client.Get(url)
		must(t, err)
		page, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(string(page), "nothing outside") {
			t.Errorf("%s: %q, %v", url, page, err)
		}
		r.Body.Close()
	}
	c, err = g.tcp(t.Context(), "198.51.100.1:443")
	must(t, err)
	if err := tls.Client(c, &tls.Config{ServerName: "pinned.example", RootCAs: x509.NewCertPool()}).Handshake(); err == nil {
		t.Error("a client that trusts nobody trusts the sink")
	}
	c, err = g.tcp(t.Context(), "198.51.100.1:25")
	must(t, err)
	fmt.Fprint(c, "EHLO \x01\x02\r\n\r\n")
	io.ReadAll(c)

	want := []string{
		"udp 10.0.2.2:53 asks for registry.example (A)",
		"tcp 192.0.2.53:53 asks for registry.example (A)",
		"udp 192.0.2.7:123 asks for the time",
		"tcp 203.0.113.80:80 GET http://updates.example/latest",
		"tcp 203.0.113.80:80 TLS for telemetry.example, then GET https://telemetry.example/v1",
		"tcp 198.51.100.1:443 TLS for pinned.example, and does not trust the answer",
		`tcp 198.51.100.1:25 says "EHLO???????"`,
	}
	for _, w := range want {
		for i := 0; ; i++ {
			var got []string
			all, lost := s.Contacts()
			found := false
			for _, c := range all {
				got = append(got, fmt.Sprintf("%s %s %s", c.Proto, c.To, c.Said))
				found = found || got[len(got)-1] == w && c.From == machine && c.Times == 1
			}
			if found && lost == 0 {
				break
			}
			if i == 100 {
				t.Errorf("no %q in\n%s", w, strings.Join(got, "\n"))
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestSiteIsQuiet: the sink answers for no other machine of the site's network.
func TestSiteIsQuiet(t *testing.T) {
	_, g := plugIn(t)
	if c, err := g.tcp(t.Context(), "10.0.2.77:80"); err == nil {
		c.Close()
		t.Error("a machine that is not there answers")
	}
	if c, err := g.tcp(t.Context(), "10.0.2.2:80"); err != nil {
		t.Errorf("the router does not answer: %v", err)
	} else {
		c.Close()
	}
	asked, announced := false, false
	for {
		select {
		case f := <-g.frames:
			if f[12] == 8 && f[13] == 0 && f[23] == 1 && f[34] == 8 {
				asked = true
				if sum(f[14:34]) != 0 || sum(f[34:]) != 0 {
					t.Errorf("it asks whether the machine is there by %x", f)
				}
			}
			if f[12] == 0x86 && f[13] == 0xdd {
				if len(f) != 14+40+16+8+32+24 || f[20] != 58 || f[54] != 134 || checksum(f[22:54], f[54:]) != 0xffff {
					t.Errorf("the router announces itself by %x", f)
				}
				announced = true
			}
			if asked && announced {
				return
			}
		case <-time.After(3 * time.Second):
			t.Fatalf("the router announces itself: %v, asks for the machine: %v", announced, asked)
		}
	}
}

// checksum is the sum of RFC 1071 over an ICMPv6 message and what belongs to
// it; of a right one it is all ones.
func checksum(addresses, message []byte) uint16 {
	b := append(append([]byte{}, addresses...), 0, 0, 0, byte(len(message)), 0, 0, 0, 58)
	b = append(b, message...)
	sum := 0
	for i := 0; i+1 < len(b); i += 2 {
		sum += int(b[i])<<8 | int(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestForward(t *testing.T) {
	s, g := plugIn(t)
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: 1, Port: 6443}, ipv4.ProtocolNumber)
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			fmt.Fprintf(c, "heard %s", b)
			c.Close()
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	must(t, free.Close())
	must(t, s.Forward(port, 6443))
	if err := s.Forward(port, 6443); err == nil {
		t.Error("one port is forwarded twice")
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(t, err)
	defer c.Close()
	fmt.Fprint(c, "hello")
	must(t, c.(*net.TCPConn).CloseWrite())
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	if b, err := io.ReadAll(c); err != nil || string(b) != "heard hello" {
		t.Errorf("got %q, %v", b, err)
	}
	if all, _ := s.Contacts(); len(all) != 0 {
		t.Errorf("what leads in counts as leaving: %v", all)
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add(uint16(53), []byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01"))
	f.Add(uint16(123), make([]byte, 48))
	f.Fuzz(func(t *testing.T, port uint16, b []byte) {
		if said, _ := datagram(port, b, time.Unix(0, 0)); said == "" {
			t.Error("nothing is noted")
		}
	})
}
