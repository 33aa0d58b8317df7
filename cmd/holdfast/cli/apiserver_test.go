package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles/catalog"

	"sigs.k8s.io/yaml"
)

// TestManifestsAtServer lets the API server of the catalog look at all
// manifests of the catalog, and at each pod in its namespace, where Pod Security
// has a say. Nothing else of a cluster runs.
func TestManifestsAtServer(t *testing.T) {
	if os.Getenv("HOLDFAST_PLATFORM_TEST") == "" {
		t.Skip("set HOLDFAST_PLATFORM_TEST=1; it starts an API server")
	}
	api := startServer(t)
	all, err := catalog.Load()
	must(t, err)
	if all, err = catalog.Wire(catalog.Site{Domain: "demo.example", Address: "192.0.2.7"}.Of(all)); err != nil {
		t.Fatal(err)
	}
	digests := map[string]store.Digest{}
	for _, c := range all {
		for _, im := range c.Images {
			digests[im.Name] = store.FromBytes([]byte(im.Name))
		}
	}
	var namespaces, definitions, accounts, others, pods bytes.Buffer
	for _, c := range all {
		files, err := catalog.Render(c, digests)
		must(t, err)
		for _, f := range files {
			for _, doc := range strings.Split(string(f.Data), "---\n") {
				var o struct {
					Kind     string
					Metadata struct{ Name, Namespace string }
					Spec     struct {
						Template             struct{ Spec map[string]any }
						VolumeClaimTemplates []struct{ Metadata struct{ Name string } }
					}
				}
				must(t, yaml.Unmarshal([]byte(doc), &o))
				to := &others
				switch o.Kind {
				case "Namespace":
					to = &namespaces
				case "CustomResourceDefinition":
					to = &definitions
				case "ServiceAccount":
					to = &accounts
				}
				fmt.Fprintf(to, "---\n%s", doc)
				if o.Spec.Template.Spec == nil {
					continue
				}
				for _, v := range o.Spec.VolumeClaimTemplates { // the controller would add them
					list, _ := o.Spec.Template.Spec["volumes"].([]any)
					o.Spec.Template.Spec["volumes"] = append(list, map[string]any{"name": v.Metadata.Name, "emptyDir": map[string]any{}})
				}
				pod, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": o.Spec.Template.Spec,
					"metadata": map[string]any{"name": o.Metadata.Name, "namespace": o.Metadata.Namespace}})
				must(t, err)
				fmt.Fprintf(&pods, "---\n%s\n", pod)
			}
		}
	}
	api.kubectl(t, namespaces.String(), "apply", "--server-side", "-f", "-")
	api.kubectl(t, accounts.String(), "apply", "--server-side", "-f", "-")
	api.kubectl(t, definitions.String(), "apply", "--server-side", "-f", "-")
	api.kubectl(t, definitions.String(), "wait", "--for=condition=Established", "--timeout=60s", "-f", "-")
	for _, out := range []string{
		api.kubectl(t, others.String(), "apply", "--server-side", "--dry-run=server", "-f", "-"),
		api.kubectl(t, pods.String(), "create", "--dry-run=server", "-f", "-"),
	} {
		if strings.Contains(out, "Warning") {
			t.Errorf("the server warns:\n%s", out)
		}
		t.Logf("%d objects", strings.Count(out, "\n"))
	}
}
