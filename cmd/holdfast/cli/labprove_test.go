package cli

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/pcap/pcaptest"
	"holdfast.dev/holdfast/qemu-tests/prove"
)

func TestInside(t *testing.T) {
	site := func(nodes ...overlays.Node) overlays.Site { return overlays.Site{Nodes: nodes} }
	gateways := []netip.Addr{netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fe80::fe")}
	for name, c := range map[string]struct {
		site   overlays.Site
		want   prove.Site
		router string
	}{
		"gateway": {site(overlays.Node{Address: "10.0.2.15/24", Gateway: "10.0.2.2"}),
			prove.Site{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")}, Gateways: gateways, Routed: true}, "10.0.2.2/24"},
		"none": {site(overlays.Node{Address: "10.0.2.15/24"}, overlays.Node{Address: "10.0.2.1/24"}),
			prove.Site{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")}, Gateways: gateways}, "10.0.2.2/24"},
		"servers, two networks": {site(overlays.Node{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.9.0.1"}, NTP: []string{"10.9.0.1"}}, overlays.Node{Address: "10.0.3.1/24", DNS: []string{"10.9.0.1"}}),
			prove.Site{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("10.0.3.0/24")}, Gateways: gateways, Routed: true,
				Servers: []netip.AddrPort{netip.MustParseAddrPort("10.9.0.1:53"), netip.MustParseAddrPort("10.9.0.1:853"), netip.MustParseAddrPort("10.9.0.1:123")}}, "10.0.2.2/24"},
	} {
		got, router, err := inside(c.site)
		if err != nil || !reflect.DeepEqual(got, c.want) || router.String() != c.router {
			t.Errorf("%s: got %+v, %s, %v", name, got, router, err)
		}
	}
	if _, _, err := inside(site(overlays.Node{Address: "10.0.2.0/31"}, overlays.Node{Address: "10.0.2.1/31"})); err == nil {
		t.Error("a network without room has a router")
	}
	if _, _, err := inside(site(overlays.Node{Name: "node6", Address: "2001:db8::2/64"})); err == nil || !strings.Contains(err.Error(), "node6") {
		t.Errorf("got %v", err)
	}
}

// holdfastIn runs commands in a site's directory.
type holdfastIn struct {
	t   *testing.T
	dir string
}

// does runs one, which must end with code and say all words.
func (h holdfastIn) does(code int, args string, words ...string) {
	h.t.Helper()
	var said bytes.Buffer
	host := System()
	host.Stdout, host.Stderr = &said, &said
	got := Run(context.Background(), host, append([]string{"-C", h.dir}, strings.Fields(args)...))
	for _, w := range words {
		if !strings.Contains(said.String(), w) {
			h.t.Errorf("%s: no word of %q in:\n%s", args, w, said.String())
		}
	}
	if got != code {
		h.t.Errorf("%s: exit code %d, want %d:\n%s", args, got, code, said.String())
	}
}

// TestProof writes reports as "lab prove" does, and has them checked.
func TestProof(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mysite")
	h := holdfastIn{t, dir}
	h.dir = "."
	h.does(ExitDone, "init "+dir)
	h.dir = dir
	h.does(ExitFailed, "lab prove", `hint: run "holdfast build"`)
	h.does(ExitFailed, "lab prove --verify "+filepath.Join(dir, "none"), "cannot read the report", `hint: "holdfast lab prove" makes one`)
	h.does(ExitDone, "keys generate --development")

	recordings := filepath.Join(dir, "out", "prove")
	must(t, os.MkdirAll(recordings, 0o755))
	wire := filepath.Join(recordings, "net.pcap")
	base := filepath.Join(dir, "out", "mysite-1")
	must(t, os.WriteFile(base+".json", []byte("{}"), 0o644))
	report := base + ".proof.json"
	write := func(signed bool, tries prove.Tries, frames []byte) {
		t.Helper()
		must(t, os.WriteFile(wire, frames, 0o644))
		site, err := overlays.Load(dir)
		must(t, err)
		limits, _, err := inside(site)
		must(t, err)
		r, err := prove.Judge(prove.Report{
			Name: "mysite", Release: 1, Zone: "official", Index: "sha256:" + strings.Repeat("a", 64), Site: limits, Boots: 1,
			Phases: []prove.Phase{{What: "first boot", Result: prove.Healthy}},
		}, []string{wire}, &tries, nil)
		must(t, err)
		sign, err := (&app{dir: dir}).proofSigner(proveFlags{unsigned: !signed})
		must(t, err)
		must(t, writeProof(base, r, sign))
	}
	verify := "lab prove --verify " + report
	var quiet prove.Tries // of a node that counts
	quiet.Add(lab.Outside{Counted: time.Unix(1, 0)})

	write(true, quiet, pcaptest.Datagrams("10.0.2.9:1"))
	h.does(ExitDone, verify, "signed by mysite", "nothing reached outside")
	page, err := os.ReadFile(base + ".proof.html")
	if err != nil || !strings.Contains(string(page), "Nothing reached outside") {
		t.Errorf("%v: %s", err, page)
	}
	h.does(ExitDone, "--json "+verify, `"contained":true`)
	for what, change := range map[string]func(){
		"its digest is": func() { edit(t, report, `"contained": true`, `"contained":  true`) },
		"it has":        func() { edit(t, report, `"contained": true`, `"contained":   true`) },
		"the report says sha256:": func() {
			must(t, os.WriteFile(wire, pcaptest.Datagrams("10.0.2.9:2"), 0o644))
		},
		"cannot read": func() { must(t, os.WriteFile(wire, []byte("short"), 0o644)) },
		"it is not signed, or mysite-1.proof.json.sig": func() {
			must(t, os.Remove(report+".sig"))
		},
	} {
		write(true, quiet, pcaptest.Datagrams("10.0.2.9:1"))
		change()
		if what == "its digest is" { // of the same length
			b, err := os.ReadFile(report)
			must(t, err)
			must(t, os.WriteFile(report, bytes.Replace(b, []byte(`"format": 1`), []byte(`"format":1`), 1), 0o644))
		}
		h.does(ExitRefused, verify, what)
	}
	write(true, quiet, pcaptest.Datagrams("10.0.2.9:1"))
	must(t, os.Remove(wire))
	h.does(ExitDone, verify, "not read again, as it is not there: net.pcap")

	var tries prove.Tries
	tries.Add(lab.Outside{Counted: time.Unix(1, 0), Tries: []lab.Try{{Who: "pod web/front", To: "203.0.113.80:443", Proto: "udp", Packets: 1}}})
	write(true, tries, pcaptest.Datagrams("10.0.2.9:1", "203.0.113.80:443"))
	h.does(ExitRefused, verify, "outside: pod web/front: udp to 203.0.113.80:443", "the site reached outside")
	write(true, quiet, pcaptest.Datagrams())
	h.does(ExitRefused, verify, "has no packet of the machine", "nothing is proven")

	// A report that is not signed leaves no signature of one before.
	write(false, quiet, pcaptest.Datagrams("10.0.2.9:1"))
	if _, err := os.Stat(report + ".sig"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an earlier signature stays: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "keys", "release.key")))
	h.does(ExitFailed, "lab prove", "hint: --unsigned")
	h.does(ExitUsage, "lab prove --verify", "arg")
	h.does(ExitUsage, "lab prove "+report)
}

func edit(t *testing.T, name, from, to string) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	if !bytes.Contains(b, []byte(from)) {
		t.Fatalf("%s has no %s", name, from)
	}
	must(t, os.WriteFile(name, bytes.Replace(b, []byte(from), []byte(to), 1), 0o644))
}
