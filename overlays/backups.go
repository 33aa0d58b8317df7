package overlays

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// checkBackups returns what is wrong between a server for backups and what it is
// known by.
func (s Site) checkBackups() []*Fault {
	var faults []*Fault
	add := func(field, message, hint string) {
		faults = append(faults, s.fault("/backups/"+field, message, hint))
	}
	b := s.Backups
	bucket := strings.HasPrefix(b.To, s3Scheme)
	switch {
	case b.To == "":
		for _, f := range []struct {
			name  string
			given bool
		}{{"hostKeys", len(b.HostKeys) > 0}, {"authority", b.Authority != ""}, {"region", b.Region != ""}} {
			if f.given {
				add(f.name, "is of no server", "name it in \"to\"")
			}
		}
	case bucket && b.Authority == "":
		add("to", "has no authority beside it", "put the certificate of the authority that signed the server's own into trust/, and name that file")
	case !bucket && len(b.HostKeys) == 0:
		add("to", "has no hostKeys beside it", "\"ssh-keyscan ADDRESS\", on a network that you trust, prints them")
	}
	if bucket && len(b.HostKeys) > 0 {
		add("hostKeys", "are of an SSH server, and \"to\" is none", "")
	}
	if b.To != "" && !bucket {
		if b.Authority != "" {
			add("authority", "is of an S3 server, and \"to\" is none", "")
		}
		if b.Region != "" {
			add("region", "is of an S3 server, and \"to\" is none", "")
		}
	}
	if u, err := url.Parse(b.To); bucket && err == nil && !isAddress(u.Hostname()) {
		for i, n := range s.Nodes {
			if len(n.DNS) == 0 {
				faults = append(faults, s.fault(fmt.Sprintf("/nodes/%d", i), "has no dns, and backups go to a name", "name the server by its IP address, and no name server has to work"))
			}
		}
	}
	return faults
}

const maxAuthority = 64 << 10 // bytes

// checkAuthority returns what is wrong with the file of the authority.
func (s Site) checkAuthority(dir string) []*Fault {
	if s.Backups.Authority == "" || checkTrustFile(s.Backups.Authority) != nil {
		return nil
	}
	if _, err := s.BackupAuthority(dir); err != nil {
		return []*Fault{s.fault("/backups/authority", err.Error(), "it holds what \"openssl x509\" prints of each authority")}
	}
	return nil
}

// BackupAuthority reads the certificates that vouch for the server for backups;
// "" where none are named. What is beside them in the file is left out.
func (s Site) BackupAuthority(dir string) (string, error) {
	if s.Backups.Authority == "" {
		return "", nil
	}
	data, err := readFile(filepath.Join(dir, s.Backups.Authority), maxAuthority)
	if err != nil {
		return "", fmt.Errorf("cannot read the certificates: %w", err)
	}
	var out strings.Builder
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("want certificates alone, it has a %q", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("cannot read a certificate: %w", err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return "", err
		}
	}
	if out.Len() == 0 {
		return "", errors.New("has no certificate (PEM) in it")
	}
	return out.String(), nil
}
