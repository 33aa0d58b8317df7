package cli

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/overlays"
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
