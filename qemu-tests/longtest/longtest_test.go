package longtest_test

import (
	"strconv"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/longtest"
)

func TestBegin(t *testing.T) {
	if testing.Short() {
		t.Skip("nothing begins with -short")
	}
	for _, x := range []struct {
		name, until, tool string
		begins            bool
	}{
		{"no end", "", "sh", true},
		{"time left", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10), "sh", true},
		{"too late", strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10), "sh", false},
		{"no tool", "", "no-such-tool", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Setenv(longtest.Until, x.until)
			begun := false
			t.Run("it", func(t *testing.T) {
				longtest.Begin(t, x.tool)
				begun = true
			})
			if begun != x.begins {
				t.Errorf("begun: %v", begun)
			}
		})
	}
}
