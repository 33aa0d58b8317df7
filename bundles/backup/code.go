package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

// A Code is what people compare: 80 bits of a backup's SHA-256, as five groups
// of four hexadecimal digits. Encryption tells nothing of who made a backup, as
// everybody may know the recovery keys' public halves; the code that the node
// showed when it made one does.

// NewCode makes the code of what is written to it; Code reads it.
func NewCode() hash.Hash { return sha256.New() }

// Code is the code of all that was written to h.
func Code(h hash.Hash) string {
	s := hex.EncodeToString(h.Sum(nil)[:10])
	var groups []string
	for i := 0; i < len(s); i += 4 {
		groups = append(groups, s[i:i+4])
	}
	return strings.Join(groups, "-")
}

// CodeOf reads all of r and returns its code.
func CodeOf(r io.Reader) (string, error) {
	h := NewCode()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("cannot read the backup: %w", err)
	}
	return Code(h), nil
}
