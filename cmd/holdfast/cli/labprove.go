package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/prove"
	"holdfast.dev/holdfast/qemu-tests/sink"
	"holdfast.dev/holdfast/signing"
)

type proveFlags struct {
	lasts, timeout   time.Duration
	update           string
	long, jumps      bool
	unsigned         bool
	memory, cpus, gb int
}

const (
	noUpdate  = "none"
	proofSock = "net.sock"
	// The node looks at its counters every minute.
	counted = 70 * time.Second
)

func (a *app) labProve() *cobra.Command {
	var f proveFlags
	var verify bool
	c := &cobra.Command{
		Use:   "prove [--verify REPORT]",
		Short: "Prove that the site reaches nothing outside, with all of its wire recorded",
		Long: `Boots the built image in a lab of its own whose outside is tempting: a router that
announces itself, a resolver that answers every name, servers for the time and the
web at every address. The site comes up, runs for a while, and takes an update; every
frame on its wire is recorded from power-on. A packet to anywhere but the site itself
is a failure, told with the pod or unit that sent it where the node could tell.

It leaves out/NAME-RELEASE.proof.json, its signature (.sig), the same as a page for
people (.html), and the recordings in out/prove. The signature is by the site's
release key.

Without --update the site's next release is made from the same inputs for it.

Exit codes: 0 nothing reached outside, 1 failed, 3 something did, or nothing is proven.`,
		Example: "  holdfast lab prove\n  holdfast lab prove --for 10m --update none\n  holdfast lab prove --long\n  holdfast lab prove --verify out/mysite-1.proof.json",
		Args: func(c *cobra.Command, args []string) error {
			if verify {
				return cobra.ExactArgs(1)(c, args)
			}
			return cobra.NoArgs(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if verify {
				return a.verifyProof(args[0])
			}
			if f.long {
				f.jumps = true
				if !c.Flags().Changed("for") {
					f.lasts = 24 * time.Hour
				}
			}
			return a.prove(c.Context(), f)
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "check a report's signature, and judge its recordings again")
	c.Flags().DurationVar(&f.lasts, "for", time.Hour, "how long the site runs before the update")
	c.Flags().BoolVar(&f.long, "long", false, "a day, with clock jumps")
	c.Flags().BoolVar(&f.jumps, "clock-jumps", false, "two power cuts, after which the clock is 40 days ahead, and two years back")
	c.Flags().StringVar(&f.update, "update", "", `a bundle to update to, or "none" (default: the site's next release)`)
	c.Flags().BoolVar(&f.unsigned, "unsigned", false, "do not sign the report; the release key is not needed then")
	c.Flags().DurationVar(&f.timeout, "timeout", 40*time.Minute, "give up when the site is not healthy after that long")
	c.Flags().IntVar(&f.memory, "memory", 4096, "memory in MiB")
	c.Flags().IntVar(&f.cpus, "cpus", 2, "processors")
	c.Flags().IntVar(&f.gb, "disk", 24, "disk size in GiB")
	return c
}

// prove is the whole way from a built release to the report on it.
func (a *app) prove(ctx context.Context, f proveFlags) error {
	site, err := overlays.Load(a.dir)
	if err != nil {
		return err
	}
	base := filepath.Join(a.outDir(), fmt.Sprintf("%s-%d", site.Name, site.Release))
	built, err := readResult(base + ".json")
	if err != nil {
		return err
	}
	sign, err := a.proofSigner(f)
	if err != nil {
		return err
	}
	limits, router, err := inside(site)
	if err != nil {
		return err
	}
	update, err := a.updateFor(ctx, site, f)
	if err != nil {
		return err
	}
	image, err := hashSparse(base + ".qcow2")
	if err != nil {
		return fmt.Errorf("cannot read the image: %w\nhint: run \"holdfast build\"", err)
	}
	if !slices.ContainsFunc(built.Outputs, func(o Output) bool { return o.File == filepath.Base(base)+".qcow2" && o.Content == image }) {
		return fmt.Errorf("%w: %s.qcow2 is not what the build made\nhint: run \"holdfast build\"", errPolicy, base)
	}
	p := proof{app: a, flags: f, site: site, image: base + ".qcow2", router: router, update: update}
	if err := p.run(ctx); err != nil {
		return err
	}
	r := prove.Report{
		Name: site.Name, Release: site.Release, Zone: site.Zone, Index: string(built.Index.Digest),
		Update: p.updated, Holdfast: Version, Accel: p.accel, Site: limits, Boots: p.boots, Phases: p.phases,
	}
	if r, err = prove.Judge(r, p.recordings, &p.tries, p.contacts); err != nil {
		return err
	}
	if err := writeProof(base, r, sign); err != nil {
		return err
	}
	return a.showProof(r, base+".proof.html")
}

// readResult reads NAME-RELEASE.json.
func readResult(name string) (Result, error) {
	var r Result
	b, err := os.ReadFile(name)
	if err != nil {
		return r, fmt.Errorf("cannot find the release: %w\nhint: run \"holdfast build\"", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return r, nil
}

// proofSigner finds the release key before anything long begins.
func (a *app) proofSigner(f proveFlags) (func(signing.Statement) ([]byte, error), error) {
	if f.unsigned {
		return nil, nil
	}
	key, err := signing.LoadPrivateKey(filepath.Join(a.dir, "keys", "release.key"))
	if err != nil {
		return nil, fmt.Errorf("cannot sign the report: %w\nhint: --unsigned leaves that to somebody else", err)
	}
	return func(s signing.Statement) ([]byte, error) { return signing.SignStatement(s, key) }, nil
}

// inside is what counts as the site, and the address at which the router
// offers itself.
func inside(s overlays.Site) (prove.Site, netip.Prefix, error) {
	var out prove.Site
	fail := func(err error) (prove.Site, netip.Prefix, error) {
		return out, netip.Prefix{}, fmt.Errorf("cannot prove it in a lab: %w", err)
	}
	for _, n := range s.Nodes {
		p, err := netip.ParsePrefix(n.Address)
		if err != nil {
			return fail(err)
		}
		if !slices.Contains(out.Networks, p.Masked()) {
			out.Networks = append(out.Networks, p.Masked())
		}
		for _, list := range []struct {
			servers []string
			ports   []uint16
		}{{n.DNS, []uint16{53, 853}}, {n.NTP, []uint16{123}}} {
			for _, name := range list.servers {
				ip, err := netip.ParseAddr(name)
				if err != nil {
					return fail(err)
				}
				for _, port := range list.ports {
					if at := netip.AddrPortFrom(ip, port); !slices.Contains(out.Servers, at) {
						out.Servers = append(out.Servers, at)
					}
				}
			}
		}
	}
	first := s.Nodes[0]
	node, err := netip.ParsePrefix(first.Address)
	if err != nil {
		return fail(err)
	}
	if !node.Addr().Is4() {
		return fail(fmt.Errorf("node %s has the address %s; the tempting outside speaks IPv4", first.Name, first.Address))
	}
	gateway, err := netip.ParseAddr(first.Gateway)
	if err != nil { // none: one that the node does not know of
		gateway = node.Masked().Addr().Next()
		for slices.ContainsFunc(s.Nodes, func(n overlays.Node) bool { return strings.HasPrefix(n.Address, gateway.String()+"/") }) {
			gateway = gateway.Next()
		}
		if !node.Contains(gateway) {
			return fail(fmt.Errorf("the network %s has no address left for a router", node.Masked()))
		}
	}
	out.Routed = err == nil
	out.Gateways = []netip.Addr{gateway, sink.LinkLocal}
	return out, netip.PrefixFrom(gateway, node.Bits()), nil
}

// updateFor is the bundle that the site is updated to; empty: none.
func (a *app) updateFor(ctx context.Context, site overlays.Site, f proveFlags) (string, error) {
	switch f.update {
	case noUpdate:
		return "", nil
	case "":
		next := *a
		next.release, next.out = site.Release+1, filepath.Join(a.outDir(), "prove", "next")
		if err := next.build(ctx); err != nil {
			return "", fmt.Errorf("cannot make the site's next release to update to: %w\nhint: --update names a bundle, or none", err)
		}
		return filepath.Join(next.out, fmt.Sprintf("%s-%d.bundle", site.Name, next.release)), nil
	}
	if _, err := os.Stat(f.update); err != nil {
		return "", fmt.Errorf("cannot find the update: %w", err)
	}
	return f.update, nil
}

// proof is one recording in the making.
type proof struct {
	*app
	flags  proveFlags
	site   overlays.Site
	image  string
	router netip.Prefix
	update string

	vm         *lab.VM
	boots      int // power-ons
	accel      string
	tries      prove.Tries
	phases     []prove.Phase
	updated    *prove.Other
	recordings []string
	contacts   []sink.Contact
}

// run records the site from power-on until it is off again. Where the site does
// not get healthy, what follows is left out.
func (p *proof) run(ctx context.Context) (err error) {
	dir := filepath.Join(p.outDir(), "prove")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot record the site: %w", err)
	}
	if vm, err := lab.Open(dir); err == nil && vm.Running() {
		return fmt.Errorf("cannot record the site: %w: another proof runs in %s", lab.ErrRunning, dir)
	}
	n := p.site.Nodes[0]
	node, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return err
	}
	c := lab.Config{
		Dir: dir, Image: p.image, Serial: n.Match.Serial, MAC: n.Match.MAC, CPUs: p.flags.cpus, MemoryMiB: p.flags.memory,
		DiskGiB: p.flags.gb, Fresh: true, SecureBoot: true, Network: proofSock,
	}.WithDefaults()
	outside, err := sink.Listen(sink.Config{Socket: filepath.Join(dir, proofSock), Router: p.router, Machine: node.Addr(), MAC: c.MAC})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, outside.Close()) }()
	if p.vm, err = lab.Up(ctx, c, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	defer p.vm.Kill() // unless it is down already
	p.accel, p.boots = p.vm.Accel().Name, 1
	if port := p.vm.Port(6443); port != 0 {
		c.Forward = map[int]int{port: 6443}
		if err := outside.Forward(port, 6443); err != nil {
			return err
		}
	}
	c.Fresh = false
	p.say("recording every frame; the outside is at %s", p.router.Addr())
	if err := p.goThrough(ctx, c); err != nil {
		return err
	}
	if err := p.down(ctx); err != nil {
		return err
	}
	contacts, _ := outside.Contacts()
	p.contacts, p.recordings = contacts, p.vm.Captures()
	return nil
}

// goThrough is what the site goes through. Its errors are those of a recording
// that came to nothing.
func (p *proof) goThrough(ctx context.Context, c lab.Config) error {
	ok, err := p.phase(ctx, "first boot", func(ctx context.Context) error {
		if err := p.healthy(ctx); err != nil {
			return err
		}
		s, err := p.vm.Status(ctx)
		if err == nil && s.Release.Number != p.site.Release {
			err = fmt.Errorf("release %d runs, not %d", s.Release.Number, p.site.Release)
		}
		return err
	})
	if !ok {
		return err
	}
	part := p.flags.lasts
	if p.flags.jumps {
		part /= 3
	}
	for _, step := range []struct {
		what  string
		ahead time.Duration
	}{{"running", 0}, {"running, the clock 40 days ahead", 40 * 24 * time.Hour}, {"running, the clock two years back", -2 * 365 * 24 * time.Hour}} {
		if step.ahead != 0 {
			if !p.flags.jumps {
				break
			}
			ok, err := p.phase(ctx, "power cut, and "+strings.TrimPrefix(step.what, "running, "), func(ctx context.Context) error {
				if err := p.vm.Kill(); err != nil {
					return err
				}
				c.ClockAhead = step.ahead
				vm, err := lab.Up(ctx, c, slog.New(slog.DiscardHandler))
				if err != nil {
					return err
				}
				p.vm = vm
				p.boots++
				return p.healthy(ctx)
			})
			if !ok {
				return err
			}
		}
		if ok, err := p.phase(ctx, step.what+" for "+part.String(), func(ctx context.Context) error { return p.stay(ctx, part) }); !ok {
			return err
		}
	}
	if p.update != "" {
		if ok, err := p.phase(ctx, "update", p.takeUpdate); !ok {
			return err
		}
	}
	_, err = p.phase(ctx, "the end", func(ctx context.Context) error { return p.stay(ctx, counted) })
	return err
}

// phase does something, and notes how it went. It reports whether that was well;
// an error ends the recording.
func (p *proof) phase(ctx context.Context, what string, f func(context.Context) error) (ok bool, err error) {
	ph := prove.Phase{What: what, Began: p.Now().UTC(), Result: prove.Healthy}
	p.say("%s", what)
	err = f(ctx)
	if ctx.Err() != nil {
		return false, fmt.Errorf("the recording was broken off: %w", ctx.Err())
	}
	if err != nil {
		ph.Result = err.Error()
		p.say("%s: %v", what, err)
	}
	ph.Ended = p.Now().UTC()
	p.phases = append(p.phases, ph)
	return err == nil, nil
}

func (p *proof) say(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	if p.json {
		p.event(map[string]any{"event": "proof", "text": text})
		return
	}
	fmt.Fprintf(p.Stderr, "%s  %s\n", p.Now().UTC().Format("15:04:05"), text)
}

func (p *proof) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout)
	defer cancel()
	last := ""
	return p.vm.WaitHealthy(ctx, func(s lab.Status) {
		p.look(s)
		if line := strings.Join(append([]string{s.Phase}, s.Faults...), "; "); line != last && !p.json {
			last = line
			p.say("  %s", line)
		}
	})
}

