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

func TestOwnNames(t *testing.T) {
	ingress := []catalog.Component{{Name: "postgresql"}, {Name: "ingress", Needs: []string{"coredns"}}}
	k3s := func(disable ...string) overlays.Kubernetes {
		return overlays.Kubernetes{Engine: "k3s", Disable: disable}
	}
	for _, c := range []struct {
		components []catalog.Component
		disable    []string
		want       string
	}{
		{ingress, []string{"coredns"}, "cannot have ingress beside servicelb, traefik of k3s"},
		{append(slices.Clone(ingress), catalog.Component{Name: "loki", Needs: []string{"coredns"}}), []string{"coredns"}, "list servicelb, traefik under kubernetes.disable"},
		{[]catalog.Component{{Name: "minio", Needs: []string{"coredns"}}}, []string{"traefik"}, "cannot have minio beside coredns of k3s"},
		{[]catalog.Component{{Name: "registry", Needs: []string{"coredns"}}, ingress[1]}, nil, "cannot have registry, ingress beside coredns, servicelb, traefik of k3s"},
	} {
		err := cli.OwnNames(k3s(c.disable...), c.components)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error is %v, want %q", err, c.want)
		}
	}
	for _, err := range []error{
		cli.OwnNames(k3s("traefik", "servicelb", "coredns"), ingress), cli.OwnNames(k3s(), ingress[:1]),
		cli.OwnNames(overlays.Kubernetes{Engine: "kubeadm"}, ingress),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
