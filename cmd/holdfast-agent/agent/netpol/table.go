package netpol

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"

	"sigs.k8s.io/knftables"
)

// TableName is the table of family inet that holds the rules.
const TableName = "holdfast-policies"

// podLinks are the node's ends of pods' links, as the CNI plugin names them.
const podLinks = `"veth*"`

// A connection is looked at with all its packets, those of both directions
// alike: who began it (ct original saddr), and who answers on which port, after
// service addresses were translated (ct reply saddr, proto-src). So a changed
// policy cuts what it no longer allows.
const (
	client = "ct original ip saddr"
	server = "ct reply ip saddr"
	port   = "ct reply proto-src"
)

// The chains that every transaction has; a packet comes to them in this order.
// What the node itself begins passes none: it is always allowed.
var fixed = []struct {
	name  string
	hook  knftables.BaseChainHook
	at    knftables.BaseChainPriority
	rules []string
}{
	// Pods have IPv4 alone, and each its own link: no pod uses another's address.
	{"prerouting", knftables.PreroutingHook, knftables.RawPriority, []string{
		"iifname " + podLinks + " meta nfproto ipv6 drop",
		"iifname " + podLinks + " fib saddr . iif oif missing " + logged("forged") + " drop",
		"iifname " + podLinks + " fib saddr . iif oif missing drop",
	}},
	{"forward", knftables.ForwardHook, knftables.FilterPriority, []string{
		"iifname != " + podLinks + " oifname != " + podLinks + " accept",
		"ct state invalid,untracked drop",
		"meta nfproto ipv6 drop",
		"iifname " + podLinks + " ip saddr != @pods goto unknown",
		"oifname " + podLinks + " ip daddr != @pods goto unknown",
		"ct state related accept",
		"goto clients",
	}},
	{"input", knftables.InputHook, knftables.FilterPriority, []string{
		"iifname != " + podLinks + " accept",
		"ct state invalid,untracked drop",
		"ct direction reply accept",
		"ip saddr != @pods goto unknown",
		"ct state related accept",
		"goto clients",
	}},
	// A pod that the cluster's state does not show yet: its policies are not known.
	{"unknown", "", "", []string{logged("unknown"), "drop"}},
	{"clients", "", "", []string{
		client + " . " + server + " @selves accept",
		client + " vmap @egress",
		"goto servers",
	}},
	{"servers", "", "", []string{
		server + " vmap @ingress",
		"accept",
	}},
	// An answer tells a program at once what silence would after minutes.
	{"refuse", "", "", []string{
		"meta l4proto tcp reject with tcp reset",
		"reject with icmpx admin-prohibited",
	}},
}

func logged(what string) string {
	return fmt.Sprintf("limit rate 1/second burst 5 packets log prefix \"holdfast: refused %s: \" level info", what)
}

// Table is the kernel's table of rules, loaded with the program nft. The zero
// value is ready; it is for one caller at a time.
type Table struct{ nft knftables.Interface }

// Load replaces all rules by r at once: each packet meets the old ones or the
// new ones. After an error the old ones stand.
func (t *Table) Load(ctx context.Context, r Rules) (err error) {
	if t.nft == nil {
		if t.nft, err = knftables.New(knftables.InetFamily, TableName); err != nil {
			return fmt.Errorf("cannot use nftables: %w", err)
		}
	}
	old, err := t.nft.ListAll(ctx)
	if err != nil && !knftables.IsNotFound(err) {
		return fmt.Errorf("cannot list the rules of policies: %w", err)
	}
	tx := t.nft.NewTransaction()
	clearTable(tx, old)
	fill(tx, r)
	if err := t.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("cannot load the rules of policies: %w", err)
	}
	return nil
}

// clearTable empties the table but for its base chains. Were these replaced, a
// packet could meet the new one before its rules count, and the old one after.
func clearTable(tx *knftables.Transaction, old map[string][]string) {
	tx.Add(&knftables.Table{})
	base := map[string]bool{}
	for _, c := range fixed {
		base[c.name] = c.hook != ""
	}
	tx.Flush(&knftables.Table{})
	for _, name := range old["map"] {
		tx.Delete(&knftables.Map{Name: name})
	}
	for _, name := range old["set"] {
		tx.Delete(&knftables.Set{Name: name})
	}
	for _, name := range old["chain"] {
		if !base[name] {
			tx.Delete(&knftables.Chain{Name: name})
		}
	}
}

