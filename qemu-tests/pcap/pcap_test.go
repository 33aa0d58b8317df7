package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var site = func() Site {
	s := Lab(netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("10.244.0.0/16"))
	s.Servers = []netip.AddrPort{netip.MustParseAddrPort("10.0.2.2:5353"), netip.MustParseAddrPort("198.51.100.9:53")}
	return s
}()

// wire is a recording of frames, one a second from second 1.
func wire(frames ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0)
	for i, f := range frames {
		for _, v := range []int{i + 1, 0, len(f), len(f)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		b = append(b, f...)
	}
	return b
}

func frame(kind uint16, payload ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 12), kind), payload...)
}

// ip is a frame from the node to to.
func ip(proto byte, to string, payload ...byte) []byte {
	t := netip.MustParseAddr(to)
	if t.Is6() {
		b := make([]byte, 40)
		b[0], b[6] = 0x60, proto
		copy(b[24:], t.AsSlice())
		return frame(0x86dd, append(b, payload...)...)
	}
	b := make([]byte, 20)
	b[0], b[9] = 0x45, proto
	copy(b[12:], []byte{10, 0, 2, 15})
	copy(b[16:], t.AsSlice())
	return frame(0x0800, append(b, payload...)...)
}

func udp(to string, port uint16, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x80, 0}, port)
	return ip(17, to, append(append(b, 0, 0, 0, 0), payload...)...)
}

func tcp(to string, port uint16, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[2:], port)
	b[13] = flags
	return ip(6, to, b...)
}

func TestRead(t *testing.T) {
	const syn, synAck = 2, 0x12
	query := append(make([]byte, 12), "\x08registry\x07example\x00\x00\x01\x00\x01"...)
	later := ip(17, "192.0.2.1", 0)
	later[14+7] = 1 // a fragment's offset
	for name, tc := range map[string]struct {
		frame []byte
		want  string // proto, to and question; empty: stays
	}{
		"ARP":                  {frame(0x0806, 0, 1), ""},
		"a pod":                {tcp("10.244.3.4", 80, syn), ""},
		"broadcast":            {udp("255.255.255.255", 67), ""},
		"multicast":            {udp("ff02::fb", 5353), ""},
		"multicast of a site":  {udp("239.1.2.3", 5000), "udp 239.1.2.3:5000 "},
		"and by IPv6":          {udp("ff05::2", 5000), "udp [ff05::2]:5000 "},
		"link-local":           {ip(58, "fe80::1", 135), ""},
		"DHCP renewal":         {udp("10.0.2.2", 67), ""},
		"answer to the host":   {tcp("10.0.2.2", 40000, synAck), ""},
		"TCP":                  {tcp("192.0.2.1", 443, syn), "tcp 192.0.2.1:443 "},
		"answer to outside":    {tcp("192.0.2.1", 443, synAck), "tcp 192.0.2.1:443 "},
		"IPv6":                 {tcp("2001:db8::1", 443, syn), "tcp [2001:db8::1]:443 "},
		"in a VLAN":            {append(frame(0x8100, 0, 1, 8, 0), tcp("192.0.2.1", 80, syn)[14:]...), "tcp 192.0.2.1:80 "},
		"ping":                 {ip(1, "192.0.2.1", 8), "icmp 192.0.2.1:0 "},
		"SCTP":                 {ip(132, "192.0.2.1"), "132 192.0.2.1:0 "},
		"fragment":             {later, "fragment 192.0.2.1:0 "},
		"extension header":     {ip(0, "2001:db8::1", append([]byte{17, 0, 0, 0, 0, 0, 0, 0}, 0, 1, 0, 123, 0, 0, 0, 0)...), "udp [2001:db8::1]:123 "},
		"name":                 {udp("10.0.2.3", 53, query...), "udp 10.0.2.3:53 registry.example"},
		"time":                 {udp("10.0.2.2", 123), "udp 10.0.2.2:123 "},
		"a server of the site": {udp("10.0.2.2", 5353), ""},
		"one beyond":           {tcp("198.51.100.9", 53, syn), ""},
		"another port of it":   {udp("198.51.100.9", 54), "udp 198.51.100.9:54 "},
		"the host":             {tcp("10.0.2.2", 22, syn), "tcp 10.0.2.2:22 "},
		"short frame":          {[]byte{1, 2}, "malformed invalid AddrPort "},
		"short IP":             {frame(0x0800, 0x45), "malformed invalid AddrPort "},
		"header beyond frame":  {frame(0x0800, append([]byte{0x4f}, make([]byte, 19)...)...), "malformed invalid AddrPort "},
		"short TCP":            {ip(6, "10.244.0.1", 1, 2, 3), "malformed 10.244.0.1:0 "},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := read(bytes.NewReader(wire(tc.frame, tc.frame)), site)
			if err != nil {
				t.Fatal(err)
			}
			if r.Frames != 2 || r.First.Unix() != 1 || r.Last.Unix() != 2 {
				t.Errorf("got %+v", r)
			}
			got := ""
			for _, f := range r.Outside {
				got += f.Proto + " " + f.To.String() + " " + f.Question
				if f.Packets != 2 || f.First.Unix() != 1 {
					t.Errorf("got %v", f)
				}
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestRouter: what the outside itself says does not count, and a silence shows.
func TestRouter(t *testing.T) {
	own := tcp("192.0.2.1", 443, 2)
	copy(own[6:], "router")
	s := site
	s.Router = "router"
	b := wire(own, udp("10.0.2.9", 1), own)
	b[24+16+len(own)] = 90 // seconds
	b[24+16+len(own)+16+len(udp("10.0.2.9", 1))] = 91
	r, err := read(bytes.NewReader(b), s)
	if err != nil || len(r.Outside) != 0 || r.Frames != 3 || r.Within != 1 || r.Gap != 89*time.Second {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestBadRecordings(t *testing.T) {
	good := wire(tcp("10.0.2.2", 1, 0x10))
	huge := bytes.Clone(good)
	huge[24+8+3] = 0xff
	radio := bytes.Clone(good)
	radio[20] = 105
	for name, b := range map[string][]byte{
		"empty": nil, "no header": good[:23], "other format": make([]byte, 24), "other link": radio,
		"cut in a header": good[:30], "cut in a packet": good[:len(good)-1], "cut before a packet": good[:40], "huge packet": huge,
	} {
		if flows, err := read(bytes.NewReader(b), site); err == nil || errors.Is(err, io.EOF) && name != "empty" && name != "cut before a packet" {
			t.Errorf("%s: got %v, %v", name, flows, err)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none"), Site{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(wire(udp("10.0.2.3", 53, make([]byte, 40)...), tcp("2001:db8::1", 1, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := read(bytes.NewReader(b), site)
		if err != nil && r.Outside != nil {
			t.Error("flows and an error")
		}
	})
}
