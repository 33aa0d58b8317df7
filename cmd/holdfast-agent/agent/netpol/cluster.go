package netpol

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is where policies, namespaces and pods are listed and watched.
type Cluster struct {
	Policies, Namespaces, Pods cache.ListerWatcher
}

// Connect reads a kubeconfig; it does not talk to the server yet.
func Connect(kubeconfig string) (Cluster, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return Cluster{}, fmt.Errorf("cannot read kubeconfig: %w", err)
	}
	core, err := restClient(cfg, "/api", corev1.SchemeGroupVersion)
	if err != nil {
		return Cluster{}, err
	}
	net, err := restClient(cfg, "/apis", networkingv1.SchemeGroupVersion)
	if err != nil {
		return Cluster{}, err
	}
	list := func(c rest.Interface, resource string) cache.ListerWatcher {
		return cache.NewListWatchFromClient(c, resource, metav1.NamespaceAll, fields.Everything())
	}
	return Cluster{list(net, "networkpolicies"), list(core, "namespaces"), list(core, "pods")}, nil
}

func restClient(cfg *rest.Config, path string, gv schema.GroupVersion) (rest.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath, cfg.GroupVersion, cfg.NegotiatedSerializer = path, &gv, scheme.Codecs.WithoutConversion()
	cfg.WarningHandler = rest.NoWarnings{}
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot use the API server: %w", err)
	}
	return c, nil
}

// slim leaves of an object what policies are about: a node keeps all of them in
// memory.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		return slimPod(o), nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: slimMeta(o.ObjectMeta)}, nil
	case *networkingv1.NetworkPolicy:
		return &networkingv1.NetworkPolicy{ObjectMeta: slimMeta(o.ObjectMeta), Spec: o.Spec}, nil
	}
	return o, nil // what tells of a deletion that was missed
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
}

func slimPod(p *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: slimMeta(p.ObjectMeta)}
	if v, ok := p.Annotations[mirrors]; ok {
		out.Annotations = map[string]string{mirrors: v}
	}
	out.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork}
	var ports []corev1.ContainerPort
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			ports = append(ports, c.Ports...) // it runs beside the others
		}
	}
	for _, c := range p.Spec.Containers {
		ports = append(ports, c.Ports...)
	}
	out.Spec.Containers = []corev1.Container{{Ports: slices.DeleteFunc(ports, func(p corev1.ContainerPort) bool { return p.Name == "" })}}
	out.Status = corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs}
	return out
}

// state joins what the cluster says with where this node's pods are. A pod is
// left out as long as its namespace or its address is not known: nothing passes
// for it then.
func state(objects []runtime.Object, records []record, node string) State {
	s := State{Namespaces: map[string]map[string]string{}}
	var pods []*corev1.Pod
	for _, o := range objects {
		switch o := o.(type) {
		case *networkingv1.NetworkPolicy:
			s.Policies = append(s.Policies, o)
		case *corev1.Namespace:
			labels := o.Labels
			if labels == nil {
				labels = map[string]string{}
			}
			s.Namespaces[o.Name] = labels
		case *corev1.Pod:
			if !o.Spec.HostNetwork && o.Status.Phase != corev1.PodSucceeded && o.Status.Phase != corev1.PodFailed {
				pods = append(pods, o)
			}
		}
	}
	ips := addresses(pods, records, node)
	for _, p := range pods {
		ip, known := ips[p]
		if !known || s.Namespaces[p.Namespace] == nil {
			continue
		}
		s.Pods = append(s.Pods, Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, IP: ip,
			Ports: p.Spec.Containers[0].Ports, Here: p.Spec.NodeName == node})
	}
	return s
}

// addresses finds the pods' addresses. The node's own records come first, the
// newest before others: a pod's status may be of before a reboot. An address
// that two pods claim is nobody's.
func addresses(pods []*corev1.Pod, records []record, node string) map[*corev1.Pod]netip.Addr {
	ips := map[*corev1.Pod]netip.Addr{}
	taken := map[netip.Addr]bool{}
	for _, r := range records {
		for _, p := range pods {
			_, has := ips[p]
			if !has && !taken[r.ip] && p.Spec.NodeName == node && r.of(p.Namespace, p.Name, string(p.UID), p.Annotations) {
				ips[p], taken[r.ip] = r.ip, true
			}
		}
	}
	claims := map[netip.Addr][]*corev1.Pod{}
	for _, p := range pods {
		if _, has := ips[p]; !has {
			if ip, ok := ipv4(p.Status); ok {
				claims[ip] = append(claims[ip], p)
			}
		}
	}
	for ip, by := range claims {
		if len(by) == 1 && !taken[ip] {
			ips[by[0]] = ip
		}
	}
	return ips
}

func ipv4(s corev1.PodStatus) (netip.Addr, bool) {
	for _, ip := range append([]corev1.PodIP{{IP: s.PodIP}}, s.PodIPs...) {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}
