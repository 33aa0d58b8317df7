package agent_test

import (
	"os/exec"
	"strings"
	"testing"
)

// What runs on a node neither assembles images nor fetches anything.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../cmd/holdfast-agent").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for p := range strings.Lines(string(out)) {
		p, own := strings.CutPrefix(strings.TrimSpace(p), "holdfast.dev/holdfast/")
		if own && (strings.HasPrefix(p, "image") && p != "image/rootfs" || strings.HasPrefix(p, "airgap/origin") || strings.HasPrefix(p, "overlays")) {
			t.Errorf("the agent imports %s", p)
		}
	}
}
