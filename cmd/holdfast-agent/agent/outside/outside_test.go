package outside

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var site = Site{
	Networks: []netip.Prefix{netip.MustParsePrefix("10.9.9.2/24"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12")},
	Gateway:  netip.MustParseAddr("10.9.9.1"),
	DNS:      []netip.Addr{netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("192.0.2.53")},
	NTP:      []netip.Addr{netip.MustParseAddr("192.0.2.123")},
}

// TestKernel makes a node with a network of its own, and has a unit and a pod
// of it reach for places inside and outside.
func TestKernel(t *testing.T) {
	for _, p := range []string{"nft", "ip", "unshare", "bash"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("making a network needs root")
	}
	groups := "/sys/fs/cgroup"
	if _, err := os.Stat(groups + "/cgroup.controllers"); err != nil {
		groups += "/unified" // where both hierarchies are mounted
		if _, err := os.Stat(groups + "/cgroup.procs"); err != nil {
			t.Skip("this host has no second hierarchy of control groups")
		}
	}
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules")
	if err := os.WriteFile(rules, Rules(site), 0o644); err != nil {
		t.Fatal(err)
	}
	// nft looks for control groups at the usual place alone.
	script := `set -e
[ "$GROUPS2" = /sys/fs/cgroup ] || mount --bind "$GROUPS2" /sys/fs/cgroup
cd /sys/fs/cgroup
mkdir -p $SLICE/try.service/part $SLICE/kubepods-pod12ab_34.slice/cri.scope $SLICE/kubepods-besteffort.slice/kubepods-besteffort-pod56.slice/cri.scope
ip link set lo up
ip link add wire type veth peer name beyond
ip address add 10.9.9.2/24 dev wire
# IPv6 announces its groups to the link.
for i in all default; do echo 0 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done
nft -f "$RULES"
nft -f "$RULES" # and again, as the agent does when it starts anew
ip link set wire up; ip link set beyond up
ip route add default via 10.9.9.1
ip neighbour add 10.9.9.1 lladdr 02:00:00:00:00:09 dev wire
ip neighbour add 10.9.9.7 lladdr 02:00:00:00:00:07 dev wire
send() { echo x > /dev/udp/$1; }
(
echo $BASHPID > $SLICE/try.service/cgroup.procs
send 198.51.100.1/53
send 198.51.100.1/53
send 10.9.9.1/123
send 192.0.2.53/123
for inside in 10.9.9.1:53 192.0.2.53:53 192.0.2.123:123 10.9.9.7:4444 10.244.3.3:1 10.96.0.1:443 224.0.0.251:5353 127.0.0.1:9; do send ${inside/:/\/}; done
)
(
echo $BASHPID > $SLICE/kubepods-pod12ab_34.slice/cri.scope/cgroup.procs
timeout 0.2 bash -c 'echo x > /dev/tcp/198.51.100.2/443' || true
)
(
echo $BASHPID > $SLICE/kubepods-besteffort.slice/kubepods-besteffort-pod56.slice/cri.scope/cgroup.procs
send 198.51.100.4/514
)
(
echo $BASHPID > $SLICE/try.service/part/cgroup.procs
send 198.51.100.5/1
)
# Containers that have ended leave their pod.
rmdir $SLICE/kubepods-pod12ab_34.slice/cri.scope $SLICE/kubepods-besteffort.slice/kubepods-besteffort-pod56.slice/cri.scope
# A pod: its packets are forwarded.
ip netns add $SLICE
trap 'ip netns del $SLICE' EXIT
ip link add veth0 type veth peer name eth0 netns $SLICE
ip address add 10.244.0.1/24 dev veth0; ip link set veth0 up
ip -n $SLICE link set lo up; ip -n $SLICE address add 10.244.0.5/24 dev eth0; ip -n $SLICE link set eth0 up; ip -n $SLICE route add default via 10.244.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward
ip netns exec $SLICE bash -c 'for to in 198.51.100.3/123 10.9.9.7/123; do echo x > /dev/udp/$to; done'
nft --json list table inet holdfast-outside
`
	name := "hf" + strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "TestKernel", "") + ".slice"
	if len(name) > 60 {
		name = name[len(name)-60:]
	}
	cmd := exec.Command("unshare", "--net", "--mount", "bash", "-c", script)
	cmd.Env = append(os.Environ(), "GROUPS2="+groups, "RULES="+rules, "SLICE="+name)
	t.Cleanup(func() {
		for _, d := range []string{"/try.service/part", "/try.service", "/kubepods-pod12ab_34.slice/cri.scope", "/kubepods-pod12ab_34.slice",
			"/kubepods-besteffort.slice/kubepods-besteffort-pod56.slice/cri.scope", "/kubepods-besteffort.slice/kubepods-besteffort-pod56.slice", "/kubepods-besteffort.slice", ""} {
			os.Remove(filepath.Join(groups, name) + d)
		}
	})
	var said strings.Builder
	cmd.Stderr = &said
	listing, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	got, err := Read(listing, Names{
		ByAddress: map[netip.Addr]string{netip.MustParseAddr("10.244.0.5"): "web/front"},
		ByUID:     map[string]string{"12ab-34": "kube-system/etcd", "56": "web/host"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Try{
		{Who: "pod kube-system/etcd", To: "198.51.100.2:443", Proto: "tcp", Packets: 1},
		{Who: "pod web/front", From: "10.244.0.5", To: "198.51.100.3:123", Proto: "udp", Packets: 1},
		{Who: "pod web/host", To: "198.51.100.4:514", Proto: "udp", Packets: 1},
		{Who: "unit try.service", To: "10.9.9.1:123", Proto: "udp", Packets: 1},
		{Who: "unit try.service", To: "192.0.2.53:123", Proto: "udp", Packets: 1},
		{Who: "unit try.service", To: "198.51.100.1:53", Proto: "udp", Packets: 2},
		{Who: "unit try.service", To: "198.51.100.5:1", Proto: "udp", Packets: 1},
	}
	if !reflect.DeepEqual(got.Tries, want) || got.Lost != 0 {
		t.Errorf("got\n%v, lost %d, want\n%v", got.Tries, got.Lost, want)
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"kube-system_etcd-node1_0123abcd", "web_front_7-7", "strange"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	uids, err := PodsByUID(dir)
	if want := map[string]string{"0123abcd": "kube-system/etcd-node1", "7-7": "web/front"}; err != nil || !reflect.DeepEqual(uids, want) {
		t.Errorf("got %v, %v", uids, err)
	}
	if _, err := PodsByUID(filepath.Join(dir, "none")); err != nil {
		t.Errorf("before the first pod: %v", err)
	}
	n := Names{ByUID: uids}
	for group, want := range map[string]string{
		"system.slice/systemd-timesyncd.service":                                            "unit systemd-timesyncd.service",
		"kubepods.slice/kubepods-pod0123abcd.slice/cri-containerd-9.scope":                  "pod kube-system/etcd-node1",
		"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod7_7.slice/x.scope": "pod web/front",
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod99.slice/x.scope":    "unknown pod with UID 99",
		"4711": "unknown, of control group 4711",
	} {
		if got := n.group(group); got != want {
			t.Errorf("%s: got %q, want %q", group, got, want)
		}
	}
}

func TestRead(t *testing.T) {
	for _, listing := range []string{"", "{", `{"nftables": [{"set": {"name": "pods", "elem": [{"elem": {"val": {"concat": ["10.0.0.1"]}}}]}}]}`} {
		if c, err := Read([]byte(listing), Names{}); err == nil {
			t.Errorf("%q gives %v", listing, c)
		}
	}
	c, err := Read([]byte(`{"nftables": [{"set": {"name": "other", "elem": [{"elem": {"val": {"concat": ["10.9.9.2", "198.51.100.3", "icmp"]}, "counter": {"packets": 2}}}]}}]}`), Names{})
	if want := []Try{{Who: "unknown", From: "10.9.9.2", To: "198.51.100.3", Proto: "icmp", Packets: 2}}; err != nil || !reflect.DeepEqual(c.Tries, want) {
		t.Errorf("got %v, %v", c.Tries, err)
	}
	c, err = Read([]byte(`{"nftables": [{"counter": {"name": "lost", "packets": 3}}, {"set": {"name": "of others", "elem": [{"elem": {"val": {"concat": []}}}]}}]}`), Names{})
	if err != nil || c.Lost != 3 || len(c.Tries) != 0 {
		t.Errorf("got %+v, %v", c, err)
	}
}
