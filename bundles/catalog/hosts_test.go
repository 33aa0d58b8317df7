package catalog

import (
	"strings"
	"testing"
)

// Harbor takes the registry's place, and is not beside it.
func TestOneAName(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{"registry", "keycloak"}, ""},
		{[]string{"harbor", "monitoring"}, ""},
		{[]string{"harbor", "registry"}, "cannot have components harbor and registry in one site: each answers at registry.demo.example\nhint: leave one"},
	} {
		all, err := Order(c.names)
		if err != nil {
			t.Fatal(err)
		}
		err = OneAName(Site{Domain: "demo.example", Address: "192.0.2.7"}.Of(all))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: error is %v, want %q", c.names, err, c.want)
		}
	}
}
