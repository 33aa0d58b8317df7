package prove

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/pcap/pcaptest"
	"holdfast.dev/holdfast/qemu-tests/sink"
)

var site = Site{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.2.2")}}

// recording writes frames, UDP datagrams of the node to places, to a file.
func recording(t *testing.T, name string, to ...string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, pcaptest.Datagrams(to...), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func judge(t *testing.T, r Report, tries Tries, contacts []sink.Contact, recordings ...string) Report {
	t.Helper()
	r.Site, r.Boots = site, len(recordings)
	r, err := Judge(r, recordings, &tries, contacts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// quiet is a node that counts, and has nothing to tell.
func quiet() (t Tries) {
	t.Add(lab.Outside{Counted: time.Unix(1, 0)})
	return t
}

func TestContained(t *testing.T) {
	r := judge(t, Report{Phases: []Phase{{What: "first boot", Result: Healthy}}}, quiet(), nil,
		recording(t, "net.1.pcap", "10.0.2.9:1", "10.0.2.2:67"), recording(t, "net.pcap", "224.0.0.251:5353", "10.0.2.9:1"))
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

// What the node counted is found on the wire, however each names it; where there
// is a way out, it has to be there.
func TestCounted(t *testing.T) {
	for _, c := range []struct {
		proto, to       string
		onProto, onWire string
		same            bool
	}{
		{"tcp", "198.51.100.1:443", "tcp", "198.51.100.1:443", true},
		{"tcp", "198.51.100.1:443", "tcp", "198.51.100.1:80", false},
		{"tcp", "198.51.100.1:443", "udp", "198.51.100.1:443", false},
		{"tcp", "2001:db8::1", "tcp", "[2001:db8::1]:443", true},
		{"ipv6-icmp", "2001:db8::1", "icmp", "2001:db8::1", true},
		{"sctp", "198.51.100.1:99", "132", "198.51.100.1", true},
		{"udp", "198.51.100.1:99", "fragment", "198.51.100.1", true},
		{"udp", "198.51.100.1:99", "malformed", "invalid AddrPort", false},
	} {
		if got := (Attempt{Proto: c.proto, To: c.to}).is(Finding{Proto: c.onProto, To: c.onWire}); got != c.same {
			t.Errorf("%+v: %v", c, got)
		}
	}
	var tries Tries
	tries.Add(lab.Outside{Counted: time.Unix(1, 0), Tries: []lab.Try{{Who: "pod a/b", To: "198.51.100.1:443", Proto: "tcp", Packets: 1}}})
	r := Report{Site: site, Boots: 1}
	r.Site.Routed = true
	r, err := Judge(r, []string{recording(t, "net.pcap", "10.0.2.9:1")}, &tries, nil)
	if err != nil || r.Contained || len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "pod a/b sent tcp to 198.51.100.1:443") {
		t.Errorf("%+v, %v", r, err)
	}
}

// A report that was made to say more than it can is found out, as far as that
// follows from it.
func TestAgain(t *testing.T) {
	wire := recording(t, "net.pcap", "10.0.2.9:1", "198.51.100.1:123")
	good := judge(t, Report{Phases: []Phase{{What: "first boot", Result: Healthy}}}, quiet(), nil, wire)
	if missing, err := Again(good, filepath.Dir(wire)); err != nil || len(missing) != 0 {
		t.Errorf("%v, %v", missing, err)
	}
	for name, change := range map[string]func(*Report){
		"shows something else":   func(r *Report) { r.Outside = []Finding{{Wire: "net.pcap", Proto: "udp", To: "198.51.100.2:123"}} },
		"something else than":    func(r *Report) { r.Outside = nil },
		"0 recordings of 1":      func(r *Report) { r.Wire = nil },
		"first boot: it hung":    func(r *Report) { r.Phases = []Phase{{What: "first boot", Result: "it hung"}} },
		"verdict does not":       func(r *Report) { r.Contained = true },
		"is no name of a file":   func(r *Report) { r.Wire = []Wire{{File: "../net.pcap", Within: 1}} },
		"the report says sha256": func(r *Report) { w := r.Wire[0]; w.Digest = "sha256:0"; r.Wire = []Wire{w} },
	} {
		r := good
		change(&r)
		if _, err := Again(r, filepath.Dir(wire)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A recording that shows nothing proves nothing.
func TestNoProof(t *testing.T) {
	var blind, lost Tries
	blind.Add(lab.Outside{Fault: "nft is missing"})
	lost.Add(lab.Outside{Lost: 5, Counted: time.Unix(1, 0)})
	for name, r := range map[string]Report{
		"never said that it counts": judge(t, Report{}, Tries{}, nil, recording(t, "net.pcap", "10.0.2.9:1")),
		"no packet of the machine":  judge(t, Report{}, quiet(), nil, recording(t, "net.pcap")),
		"has no packet of":          judge(t, Report{}, quiet(), nil, recording(t, "net.1.pcap", "10.0.2.9:1"), recording(t, "net.pcap", "224.0.0.251:5353")),
		"0 recordings of 0":         judge(t, Report{}, quiet(), nil),
		"nft is missing":            judge(t, Report{}, blind, nil, recording(t, "net.pcap", "10.0.2.9:1")),
		"counted 5 packets":         judge(t, Report{}, lost, nil, recording(t, "net.pcap", "10.0.2.9:1")),
		"one hour: it hung":         judge(t, Report{Phases: []Phase{{What: "one hour", Result: "it hung"}}}, quiet(), nil, recording(t, "net.pcap", "10.0.2.9:1")),
	} {
		if r.Contained || len(r.Faults) != 1 || !strings.Contains(r.Faults[0], name) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := Judge(Report{}, []string{filepath.Join(t.TempDir(), "none")}, &Tries{}, nil); err == nil {
		t.Error("a recording that is not there is read")
	}
}
