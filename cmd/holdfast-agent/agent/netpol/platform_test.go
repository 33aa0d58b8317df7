package netpol

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
)

// platform is a site with all components of the catalog, and two pods beside: a
// user's, and one of another component.
func platform(t *testing.T) State {
	t.Helper()
	s := State{Namespaces: map[string]map[string]string{
		"kube-system": {}, "users": {}, "another": {"holdfast.dev/platform": "true"},
	}}
	add := func(namespace, name string, p corev1.PodTemplateSpec) {
		if p.Spec.HostNetwork {
			return
		}
		var ports []corev1.ContainerPort
		for _, c := range p.Spec.Containers {
			ports = append(ports, c.Ports...)
		}
		s.Pods = append(s.Pods, Pod{Namespace: namespace, Name: name, Labels: p.Labels, Ports: ports, Here: true,
			IP: netip.AddrFrom4([4]byte{10, 244, 0, byte(10 + len(s.Pods))})})
	}
	add("users", "app", corev1.PodTemplateSpec{})
	add("another", "component", corev1.PodTemplateSpec{})
	all, err := catalog.Load()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if all, err = catalog.Order(names); err != nil { // with what they have with one another
		t.Fatal(err)
	}
	for _, c := range (catalog.Site{Domain: "site.example", Address: nodeAddress}).Of(all) {
		for _, f := range c.Manifests {
			objs, err := apply.Parse(f.Data)
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			for _, u := range objs {
				var o struct {
					metav1.ObjectMeta `json:"metadata"`
					Spec              struct{ Template corev1.PodTemplateSpec }
				}
				decode := func(into any) {
					b, err := u.MarshalJSON()
					if err == nil {
						err = json.Unmarshal(b, into)
					}
					if err != nil {
						t.Fatalf("%s: %s: %v", f.Name, u.GetName(), err)
					}
				}
				switch u.GetKind() {
				case "NetworkPolicy":
					np := &networkingv1.NetworkPolicy{}
					decode(np)
					s.Policies = append(s.Policies, np)
				case "Namespace":
					s.Namespaces[u.GetName()] = u.GetLabels()
				case "Deployment", "StatefulSet", "DaemonSet":
					decode(&o)
					add(o.Namespace, o.Name, o.Spec.Template)
				}
			}
		}
	}
	for name, labels := range s.Namespaces { // as the API server does
		labels["kubernetes.io/metadata.name"] = name
	}
	return s
}

const nodeAddress = "192.0.2.1"