// look takes what a status says of the outside.
func (p *proof) look(s lab.Status) { p.tries.Add(s.Outside) }

// stay looks at the site for a while; it has to be healthy after it.
func (p *proof) stay(ctx context.Context, d time.Duration) error {
	began, told := p.Now(), p.Now()
	until := began.Add(d)
	for left := d; left > 0; left = until.Sub(p.Now()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, 15*time.Second)):
		}
		if s, err := p.vm.Status(ctx); err == nil {
			p.look(s)
		} else if !p.vm.Running() {
			return err
		}
		if now := p.Now(); now.Sub(told) >= time.Minute {
			told = now
			p.say("  recorded %s of %s", now.Sub(began).Round(time.Second), d)
		}
	}
	return p.healthy(ctx)
}

func (p *proof) takeUpdate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout)
	defer cancel()
	doc, err := p.vm.Apply(ctx, p.update, false)
	if err != nil {
		return err
	}
	var plan install.Plan
	if err := json.Unmarshal(doc, &plan); err != nil {
		return fmt.Errorf("cannot read what the node answered: %w", err)
	}
	if err := p.waitUpdated(ctx, p.vm, int64(plan.To.Release), p.look); err != nil {
		return err
	}
	p.updated = &prove.Other{Release: int64(plan.To.Release), Index: string(plan.To.Index)}
	return nil
}

