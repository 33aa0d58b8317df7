// Package expiry reads how long certificates on disk are good.
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
	for name, c := range Certificates(root, patterns) {
		out[name] = c.NotAfter
	}
	return out
}

// Certificates are the first ones of those files.
func Certificates(root string, patterns []string) map[string]*x509.Certificate {
	out := map[string]*x509.Certificate{}
	for _, pattern := range patterns {
		names, _ := filepath.Glob(filepath.Join(root, pattern)) // its only error is of a pattern
		for _, name := range names {
			rel, err := filepath.Rel(root, name)
			if err != nil {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			if c, ok := First(b); ok {
				out["/"+rel] = c
			}
		}
	}
	return out
}

// First is the first certificate of PEM.
func First(b []byte) (*x509.Certificate, bool) {
	p, _ := pem.Decode(b)
	if p == nil {
		return nil, false
	}
	c, err := x509.ParseCertificate(p.Bytes)
	return c, err == nil
}