// The platform's own policies open the ways that it needs, and no others.
func TestPlatform(t *testing.T) {
	s := platform(t)
	r, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range r.Pods {
		if p.Namespace != "users" && p.Namespace != "another" && (r.Ingress[i] == nil || r.Egress[i] == nil) {
			t.Errorf("no policy denies what is not needed by %s", p)
		}
	}
	const node, outside = nodeAddress, "198.51.100.1"
	addr := func(who string) netip.Addr {
		if a, err := netip.ParseAddr(who); err == nil {
			return a
		}
		return s.ip(who)
	}
	const dns, storage, db = "kube-system/coredns", "local-path-storage/local-volumes", "postgresql/postgresql"
	const objects, logs, measures, alerts = "minio/minio", "loki/loki", "monitoring/prometheus", "monitoring/alertmanager"
	const certs, front, id, images = "certificates/cert-manager", "ingress/traefik", "keycloak/keycloak", "registry/registry"
	const core, jobs, blobs, pages, queue, graphs = "harbor/core", "harbor/jobservice", "harbor/registry", "harbor/portal", "valkey/valkey", "grafana/grafana"
	for _, c := range []struct {
		from, to string
		protocol corev1.Protocol
		port     uint16
		want     bool
	}{
		{"users/app", dns, udp, 1053, true},
		{"users/app", dns, tcp, 1053, true},
		{db, dns, udp, 1053, true}, // for the archive
		{db, objects, tcp, 9000, true},
		{objects, db, tcp, 5432, false},
		{logs, objects, tcp, 9000, true},
		{"users/app", objects, tcp, 9000, false},
		{measures, node, tcp, 5003, true},
		{measures, node, tcp, 6443, false},
		{measures, certs, tcp, 9402, true},
		{measures, alerts, tcp, 9093, true},
		{alerts, node, tcp, 5003, true},
		{alerts, outside, tcp, 443, false},
		{"another/component", alerts, tcp, 9093, false}, // it knows no users
		{"another/component", measures, tcp, 9090, false},
		{"users/app", dns, tcp, 9153, false},
		{"another/component", dns, tcp, 9153, true},
		{"users/app", dns, tcp, 8080, false},
		{dns, node, tcp, 6443, true},
		{dns, node, tcp, 10250, false},
		{front, graphs, tcp, 3000, true},
		{graphs, logs, tcp, 3101, true},
		{graphs, logs, tcp, 3100, false}, // it only reads
		{graphs, measures, tcp, 9090, true},
		{graphs, alerts, tcp, 9093, false},
		{graphs, db, tcp, 5432, true},
		{graphs, front, tcp, 8443, true},
		{graphs, outside, tcp, 443, false},
		{"another/component", graphs, tcp, 3000, false},
		{front, core, tcp, 8080, true},
		{front, pages, tcp, 8080, true},
		{front, blobs, tcp, 5000, false}, // core alone says who may
		{front, jobs, tcp, 8080, false},
		{core, db, tcp, 5432, true},
		{core, queue, tcp, 6379, true},
		{core, blobs, tcp, 5000, true},
		{core, blobs, tcp, 8080, true},
		{core, jobs, tcp, 8080, true},
		{core, pages, tcp, 8080, true},
		{core, front, tcp, 8443, true}, // the sign-on by its public name
		{core, id, tcp, 8080, false},
		{core, objects, tcp, 9000, false},
		{core, outside, tcp, 443, false},
		{jobs, core, tcp, 8080, true},
		{jobs, db, tcp, 5432, true},
		{jobs, queue, tcp, 6379, true},
		{jobs, blobs, tcp, 5000, true},
		{jobs, outside, tcp, 443, false},
		{blobs, objects, tcp, 9000, true},
		{blobs, queue, tcp, 6379, true},
		{blobs, dns, udp, 1053, true},
		{blobs, db, tcp, 5432, false},
		{pages, dns, udp, 1053, false},
		{pages, core, tcp, 8080, false},
		{"another/component", core, tcp, 8080, false},
		{"another/component", queue, tcp, 6379, true},
		{"users/app", queue, tcp, 6379, false},
		{queue, dns, udp, 1053, false},
		{certs, node, tcp, 6443, true},
		{certs, dns, udp, 1053, false},
		{"another/component", certs, tcp, 9402, true},
		{"users/app", certs, tcp, 9402, false},
		{outside, dns, udp, 1054, true}, // the site's network asks for the site's names
		{outside, dns, tcp, 1054, true},
		{outside, dns, udp, 1053, false},
		{"users/app", dns, udp, 1054, false},
		{outside, certs, tcp, 9402, false},
		{certs, outside, tcp, 443, false},

		{outside, front, tcp, 8443, true},
		{outside, front, tcp, 8000, true},
		{outside, front, tcp, 8082, false},
		{"users/app", front, tcp, 8443, true},
		{front, node, tcp, 6443, true},
		{front, node, tcp, 10250, false},
		{front, outside, tcp, 443, false},
		{front, dns, udp, 1053, false},
		{front, "users/app", tcp, 8080, true},
		{front, "another/component", tcp, 8080, false}, // opens its way itself
		{front, db, tcp, 5432, false},
		{front, id, tcp, 8080, true},
		{front, id, tcp, 9000, false},
		{front, images, tcp, 5000, true},
		{"another/component", id, tcp, 8080, false}, // nobody signs in past the ingress
		{"another/component", images, tcp, 5000, false},
		{"users/app", id, tcp, 8080, false},
		{outside, id, tcp, 8080, false},
		{id, front, tcp, 8443, false},
		{id, db, tcp, 5432, true},

		{dns, "users/app", tcp, 6443, false},
		{dns, outside, udp, 53, false},

		{storage, node, tcp, 6443, true},
		{storage, node, tcp, 443, false},
		{storage, db, tcp, 5432, false},
		{"another/component", storage, tcp, 80, false},

		{"another/component", db, tcp, 5432, true},
		{"users/app", db, tcp, 5432, false},
		{"another/component", db, tcp, 22, false},
		{db, node, tcp, 6443, false},
		{db, outside, tcp, 443, false},
	} {
		if got := passes(r, addr(c.from), addr(c.to), c.protocol, c.port); got != c.want {
			t.Errorf("%s -> %s %s/%d: %v", c.from, c.to, c.protocol, c.port, got)
		}
	}
}

// While a release is on trial the ingress reaches the platform, and no user.
func TestTrial(t *testing.T) {
	s := platform(t)
	s.Policies = slices.DeleteFunc(s.Policies, func(p *networkingv1.NetworkPolicy) bool { return p.Annotations[apply.When] == apply.Confirmed })
	r, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]bool{"users/app": false, "keycloak/keycloak": true} {
		if got := passes(r, s.ip("ingress/traefik"), s.ip(to), tcp, 8080); got != want {
			t.Errorf("to %s: %v", to, got)
		}
	}
}