func (p *proof) down(ctx context.Context) error {
	if s, err := p.vm.Status(ctx); err == nil {
		p.look(s)
	}
	return p.vm.Down(ctx)
}

// writeProof writes the report, its signature and the page, each whole.
func writeProof(base string, r prove.Report, sign func(signing.Statement) ([]byte, error)) error {
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	doc = append(doc, '\n')
	digest := store.FromBytes(doc)
	var page bytes.Buffer
	if err := prove.Page(&page, r, string(digest)); err != nil {
		return fmt.Errorf("cannot write the page: %w", err)
	}
	name := base + ".proof.json"
	// One that is there is of another report.
	if err := os.Remove(name + ".sig"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	if err := writeFile(name, doc); err != nil {
		return err
	}
	if sign != nil {
		signed, err := sign(signing.Statement{
			Name: r.Name, Release: uint64(r.Release), Zone: r.Zone, File: filepath.Base(name),
			Digest: string(digest), Size: int64(len(doc)), Index: r.Index,
		})
		if err != nil {
			return err
		}
		if err := writeFile(name+".sig", signed); err != nil {
			return err
		}
	}
	return writeFile(base+".proof.html", page.Bytes())
}

// showProof says what was proven; what was not is an error.
func (a *app) showProof(r prove.Report, page string) error {
	if a.json {
		a.event(map[string]any{"event": "proof", "report": r, "page": page})
	} else {
		for _, f := range r.Outside {
			a.printf("outside: %s: %s to %s %s, %d packets\n", strings.Join(f.Who, ", "), f.Proto, f.To,
				strings.TrimSpace(strings.Join(append(f.Said, askedFor(f)), " ")), f.Packets)
		}
		for _, t := range r.Attempts {
			a.printf("counted by the node, on no wire: %s: %s to %s, %d packets\n", t.Who, t.Proto, t.To, t.Packets)
		}
		for _, f := range r.Faults {
			a.printf("no proof: %s\n", f)
		}
		var frames int64
		for _, w := range r.Wire {
			frames += w.Frames
		}
		a.printf("%s %d: %d frames in %d recordings, %d kinds of packets to elsewhere\npage: %s\n", r.Name, r.Release, frames, len(r.Wire), len(r.Outside), page)
	}
	switch {
	case len(r.Outside) > 0:
		return fmt.Errorf("%w: the site reached outside", errPolicy)
	case !r.Contained:
		return fmt.Errorf("%w: nothing is proven by this recording", errPolicy)
	}
	if !a.json {
		a.printf("nothing reached outside\n")
	}
	return nil
}

func askedFor(f prove.Finding) string {
	if f.Asked == "" {
		return ""
	}
	return "asks for " + strconv.Quote(f.Asked)
}

// verifyProof checks who signed a report, that it is what was signed, and that
// its recordings, where they are, say the same.
func (a *app) verifyProof(name string) error {
	trust, err := a.trust("", "", 0)
	if err != nil {
		return err
	}
	st, keys, err := readStatement(name, trust)
	if err != nil {
		return err
	}
	doc, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("cannot verify %s: %w: "+format, append([]any{name, errPolicy}, args...)...)
	}
	if got := store.FromBytes(doc); string(got) != st.Digest {
		return fail("its digest is %s, signed was %s", got, st.Digest)
	}
	var r prove.Report
	if err := json.Unmarshal(doc, &r); err != nil {
		return fail("%v", err)
	}
	if r.Format != prove.Format {
		return fail("its format is %d, this holdfast reads %d", r.Format, prove.Format)
	}
	if r.Index != st.Index || r.Name != st.Name || uint64(r.Release) != st.Release {
		return fail("it is about another release than its signature")
	}
	missing, err := prove.Again(r, filepath.Join(filepath.Dir(name), "prove"))
	if err != nil {
		return fail("%v", err)
	}
	if !a.json {
		for _, k := range keys.Keys {
			a.printf("signed by %s (%s)\n", k.Name, k.ID)
		}
		for _, m := range missing {
			a.printf("not read again, as it is not there: %s\n", m)
		}
	}
	return a.showProof(r, strings.TrimSuffix(name, ".json")+".html")
}
