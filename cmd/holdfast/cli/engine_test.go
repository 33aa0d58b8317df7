package cli_test

import (
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/cmd/holdfast/cli"
	"holdfast.dev/holdfast/overlays"
)

// What k3s brings is neither composed nor forgotten: the agent waits for it. An
// add-on that is switched off is neither.
func TestEngineComponents(t *testing.T) {
	for _, c := range []struct {
		k                overlays.Kubernetes
		brought, watched []string
	}{
		{overlays.Kubernetes{Engine: "kubeadm"}, nil, nil},
		{overlays.Kubernetes{Engine: "none"}, nil, nil},
		{overlays.Kubernetes{Engine: "k3s"},
			[]string{"kubernetes", "containerd", "kube-proxy", "coredns", "storage", "metrics-server", "traefik"},
			[]string{"coredns", "storage", "metrics-server", "traefik"}},
		{overlays.Kubernetes{Engine: "k3s", Disable: []string{"traefik", "local-storage", "servicelb"}},
			[]string{"kubernetes", "containerd", "kube-proxy", "coredns", "metrics-server"},
			[]string{"coredns", "metrics-server"}},
	} {
		brought, watched := cli.EngineComponents(c.k)
		if !slices.Equal(brought, c.brought) || !slices.Equal(watched, c.watched) {
			t.Errorf("%+v brings %q, and %q is watched", c.k, brought, watched)
		}
	}
}

func TestOneIngress(t *testing.T) {
	ingress := []catalog.Component{{Name: "postgresql"}, {Name: "ingress"}}
	k3s := func(disable ...string) overlays.Kubernetes {
		return overlays.Kubernetes{Engine: "k3s", Disable: disable}
	}
	err := cli.OneIngress(k3s("coredns"), ingress)
	if err == nil || !strings.Contains(err.Error(), "list servicelb, traefik under kubernetes.disable") {
		t.Errorf("error is %v", err)
	}
	for _, err := range []error{
		cli.OneIngress(k3s("traefik", "servicelb", "coredns"), ingress), cli.OneIngress(k3s(), ingress[:1]),
		cli.OneIngress(overlays.Kubernetes{Engine: "kubeadm"}, ingress),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
