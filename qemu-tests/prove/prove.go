// Package prove judges from what was recorded of a site's machine whether it
// kept to itself, and writes that down for programs and for people.
package prove

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/pcap"
	"holdfast.dev/holdfast/qemu-tests/sink"
)

// Format is that of Report.
const Format = 1

// Report is NAME-RELEASE.proof.json.
type Report struct {
	Format   int    `json:"format"`
	Name     string `json:"name"`
	Release  int64  `json:"release"`
	Zone     string `json:"zone"`
	Index    string `json:"index"` // digest of the release index
	Update   *Other `json:"update,omitempty"`
	Holdfast string `json:"holdfast"` // version
	Accel    string `json:"accel"`

	Site   Site    `json:"site"`
	Boots  int     `json:"boots"` // power-ons, each with a recording of its own
	Phases []Phase `json:"phases"`
	Wire   []Wire  `json:"wire"`

	Outside   []Finding `json:"outside"`   // what was on the wire for elsewhere
	Attempts  []Attempt `json:"attempts"`  // what the node counted, and no frame shows
	Faults    []string  `json:"faults"`    // why the recording proves nothing
	Contained bool      `json:"contained"` // nothing outside, and no fault
}

// Other is a release that was brought in while the wire was recorded.
type Other struct {
	Release int64  `json:"release"`
	Index   string `json:"index"`
}

// Site is what counts as inside: all else is outside.
type Site struct {
	Networks []netip.Prefix   `json:"networks"`
	Gateways []netip.Addr     `json:"gateways"`          // the tempting router; what is asked of it itself is outside
	Routed   bool             `json:"routed"`            // the node knows the router
	Servers  []netip.AddrPort `json:"servers,omitempty"` // of names and time, from the site file
}

// Phase is something that the site went through.
type Phase struct {
	What   string    `json:"what"`
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended"`
	Result string    `json:"result"` // "healthy", or what was wrong
}

// Wire is one recording, and what it holds.
type Wire struct {
	File    string    `json:"file"` // without its directory
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`
	Frames  int64     `json:"frames"`
	Within  int64     `json:"within"` // IP packets of the machine that stayed in the site
	Gap     float64   `json:"gap"`    // seconds, the longest time without a frame
	First   time.Time `json:"first"`  // by the machine's clock
	Last    time.Time `json:"last"`
	Outside int       `json:"outside"` // kinds of packets to elsewhere
}

// Finding is all packets of one kind to one place outside.
type Finding struct {
	Who     []string  `json:"who"` // pods and units; "unknown" where it cannot be told
	Proto   string    `json:"proto"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Asked   string    `json:"asked,omitempty"` // a name
	Said    []string  `json:"said,omitempty"`  // to the outside that answered
	Packets int       `json:"packets"`
	First   time.Time `json:"first"`
	Wire    string    `json:"wire"` // the recording's file
}

// Attempt is what a node counted as leaving.
type Attempt struct {
	Who     string `json:"who"`
	Proto   string `json:"proto"`
	To      string `json:"to"`
	Packets int64  `json:"packets"`
}

// Tries joins what a node said at different times: counters begin anew with
// each of its starts, and names may be known only at one of them.
type Tries struct {
	all  map[Attempt]int64 // without packets
	lost int64
	bad  []string
	last time.Time // at which a node counted; zero: never
}

// Counted is when the node counted, by the last that was added.
func (t *Tries) Counted() time.Time { return t.last }

// Add takes what a status says.
func (t *Tries) Add(o lab.Outside) {
	if t.all == nil {
		t.all = map[Attempt]int64{}
	}
	for _, x := range o.Tries {
		k := Attempt{Who: x.Who, Proto: x.Proto, To: x.To}
		t.all[k] = max(t.all[k], x.Packets)
	}
	t.lost = max(t.lost, o.Lost)
	if !o.Counted.IsZero() {
		t.last = o.Counted
	}
	if o.Fault != "" && !slices.Contains(t.bad, o.Fault) {
		t.bad = append(t.bad, o.Fault)
	}
}

func (t *Tries) attempts() []Attempt {
	var out []Attempt
	for a, n := range t.all {
		a.Packets = n
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Attempt) int {
		return cmp.Or(cmp.Compare(a.Who, b.Who), cmp.Compare(a.To, b.To), cmp.Compare(a.Proto, b.Proto))
	})
	return out
}

// Judge fills in what recordings, node and outside show of r.
func Judge(r Report, recordings []string, tries *Tries, contacts []sink.Contact) (Report, error) {
	r.Format = Format
	r.Wire, r.Outside, r.Attempts = []Wire{}, []Finding{}, []Attempt{}
	attempts := tries.attempts()
	for _, name := range recordings {
		w, found, err := read(name, r.Site)
		if err != nil {
			return Report{}, err
		}
		for _, f := range found {
			f.Who, f.Said = who(f, attempts), said(f, contacts)
			r.Outside = append(r.Outside, f)
		}
		r.Wire = append(r.Wire, w)
	}
	for _, a := range attempts {
		if !slices.ContainsFunc(r.Outside, a.is) {
			r.Attempts = append(r.Attempts, a)
		}
	}
	r.Faults = slices.Concat([]string{}, r.Faults, r.faults())
	for _, why := range tries.bad {
		r.Faults = append(r.Faults, "the node could not tell who reaches outside: "+why)
	}
	if tries.last.IsZero() && len(tries.bad) == 0 {
		r.Faults = append(r.Faults, "the node never said that it counts who reaches outside: its release may be of an older holdfast")
	}
	if tries.lost > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("the node counted %d packets to elsewhere that it did not keep apart", tries.lost))
	}
	r.Contained = len(r.Outside) == 0 && len(r.Faults) == 0
	return r, nil
}

