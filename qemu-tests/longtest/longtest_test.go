package longtest

import (
	"strings"
	"testing"
	"time"
)

func TestWithout(t *testing.T) {
	for _, x := range []struct{ name, until, tool, want string }{
		{"no end", "", "sh", ""},
		{"time left", "1001", "sh", ""},
		{"too late", "990", "sh", "NOT RUN: the tests before it took 10 s too long"},
		{"no tool", "1001", "no-such-tool", "no-such-tool is missing"},
	} {
		why, err := without(x.until, time.Unix(1000, 0), []string{x.tool})
		if err != nil || (why == "") != (x.want == "") || !strings.HasPrefix(why, x.want) {
			t.Errorf("%s: %q, %v", x.name, why, err)
		}
	}
	if _, err := without("soon", time.Unix(1000, 0), nil); err == nil || !strings.Contains(err.Error(), Until) {
		t.Errorf("a time that is none: %v", err)
	}
}
