package overlays

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestReference keeps docs/site-file.md true: its example loads, it names each
// field, and its error is a golden one.
func TestReference(t *testing.T) {
	b, err := os.ReadFile("../docs/site-file.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(b), "```")
	if _, err := Load(site(t, map[string]string{"site.yaml": strings.TrimPrefix(blocks[1], "yaml\n")})); err != nil {
		t.Error(err)
	}
	golden, err := os.ReadFile("testdata/unknown-field.want")
	said := slices.IndexFunc(blocks, func(b string) bool { return strings.Contains(b, ": unknown field") })
	if err != nil || said < 0 || !strings.Contains(string(golden), strings.TrimSpace(blocks[said])) {
		t.Errorf("the error is not a golden one: %v", err)
	}
	type object struct {
		Properties map[string]struct {
			Ref   string `json:"$ref"`
			Items struct {
				Ref string `json:"$ref"`
			}
		}
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(siteSchema, &schema); err != nil {
		t.Fatal(err)
	}
	var check func(prefix string, o object)
	check = func(prefix string, o object) {
		for name, p := range o.Properties {
			switch {
			case p.Ref != "":
				check(prefix+name+".", schema.Defs[p.Ref[len("#/$defs/"):]])
			case p.Items.Ref != "" && name != "exclude":
				check(prefix+name+"[].", schema.Defs[p.Items.Ref[len("#/$defs/"):]])
			case !strings.Contains(string(b), "| `"+prefix+name+"` |"):
				t.Errorf("no row for %s%s", prefix, name)
			}
		}
	}
	check("", schema.object)
}
