package overlays

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
)

var update = flag.Bool("update", false, "write the schema and the golden error texts")

// TestSchemaIsFresh generates the schema from the types and their comments.
func TestSchemaIsFresh(t *testing.T) {
	r := jsonschema.Reflector{ExpandedStruct: true}
	if err := r.AddGoComments("holdfast.dev/holdfast/overlays", "./"); err != nil {
		t.Fatal(err)
	}
	for k, c := range r.CommentMap {
		r.CommentMap[k] = strings.ReplaceAll(c, "\n", " ")
	}
	s := r.Reflect(&Site{})
	s.ID = schemaID
	s.Title = "site.yaml of holdfast"
	want, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("site.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("site.schema.json is not what the types say; run: go test ./overlays -run Schema -update")
	}
}

// TestEveryFieldIsDescribed: the schema is the reference that editors show.
func TestEveryFieldIsDescribed(t *testing.T) {
	var schema struct {
		Properties map[string]map[string]any
		Defs       map[string]struct {
			Properties           map[string]map[string]any
			AdditionalProperties *bool
		} `json:"$defs"`
	}
	if err := json.Unmarshal(siteSchema, &schema); err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]map[string]any{"Site": schema.Properties}
	for name, d := range schema.Defs {
		all[name] = d.Properties
		if d.AdditionalProperties == nil || *d.AdditionalProperties {
			t.Errorf("%s allows unknown fields", name)
		}
	}
	for def, props := range all {
		for name, p := range props {
			if p["description"] == nil && p["$ref"] == nil {
				t.Errorf("%s.%s has no description", def, name)
			}
			for _, format := range []any{p["format"], sub(p, "items")["format"]} {
				if f, ok := format.(string); ok && formats()[f] == nil {
					t.Errorf("%s.%s: no check for the format %s", def, name, f)
				}
			}
		}
	}
}

func sub(m map[string]any, key string) map[string]any {
	s, _ := m[key].(map[string]any)
	return s
}
