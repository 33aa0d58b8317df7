package agent

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/netpol"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/outside"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	nft            = "/usr/sbin/nft"
	outsideRules   = "/run/holdfast/outside.nft"
	lookOutside    = time.Minute
	mostOutside    = 200 // tries that the status lists
	mostSaidAtOnce = 5   // of them, on the console
	or             = " or "
)

// countOutside has the kernel count what leaves the site, before there is a
// network to leave it by.
func (a *agent) countOutside(ctx context.Context, c node.Config, n node.Node) error {
	site, err := siteOf(c, n)
	if err != nil {
		return err
	}
	if err := a.writeFiles(map[string][]byte{outsideRules: outside.Rules(site)}); err != nil {
		return err
	}
	return a.exec(ctx, nft, "-f", outsideRules)
}

// siteOf is pure: what of the network is the site's.
func siteOf(c node.Config, n node.Node) (outside.Site, error) {
	var s outside.Site
	prefixes := []string{n.Address}
	for _, other := range c.Nodes {
		prefixes = append(prefixes, other.Address)
	}
	if e, err := engineOf(c.Engine.Name); err == nil {
		prefixes = append(prefixes, e.networks...)
	}
	for _, p := range prefixes {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return s, fmt.Errorf("cannot read a network of the site: %w", err)
		}
		if prefix = prefix.Masked(); prefix.Addr().Is4() && !slices.Contains(s.Networks, prefix) {
			s.Networks = append(s.Networks, prefix)
		}
	}
	if to, err := url.Parse(c.Backups.To); err == nil {
		ip, err := netip.ParseAddr(to.Hostname())
		if err == nil && ip.Is4() && !slices.ContainsFunc(s.Networks, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			s.Networks = append(s.Networks, netip.PrefixFrom(ip, 32))
		}
	}
	if g, err := netip.ParseAddr(n.Gateway); err == nil && g.Is4() {
		s.Gateway = g
	}
	v4 := func(names []string) (out []netip.Addr) {
		for _, name := range names {
			if ip, err := netip.ParseAddr(name); err == nil && ip.Is4() {
				out = append(out, ip)
			}
		}
		return out
	}
	s.DNS, s.NTP = v4(n.DNS), v4(n.NTP)
	return s, nil
}

// watchOutside tells who reached outside, until ctx ends.
func (a *agent) watchOutside(ctx context.Context) {
	seen := map[string]bool{}
	names := outside.Names{ByAddress: map[netip.Addr]string{}, ByUID: map[string]string{}}
	for {
		now := a.lookOutside(ctx, &names)
		if ctx.Err() != nil {
			return
		}
		said := 0
		for _, t := range now.Tries {
			key := t.Who + " " + t.Proto + " " + t.To
			if seen[key] {
				continue
			}
			seen[key] = true
			if said++; said <= mostSaidAtOnce {
				a.Say("OUTSIDE: %s", t)
			}
		}
		if said > mostSaidAtOnce {
			a.Say("OUTSIDE: %d more", said-mostSaidAtOnce)
		}
		if now.Fault != "" && !seen[now.Fault] {
			seen[now.Fault] = true
			a.log.Error("cannot tell what reaches outside", "error", now.Fault)
		}
		a.Update(func(s *status.Status) { s.Outside = now })
		if a.host.Sleep(ctx, lookOutside) != nil {
			return
		}
	}
}

// lookOutside reads the kernel's counters. names grows: a pod that is gone is
// still named by what was seen of it, until another has its address.
func (a *agent) lookOutside(ctx context.Context, names *outside.Names) status.Outside {
	fault := func(err error) status.Outside { return status.Outside{Fault: err.Error()} }
	ips, err := netpol.Addresses(a.host.path(netpol.RecordsDir))
	if err != nil {
		return fault(err)
	}
	uids, err := outside.PodsByUID(a.host.path(outside.PodsDir))
	if err != nil {
		return fault(err)
	}
	for ip, pod := range ips {
		// What an address sent may have been sent by an earlier pod that had it.
		if before := names.ByAddress[ip]; before == "" {
			names.ByAddress[ip] = pod
		} else if !slices.Contains(strings.Split(before, or), pod) && len(before) < 200 {
			names.ByAddress[ip] = before + or + pod
		}
	}
	for uid, pod := range uids {
		names.ByUID[uid] = pod
	}
	var listing strings.Builder
	err = a.host.Run(ctx, func(s string) { listing.WriteString(s) }, nft, "--json", "list", "table", "inet", outside.TableName)
	if err != nil {
		return fault(fmt.Errorf("cannot list the counters: %w: %.200s", err, listing.String()))
	}
	c, err := outside.Read([]byte(listing.String()), *names)
	if err != nil {
		return fault(err)
	}
	out := status.Outside{Tries: c.Tries, Lost: c.Lost, Counted: a.host.Now().UTC()}
	for len(out.Tries) > mostOutside {
		out.Lost += out.Tries[len(out.Tries)-1].Packets
		out.Tries = out.Tries[:len(out.Tries)-1]
	}
	return out
}
