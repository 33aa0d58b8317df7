// Package expiry reads when certificates on disk end.
package expiry

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"time"
)

// Of gives the end of the first certificate of each file below root that matches
// a pattern, by path on the node. What is no certificate is left out.
func Of(root string, patterns []string) map[string]time.Time {
	out := map[string]time.Time{}
	for _, pattern := range patterns {
		names, _ := filepath.Glob(filepath.Join(root, pattern)) // its only error is of a pattern
		for _, name := range names {
			rel, err := filepath.Rel(root, name)
			if end, ok := endOf(name); ok && err == nil {
				out["/"+rel] = end
			}
		}
	}
	return out
}

func endOf(name string) (time.Time, bool) {
	b, err := os.ReadFile(name)
	if err != nil {
		return time.Time{}, false
	}
	p, _ := pem.Decode(b)
	if p == nil {
		return time.Time{}, false
	}
	c, err := x509.ParseCertificate(p.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return c.NotAfter, true
}
