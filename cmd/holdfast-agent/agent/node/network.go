package node

import (
	"fmt"
	"strings"
)

// NetworkFiles gives the systemd-networkd files of n by name, for
// /run/systemd/network.
func NetworkFiles(n Node, l Link) map[string][]byte {
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\nMACAddress=%s\nType=ether\n\n[Network]\nAddress=%s\n", l.MAC, n.Address)
	if n.Gateway != "" {
		fmt.Fprintf(&b, "Gateway=%s\n", n.Gateway)
	}
	for _, s := range n.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", s)
	}
	for _, s := range n.NTP {
		fmt.Fprintf(&b, "NTP=%s\n", s)
	}
	// The declared address is the only one: nothing on the wire adds another.
	b.WriteString("DHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nLLDP=no\n")
	files := map[string][]byte{"10-holdfast.network": []byte(b.String())}
	if n.Gateway == "" {
		files["11-holdfast-null.netdev"] = []byte("[NetDev]\nName=holdfast-null\nKind=dummy\n")
		// Addresses of services have no route of their own: without a default
		// route connecting to one fails before kube-proxy's rules see it. The
		// dummy takes what would leave the node, and drops it.
		files["11-holdfast-null.network"] = fmt.Appendf(nil, "[Match]\nName=holdfast-null\n\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\n[Route]\nDestination=0.0.0.0/0\nScope=link\nPreferredSource=%s\nMetric=4096\n", n.IP())
	}
	return files
}

// ResolvConf is the resolv.conf that pods with the node's DNS get. It is
// written even when it names no server: the kubelet wants a file.
func ResolvConf(n Node) []byte {
	var b strings.Builder
	b.WriteString("# From the site file.\n")
	for _, s := range n.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return []byte(b.String())
}
