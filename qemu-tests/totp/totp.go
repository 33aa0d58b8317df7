// Package totp makes one-time codes as a person's telephone does, for tests
// that sign in.
package totp

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"time"
)

// Code is the one-time code of a secret (RFC 6238): six digits, 30 seconds.
func Code(secret string, now time.Time) string {
	h := hmac.New(sha1.New, []byte(secret))
	_ = binary.Write(h, binary.BigEndian, now.Unix()/30)
	sum := h.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:at+4])&0x7fffffff)%1_000_000)
}
