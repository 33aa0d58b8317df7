package catalog

import (
	"strings"
	"testing"
)

// A name that the platform serves is refused to everybody else.
func TestNamesAreThePlatforms(t *testing.T) {
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	hosts, refused := map[string]bool{"DOMAIN": true, "api.DOMAIN": true}, map[string]string{}
	for _, c := range all {
		objects, err := Read(checkWith(c, all, t.Errorf))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			spec, _ := o.Data["spec"].(map[string]any)
			switch o.Kind {
			case "Ingress":
				for _, h := range o.hosts() {
					hosts[h] = true
				}
			case "Certificate":
				for _, name := range spec["dnsNames"].([]any) {
					if name := name.(string); strings.HasSuffix(name, "DOMAIN") {
						hosts[name] = true
					}
				}
			case "ValidatingAdmissionPolicy":
				for _, v := range spec["variables"].([]any) {
					if v := v.(map[string]any); v["name"] == "platform" {
						refused[o.Name] = v["expression"].(string)
					}
				}
			}
		}
	}
	for _, policy := range []string{"holdfast-names", "holdfast-certificates"} {
		for host := range hosts {
			if !strings.Contains(refused[policy], "'"+host+"'") {
				t.Errorf("%s does not refuse %s: %q", policy, host, refused[policy])
			}
		}
	}
}
