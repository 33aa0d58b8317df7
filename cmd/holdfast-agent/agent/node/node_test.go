package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

func fakeSys(t *testing.T, serial string, links map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write := func(name, data string) {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(data), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/class/dmi/id/product_serial", serial+"\n")
	write("sys/class/net/lo/address", "00:00:00:00:00:00\n")
	for name, mac := range links {
		write("sys/class/net/"+name+"/address", mac+"\n")
		write("sys/class/net/"+name+"/device/vendor", "")
	}
	return root
}

func TestFind(t *testing.T) {
	m, err := node.ReadMachine(fakeSys(t, "S1", map[string]string{"eth0": "52:54:00:00:00:01", "eth1": "52:54:00:00:00:02"}))
	if err != nil {
		t.Fatal(err)
	}
	one := func(serial, mac string) []node.Node {
		return []node.Node{{Name: "other", Match: node.Match{Serial: "S9"}}, {Name: "n", Match: node.Match{Serial: serial, MAC: mac}}}
	}
	for _, c := range []struct{ serial, mac, link, err string }{
		{"S1", "52:54:00:00:00:02", "eth1", ""},
		{"", "52:54:00:00:00:01", "eth0", ""},
		{"", "52:54:00:00:00:0A", "", "no node of this site"},
		{"S1", "52:54:00:00:00:0a", "", "no node of this site"},
		{"S2", "52:54:00:00:00:01", "", "no node of this site"},
		{"", "", "", "no node of this site"},
		{"S1", "", "", "nodes[].match.mac"}, // two interfaces
		{"S9", "", "", "no node"},
	} {
		_, l, err := node.Find(one(c.serial, c.mac), m)
		if c.err == "" && (err != nil || l.Name != c.link) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%+v: got %v, %v", c, l, err)
		}
		if errors.Is(err, node.ErrNoMatch) && !strings.Contains(err.Error(), "52:54:00:00:00:01") {
			t.Errorf("the message does not list this machine's macs: %v", err)
		}
	}
	if _, _, err := node.Find(append(one("S1", ""), one("S1", "")...), m); err == nil || !strings.Contains(err.Error(), "which node") {
		t.Errorf("two nodes match: %v", err)
	}
}

func TestNetworkFiles(t *testing.T) {
	n := node.Node{Name: "node1", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}}
	l := node.Link{Name: "eth0", MAC: "52:54:00:00:00:01"}
	want := "[Match]\nMACAddress=52:54:00:00:00:01\nType=ether\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nDNS=10.0.2.3\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nLLDP=no\n"
	fs := node.NetworkFiles(n, l)
	if got := string(fs["10-holdfast.network"]); got != want || len(fs) != 1 {
		t.Errorf("got %s", got)
	}
	n.Gateway = ""
	if fs = node.NetworkFiles(n, l); !strings.Contains(string(fs["11-holdfast-null.network"]), "PreferredSource=10.0.2.15\n") {
		t.Errorf("without a gateway: %q", fs)
	}
}

func TestParseFaults(t *testing.T) {
	_, err := node.Parse([]byte(`{"nodes":[{"name":"N_1","address":"10.0.0.1"}],
	 "components":[{"name":"a","secrets":[{"name":"../x","namespace":"n","generate":{"k":0}}]}]}`))
	for _, want := range []string{`"N_1"`, "address", `"../x"`, "0 characters"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in: %v", want, err)
		}
	}
	if _, err := node.Parse([]byte("{")); err == nil {
		t.Error("read half a file")
	}
}
