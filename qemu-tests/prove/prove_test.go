package prove

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/sink"
)

var site = Site{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.2.2")}}

// recording writes frames, UDP datagrams of the node to places, to a file.
func recording(t *testing.T, name string, to ...string) string {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0)
	for i, place := range to {
		p := netip.MustParseAddrPort(place)
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, 17
		copy(ip[12:], []byte{10, 0, 2, 15})
		copy(ip[16:], p.Addr().AsSlice())
		f := append(append(make([]byte, 12), 8, 0), ip...)
		f = binary.BigEndian.AppendUint16(append(f, 0x80, 0), p.Port())
		f = append(f, 0, 0, 0, 0)
		for _, v := range []int{i + 1, 0, len(f), len(f)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		b = append(b, f...)
	}
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func judge(t *testing.T, r Report, tries Tries, contacts []sink.Contact, recordings ...string) Report {
	t.Helper()
	r.Site = site
	r, err := Judge(r, recordings, &tries, contacts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestContained(t *testing.T) {
	r := judge(t, Report{Phases: []Phase{{What: "first boot", Result: Healthy}}}, Tries{}, nil,
		recording(t, "net.1.pcap", "10.0.2.9:1", "10.0.2.2:67"), recording(t, "net.pcap", "224.0.0.251:5353"))
	if !r.Contained || len(r.Wire) != 2 || r.Wire[0].Within != 2 || r.Wire[0].File != "net.1.pcap" || len(r.Wire[0].Digest) != 71 {
		t.Errorf("%+v", r)
	}
}

func TestOutside(t *testing.T) {
	var tries Tries
	tries.Add(lab.Outside{Tries: []lab.Try{
		{Who: "unknown", To: "198.51.100.1:123", Proto: "udp", Packets: 1},
		{Who: "pod db/db-0", To: "203.0.113.5:443", Proto: "tcp", Packets: 4}}})
	tries.Add(lab.Outside{Tries: []lab.Try{ // after a reboot
		{Who: "unit systemd-timesyncd.service", To: "198.51.100.1:123", Proto: "udp", Packets: 2},
		{Who: "pod db/db-0", To: "203.0.113.5:443", Proto: "tcp", Packets: 2}}})
	when := sink.Contact{Proto: "udp", To: netip.MustParseAddrPort("198.51.100.1:123"), Said: "asks for the time"}
	r := judge(t, Report{}, tries, []sink.Contact{when, when}, recording(t, "net.pcap", "10.0.2.9:1", "198.51.100.1:123", "198.51.100.1:123", "10.0.2.2:99"))
	want := []Finding{
		{Who: []string{"unit systemd-timesyncd.service", "unknown"}, Proto: "udp", From: "10.0.2.15", To: "198.51.100.1:123",
			Said: []string{"asks for the time"}, Packets: 2, First: time.Unix(2, 0).UTC(), Wire: "net.pcap"},
		{Who: []string{"unknown"}, Proto: "udp", From: "10.0.2.15", To: "10.0.2.2:99", Packets: 1, First: time.Unix(4, 0).UTC(), Wire: "net.pcap"},
	}
	if r.Contained || !reflect.DeepEqual(r.Outside, want) {
		t.Errorf("got %+v", r.Outside)
	}
	if want := []Attempt{{Who: "pod db/db-0", Proto: "tcp", To: "203.0.113.5:443", Packets: 4}}; !reflect.DeepEqual(r.Attempts, want) {
		t.Errorf("got %+v", r.Attempts)
	}
	var page bytes.Buffer
	r.Outside[0].Said = []string{"GET http://<script>/"}
	if err := Page(&page, r, "sha256:0"); err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"The site reached outside", "systemd-timesyncd.service", "http://&lt;script&gt;/", "pod db/db-0"} {
		if !strings.Contains(page.String(), w) {
			t.Errorf("the page has no %q", w)
		}
	}
	if strings.Contains(page.String(), "src=") || strings.Contains(page.String(), "<script") {
		t.Error("the page asks for more, or runs something")
	}
}

// A recording that shows nothing proves nothing.
func TestNoProof(t *testing.T) {
	var blind, lost Tries
	blind.Add(lab.Outside{Fault: "nft is missing"})
	lost.Add(lab.Outside{Lost: 5})
	for name, r := range map[string]Report{
		"no packet of the site": judge(t, Report{}, Tries{}, nil, recording(t, "net.pcap")),
		"no recording":          judge(t, Report{}, Tries{}, nil),
		"nft is missing":        judge(t, Report{}, blind, nil, recording(t, "net.pcap", "10.0.2.9:1")),
		"counted 5 packets":     judge(t, Report{}, lost, nil, recording(t, "net.pcap", "10.0.2.9:1")),
		"one hour: it hung":     judge(t, Report{Phases: []Phase{{What: "one hour", Result: "it hung"}}}, Tries{}, nil, recording(t, "net.pcap", "10.0.2.9:1")),
	} {
		if r.Contained || len(r.Faults) != 1 || name != "no recording" && !strings.Contains(r.Faults[0], name) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := Judge(Report{}, []string{filepath.Join(t.TempDir(), "none")}, &Tries{}, nil); err == nil {
		t.Error("a recording that is not there is read")
	}
}
