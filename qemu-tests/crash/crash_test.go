package crash_test

import (
	"os/exec"
	"testing"
)

// need skips a test that takes minutes, or has not what it needs.
func need(t *testing.T, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes; left out with -short")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing; make setup installs it", tool)
		}
	}
}

func TestRecord(t *testing.T) {
	need(t, "qemu-system-x86_64")
	record(t, build(t))
}
