// Package longtest tells whether a test that takes minutes can begin.
package longtest

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// Until is the variable with the time, in seconds since 1970, after which no
// such test begins, as it would not end in time; without it, there is none.
const Until = "HOLDFAST_BEGIN_UNTIL"

// Begin skips a test of minutes that has not the time, or the tools.
func Begin(t *testing.T, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes minutes; left out with -short")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing; make setup installs it", tool)
		}
	}
	if s := os.Getenv(Until); s != "" {
		sec, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", Until, err)
		}
		if late := time.Since(time.Unix(sec, 0)); late > 0 {
			t.Skipf("NOT RUN: the tests before it took %.0f s too long on this machine; run it by hand", late.Seconds())
		}
	}
}
