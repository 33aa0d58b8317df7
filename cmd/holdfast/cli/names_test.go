package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
)

// TestNames asks the site's CoreDNS for names of its domain, as pods do and as
// machines on the site's network do.
func TestNames(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server")
	}
	program := compiled(t, "coredns")["coredns"]
	pods, site := startServer(t).names(t, program)
	for _, c := range []struct{ at, name, want string }{
		{pods, "id.demo.example", "10.96.0.11"},
		{pods, "app.team.demo.example", "10.96.0.11"},
		{pods, "api.demo.example", "192.0.2.7"},
		{pods, "kubernetes.default.svc.cluster.local", "10.96.0.1"},
		{pods, "demo.example.org", ""},
		{pods, "notdemo.example", ""},
		{pods, "www.outside.example", ""},
		{site, "demo.example", "192.0.2.7"},
		{site, "id.demo.example", "192.0.2.7"},
		{site, "api.demo.example", "192.0.2.7"},
		{site, "kubernetes.default.svc.cluster.local", ""}, // the cluster's own names are nobody else's
		{site, "www.outside.example", ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			// Both families: a name without an address in one of them is still a name.
			got, err := resolver(network, c.at).LookupNetIP(t.Context(), "ip", c.name+".")
			if fmt.Sprint(got) != "["+c.want+"]" {
				t.Errorf("%s says of %s by %s: %v, %v; want %s", c.at, c.name, network, got, err, c.want)
			}
		}
	}
	// Who delegates the domain to the node finds its server of names.
	ns, err := resolver("udp", site).LookupNS(t.Context(), "demo.example.")
	if err != nil || len(ns) != 1 || ns[0].Host != "ns.dns.demo.example." {
		t.Errorf("the domain's servers of names are %v, %v", ns, err)
	}
}

func resolver(network, at string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, at)
	}}
}

// names starts CoreDNS with the Corefile of its component on free ports, and
// returns where pods ask it, and the site's machines.
func (s server) names(t *testing.T, program string) (pods, site string) {
	t.Helper()
	all, err := catalog.Load()
	must(t, err)
	var corefile string
	for _, c := range (catalog.Site{Domain: "demo.example", Address: "192.0.2.7"}).Of(all) {
		objects, err := catalog.Read(c)
		must(t, err)
		for _, o := range objects {
			if o.Kind == "ConfigMap" && o.Name == "coredns" {
				corefile = o.Data["data"].(map[string]any)["Corefile"].(string)
			}
		}
	}
	pods, site = free(t), free(t)
	port := func(at string) string { return at[strings.LastIndex(at, ":"):] }
	corefile = strings.NewReplacer(":1053", port(pods), ":1054", port(site), ":8080", free(t), ":8181", free(t), ":9153", free(t),
		"ttl 30\n", "ttl 30\nkubeconfig "+s.kubeconfig(t, "admin")+"\n").Replace(corefile)
	file := filepath.Join(t.TempDir(), "Corefile")
	must(t, os.WriteFile(file, []byte(corefile), 0o644))
	background(t, program, "-conf", file)
	eventually(t, time.Minute, "CoreDNS has read what services there are", func() (bool, string) {
		ips, err := resolver("tcp", pods).LookupNetIP(t.Context(), "ip", "kubernetes.default.svc.cluster.local.")
		return len(ips) > 0, fmt.Sprint(err, "\n", corefile)
	})
	return pods, site
}

// TestServiceAddress applies a service as the agent does, and looks at the
// address that it then has at a real API server.
func TestServiceAddress(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server")
	}
	s := startServer(t)
	cfg, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig(t, "admin"))
	must(t, err)
	cluster, err := apply.New(cfg)
	must(t, err)
	for _, c := range []struct{ node, kind, want string }{
		{"", "LoadBalancer", "LoadBalancer "},
		{"192.0.2.7", "ClusterIP", "ClusterIP "},
		{"192.0.2.7", "LoadBalancer", "LoadBalancer 192.0.2.7"},
		{"192.0.2.8", "LoadBalancer", "LoadBalancer 192.0.2.8"}, // the node has moved
		{"192.0.2.8", "LoadBalancer", "LoadBalancer 192.0.2.8"},
	} {
		cluster.Address = c.node
		objects, err := apply.Parse(fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "default"},
			"spec": {"type": %q, "ports": [{"port": 443}], "selector": {"a": "b"}}}`, c.kind))
		must(t, err)
		must(t, cluster.Apply(t.Context(), objects[0]))
		if got := s.kubectl(t, "", "get", "service", "a", "-o", "jsonpath={.spec.type} {.status.loadBalancer.ingress[*].ip}"); got != c.want {
			t.Errorf("at %q, a %s is %q, want %q", c.node, c.kind, got, c.want)
		}
	}
}