// fill adds chains, sets and rules for r to an empty table.
func fill(tx *knftables.Transaction, r Rules) {
	for _, c := range fixed {
		chain := &knftables.Chain{Name: c.name}
		if c.hook != "" {
			chain.Type, chain.Hook, chain.Priority = knftables.PtrTo(knftables.FilterType), &c.hook, &c.at
		}
		tx.Add(chain)
	}
	tx.Add(&knftables.Set{Name: "pods", Type: "ipv4_addr", Comment: knftables.PtrTo("pods of this node")})
	tx.Add(&knftables.Set{Name: "selves", Type: "ipv4_addr . ipv4_addr", Comment: knftables.PtrTo("a pod may reach itself")})
	for _, d := range []Direction{Egress, Ingress} {
		tx.Add(&knftables.Map{Name: string(d), Type: "ipv4_addr : verdict", Comment: knftables.PtrTo("pods that policies isolate")})
	}
	for _, c := range fixed {
		for _, rule := range c.rules {
			tx.Add(&knftables.Rule{Chain: c.name, Rule: rule})
		}
	}
	for _, p := range r.Policies {
		addPolicy(tx, p)
	}
	for i, p := range r.Pods {
		ip := p.IP.String()
		tx.Add(&knftables.Element{Set: "pods", Key: []string{ip}, Comment: comment(p.String())})
		tx.Add(&knftables.Element{Set: "selves", Key: []string{ip, ip}})
		addPod(tx, r, Egress, p, r.Egress[i])
		addPod(tx, r, Ingress, p, r.Ingress[i])
	}
}

// addPod makes the chain of an isolated pod: what none of its policies allows
// is refused.
func addPod(tx *knftables.Transaction, r Rules, d Direction, p Pod, policies []int) {
	if len(policies) == 0 {
		return
	}
	name := chainName("pod-"+string(d), p.Namespace, p.Name)
	tx.Add(&knftables.Chain{Name: name})
	for _, i := range policies {
		tx.Add(&knftables.Rule{Chain: name, Rule: "jump " + r.Policies[i].chain()})
	}
	word := map[Direction]string{Ingress: "to ", Egress: "from "}[d]
	tx.Add(&knftables.Rule{Chain: name, Rule: logged(word + cutTo(p.String(), 80))})
	tx.Add(&knftables.Rule{Chain: name, Rule: "goto refuse"})
	tx.Add(&knftables.Element{Map: string(d), Key: []string{p.IP.String()}, Value: []string{"goto " + name}})
}

func (p Policy) chain() string { return chainName(string(p.Direction), p.Namespace, p.Name) }

// addPolicy makes the chain of a policy. What it allows goes on: from the
// client's policies to the server's, and from those out.
func addPolicy(tx *knftables.Transaction, p Policy) {
	name := p.chain()
	tx.Add(&knftables.Chain{Name: name})
	peer, allowed := client, "accept"
	if p.Direction == Egress {
		peer, allowed = server, "goto servers"
	}
	for _, a := range p.Allow {
		from := ""
		if !a.AnyPeer {
			from = peer + " " + list(a.Peers) + " "
		}
		for _, on := range a.ports() {
			tx.Add(&knftables.Rule{Chain: name, Rule: from + on + allowed})
		}
	}
}

// ports are the matches for a rule's ports; one of them has to.
func (a Allow) ports() []string {
	if a.AnyPort {
		return []string{""}
	}
	var out []string
	for _, p := range a.Ports {
		protocol := "meta l4proto " + strings.ToLower(string(p.Protocol)) + " "
		if p.Any {
			out = append(out, protocol)
			continue
		}
		if len(p.Ranges) > 0 {
			out = append(out, protocol+port+" "+list(portRanges(p.Ranges))+" ")
		}
		if len(p.Named) > 0 {
			out = append(out, protocol+server+" . "+port+" "+list(endpoints(p.Named))+" ")
		}
	}
	return out
}

type text string

func (t text) String() string { return string(t) }

func portRanges(in [][2]uint16) (out []text) {
	for _, r := range in {
		s := fmt.Sprint(r[0])
		if r[0] != r[1] {
			s = fmt.Sprintf("%d-%d", r[0], r[1])
		}
		out = append(out, text(s))
	}
	return out
}

func endpoints(in []netip.AddrPort) (out []text) {
	for _, e := range in {
		out = append(out, text(fmt.Sprintf("%s . %d", e.Addr(), e.Port())))
	}
	return out
}

func list[T fmt.Stringer](in []T) string {
	var s []string
	for _, x := range in {
		s = append(s, x.String())
	}
	return "{ " + strings.Join(s, ", ") + " }"
}

// chainName names a chain after an object. The kernel takes 255 bytes.
func chainName(what, namespace, name string) string {
	return what + "/" + namespace + "/" + cutTo(name, 150)
}

// cutTo shortens s to about n bytes, so that different names stay different.
func cutTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return fmt.Sprintf("%s-%x", s[:n-9], sha256.Sum256([]byte(s)))[:n]
}

func comment(s string) *string { return knftables.PtrTo(cutTo(s, 120)) }
