package catalog

import (
	"slices"
	"testing"
)

// What an engine brings is left out with all that it alone needs; those that
// need it still say so.
func TestOrderWithProvided(t *testing.T) {
	got, err := Order([]string{"keycloak"}, "kubernetes", "containerd", "kube-proxy", "coredns", "storage")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range got {
		names = append(names, c.Name)
		if c.Name == "keycloak" && !slices.Contains(c.AllNeeds(), "coredns") {
			t.Error("keycloak does not wait for names")
		}
	}
	if !slices.Equal(names, []string{"certificates", "ingress", "postgresql", "keycloak"}) {
		t.Errorf("got %q", names)
	}
}
