package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Machine is what this machine says of itself.
type Machine struct {
	Serial string
	Links  []Link
}

// Link is a network interface that stands for hardware.
type Link struct{ Name, MAC string }

func (m Machine) String() string {
	macs := make([]string, len(m.Links))
	for i, l := range m.Links {
		macs[i] = l.MAC + " (" + l.Name + ")"
	}
	return fmt.Sprintf("serial %q, macs %s", m.Serial, strings.Join(macs, ", "))
}

// ReadMachine reads DMI and the network interfaces below root/sys.
func ReadMachine(root string) (Machine, error) {
	var m Machine
	// Some machines have no DMI; then only a MAC can match.
	if b, err := os.ReadFile(filepath.Join(root, "/sys/class/dmi/id/product_serial")); err == nil {
		m.Serial = strings.TrimSpace(string(b))
	}
	dir := filepath.Join(root, "/sys/class/net")
	es, err := os.ReadDir(dir)
	if err != nil {
		return m, fmt.Errorf("cannot list network interfaces: %w", err)
	}
	for _, e := range es {
		// Bridges and pods' interfaces have no device.
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "device")); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "address"))
		if err != nil {
			continue
		}
		m.Links = append(m.Links, Link{e.Name(), strings.ToLower(strings.TrimSpace(string(b)))})
	}
	return m, nil
}

// ErrNoMatch is wrapped by the error about a machine that no node matches.
var ErrNoMatch = errors.New("no node of this site matches this machine")

// Find returns the one node that m is, and its network interface. Serial and
// MAC must both match where both are given; a node that gives neither matches
// nothing.
func Find(nodes []Node, m Machine) (Node, Link, error) {
	var found []Node
	var link Link
	for _, n := range nodes {
		l, ok := n.Match.link(m)
		if ok {
			found, link = append(found, n), l
		}
	}
	names := func(ns []Node) string {
		var s []string
		for _, n := range ns {
			s = append(s, fmt.Sprintf("%s (serial %q, mac %q)", n.Name, n.Match.Serial, n.Match.MAC))
		}
		return strings.Join(s, ", ")
	}
	switch {
	case len(found) > 1:
		return Node{}, Link{}, fmt.Errorf("cannot tell which node this machine is: it matches %s; it has %s", names(found), m)
	case len(found) == 0:
		return Node{}, Link{}, fmt.Errorf("cannot find this machine's node: %w: it has %s; the site has %s\nhint: put its serial or mac into nodes[].match and build a release", ErrNoMatch, m, names(nodes))
	case link.Name == "":
		return Node{}, Link{}, fmt.Errorf("cannot choose the network interface of node %s: the machine has %s\nhint: give nodes[].match.mac", found[0].Name, m)
	}
	return found[0], link, nil
}

// link reports whether m is meant, and by which interface it is reached: the
// one with the MAC, or the only one. An unclear choice gives an empty Link.
func (w Match) link(m Machine) (Link, bool) {
	if w.Serial == "" && w.MAC == "" || w.Serial != "" && w.Serial != m.Serial {
		return Link{}, false
	}
	if w.MAC == "" {
		if len(m.Links) == 1 {
			return m.Links[0], true
		}
		return Link{}, true
	}
	for _, l := range m.Links {
		if l.MAC == strings.ToLower(w.MAC) {
			return l, true
		}
	}
	return Link{}, false
}
