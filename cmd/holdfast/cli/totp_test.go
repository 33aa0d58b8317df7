package cli

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// totp is the one-time code of a secret (RFC 6238): six digits, 30 seconds.
func totp(secret string, now time.Time) string {
	h := hmac.New(sha1.New, []byte(secret))
	_ = binary.Write(h, binary.BigEndian, now.Unix()/30)
	sum := h.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:at+4])&0x7fffffff)%1_000_000)
}

func TestTOTP(t *testing.T) {
	if got := totp("12345678901234567890", time.Unix(59, 0)); got != "287082" {
		t.Error(got)
	}
}