// mostSilence is how long a recording may hold no frame: the outside sends some
// every ten seconds, and more only where the machine that runs all this is busy.
const mostSilence = 120 * time.Second

// faults are what the report itself shows of why it proves nothing.
func (r Report) faults() (out []string) {
	if len(r.Wire) != r.Boots || r.Boots == 0 {
		out = append(out, fmt.Sprintf("there are %d recordings of %d power-ons", len(r.Wire), r.Boots))
	}
	for _, w := range r.Wire {
		if w.Within == 0 {
			out = append(out, "the recording "+w.File+" has no packet of the machine: it shows nothing")
		}
		if w.Gap > mostSilence.Seconds() {
			out = append(out, fmt.Sprintf("the recording %s has no frame for %.0f seconds", w.File, w.Gap))
		}
	}
	for _, p := range r.Phases {
		if p.Result != Healthy {
			out = append(out, p.What+": "+p.Result)
		}
	}
	if r.Site.Routed {
		for _, a := range r.Attempts {
			out = append(out, fmt.Sprintf("%s sent %s to %s, as the node counted, and no frame shows it", a.Who, a.Proto, a.To))
		}
	}
	return out
}

// Healthy is the result of a phase in which all went well.
const Healthy = "healthy"

// read takes digest and content of a recording.
func read(name string, s Site) (Wire, []Finding, error) {
	w := Wire{File: filepath.Base(name)}
	f, err := os.Open(name)
	if err != nil {
		return w, nil, fmt.Errorf("cannot read the recorded wire: %w", err)
	}
	h := sha256.New()
	w.Size, err = io.Copy(h, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return w, nil, fmt.Errorf("cannot read the recorded wire: %w", err)
	}
	w.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	rec, err := pcap.Read(name, pcap.Site{Inside: s.Networks, Gateways: s.Gateways, Servers: s.Servers, Router: sink.MAC})
	if err != nil {
		return w, nil, err
	}
	w.Frames, w.Within, w.First, w.Last, w.Outside = rec.Frames, rec.Within, rec.First.UTC(), rec.Last.UTC(), len(rec.Outside)
	w.Gap = rec.Gap.Seconds()
	var out []Finding
	for _, f := range rec.Outside {
		to := f.To.Addr().String()
		if f.To.Port() != 0 {
			to = f.To.String()
		}
		out = append(out, Finding{Proto: f.Proto, From: f.From.String(), To: to, Asked: f.Question, Packets: f.Packets, First: f.First.UTC(), Wire: w.File})
	}
	return w, out, nil
}

// is reports whether the packets of f are those that were counted. A wire and
// nftables name protocols and places in different ways; for others than TCP and
// UDP, the wire has no ports.
func (a Attempt) is(f Finding) bool {
	names := map[string]string{"ipv6-icmp": "icmp", "sctp": "132", "gre": "47", "esp": "50", "ipip": "4", "ipv6": "41", "ospf": "89"}
	proto := cmp.Or(names[a.Proto], a.Proto)
	there, port := place(a.To)
	to, toPort := place(f.To)
	return there.IsValid() && there == to && (f.Proto == proto || f.Proto == "fragment") && (port == toPort || port == 0 || toPort == 0)
}

// place reads an address, with or without a port; IPv6 may lack its brackets.
func place(s string) (netip.Addr, uint16) {
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr(), p.Port()
	}
	a, _ := netip.ParseAddr(s)
	return a, 0
}

// who is everybody of whom the node counted the same.
func who(f Finding, attempts []Attempt) []string {
	out := []string{}
	for _, a := range attempts {
		if a.is(f) && !slices.Contains(out, a.Who) {
			out = append(out, a.Who)
		}
	}
	if len(out) == 0 {
		return []string{"unknown"}
	}
	return out
}

// said is what the outside heard there; of a query the finding has the name.
func said(f Finding, contacts []sink.Contact) []string {
	var out []string
	for _, c := range contacts {
		if f.Asked == "" && c.Proto == f.Proto && c.To.String() == f.To && !slices.Contains(out, c.Said) {
			out = append(out, c.Said)
		}
	}
	return out
}

// Again reads the recordings of a report that are in dir, and compares them and
// its verdict with what it says. Those that are not there it returns.
func Again(r Report, dir string) (missing []string, err error) {
	var errs []error
	for _, w := range r.Wire {
		if filepath.Base(w.File) != w.File {
			errs = append(errs, fmt.Errorf("the recording %q is no name of a file", w.File))
			continue
		}
		got, found, err := read(filepath.Join(dir, w.File), r.Site)
		if errors.Is(err, os.ErrNotExist) {
			missing = append(missing, w.File)
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if got.Digest != w.Digest {
			errs = append(errs, fmt.Errorf("the recording %s has the digest %s, the report says %s", w.File, got.Digest, w.Digest))
			continue
		}
		var listed []Finding
		for _, f := range r.Outside {
			if f.Wire == w.File {
				f.Who, f.Said = nil, nil
				listed = append(listed, f)
			}
		}
		if got != w || !slices.EqualFunc(found, listed, func(a, b Finding) bool { return reflect.DeepEqual(a, b) }) {
			errs = append(errs, fmt.Errorf("the recording %s shows something else than the report says of it", w.File))
		}
	}
	for _, f := range r.faults() {
		if !slices.Contains(r.Faults, f) {
			errs = append(errs, fmt.Errorf("it passes over this: %s", f))
		}
	}
	if r.Contained != (len(r.Outside) == 0 && len(r.Faults) == 0) {
		errs = append(errs, errors.New("its verdict does not follow from what it lists"))
	}
	return missing, errors.Join(errs...)
}
