// Package longtest tells whether a test that takes minutes can begin.
package longtest

import (
	"fmt"
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
	why, err := without(os.Getenv(Until), time.Now(), tools)
	if err != nil {
		t.Fatal(err)
	}
	if why != "" {
		t.Skip(why)
	}
}

// without says what is missing at that time, "" if nothing is.
func without(until string, now time.Time, tools []string) (string, error) {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is missing; make setup installs it", nil
		}
	}
	if until == "" {
		return "", nil
	}
	sec, err := strconv.ParseInt(until, 10, 64)
	if err != nil {
		return "", fmt.Errorf("%s: %w", Until, err)
	}
	if late := now.Sub(time.Unix(sec, 0)); late > 0 {
		return fmt.Sprintf("NOT RUN: the tests before it took %.0f s too long on this machine; run it by hand", late.Seconds()), nil
	}
	return "", nil
}
