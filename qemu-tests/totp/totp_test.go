package totp

import (
	"testing"
	"time"
)

// From RFC 6238, appendix B.
func TestCode(t *testing.T) {
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 20000000000: "353130"} {
		if got := Code("12345678901234567890", time.Unix(at, 0)); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}
