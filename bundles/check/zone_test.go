package check

import (
	"crypto/rand"
	"testing"

	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/signing"
)

func policy(t *testing.T, zone string, threshold, keys int, development bool) signing.Policy {
	t.Helper()
	var ks []signing.Key
	rule := signing.Rule{Zone: zone, Threshold: threshold}
	for range keys {
		private, err := signing.GenerateRelease(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k, err := signing.NewKey("somebody", &private.PublicKey, development)
		if err != nil {
			t.Fatal(err)
		}
		ks, rule.Keys = append(ks, k), append(rule.Keys, k.ID)
	}
	p, err := signing.NewPolicy(ks, []signing.Rule{rule})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		name    string
		zone    string
		secured Secured
		want    string
	}{
		{"official", "official", Secured{Policy: policy(t, "official", 1, 1, true), KeyFile: "keys/release.key", Packages: []string{"openssh-server"}}, ""},
		{"no rule", "official", Secured{Policy: policy(t, "secret", 1, 1, false)}, "0 zone official"},
		{"sensitive", "official-sensitive", Secured{Policy: policy(t, "official-sensitive", 2, 3, false), KeyFile: "keys/release.key"}, ""},
		{"one signer", "official-sensitive", Secured{Policy: policy(t, "official-sensitive", 1, 2, false)}, "0 zone official-sensitive"},
		{"a development key", "official-sensitive", Secured{Policy: policy(t, "official", 1, 1, true)}, "0 zone official-sensitive\n0 zone somebody"},
		{"secret", "secret", Secured{Policy: policy(t, "secret", 2, 2, false), KeyFile: "keys/release.key", Packages: []string{"systemd", "openssh-server"}},
			"0 zone keys/release.key\n0 zone openssh-server"},
	} {
		r, err := overlays.Zone(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		c.secured.Zone = c.zone
		if got := places(Rules(r, c.secured)); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestEngine(t *testing.T) {
	images := map[string]Digests{"registry.k8s.io/etcd:3": {}, "registry.k8s.io/etcd-tools:1": {}}
	if got := places(Engine("kubeadm", []string{"etcd", "pause", "etcd-to"}, images)); got != "0 image pause\n0 image etcd-to" {
		t.Errorf("got\n%s", got)
	}
}
