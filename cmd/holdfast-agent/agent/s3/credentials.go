package s3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
)

// Credentials are what a target lets a node in by. Printed, they are the name
// of the access key alone.
type Credentials struct {
	AccessKey string // its name; no secret
	secret    string
}

func (c Credentials) String() string   { return c.AccessKey }
func (c Credentials) GoString() string { return c.AccessKey }

// The names in the file of credentials that AWS' programs read.
const (
	accessKeyName = "aws_access_key_id"
	secretName    = "aws_secret_access_key"
	sessionName   = "aws_session_token"
)

const maxCredentials = 16 << 10 // bytes

// Parse reads credentials: a file as AWS' programs have it, with one profile,
// or two lines, the access key and the secret. Its error joins all faults and
// shows nothing of what was read.
func Parse(r io.Reader) (Credentials, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxCredentials+1))
	if err != nil {
		return Credentials{}, fmt.Errorf("cannot read the credentials: %w", err)
	}
	if len(b) > maxCredentials {
		return Credentials{}, fmt.Errorf("cannot read the credentials: more than %d bytes", maxCredentials)
	}
	var lines []line
	for i, text := range strings.Split(strings.TrimPrefix(string(b), "\ufeff"), "\n") {
		if text = strings.TrimSpace(text); text != "" && text[0] != '#' && text[0] != ';' {
			lines = append(lines, line{i + 1, text})
		}
	}
	var c Credentials
	var faults []error
	if len(lines) > 0 && (lines[0].text[0] == '[' || strings.HasPrefix(strings.ToLower(lines[0].text), "aws_")) {
		c, faults = named(lines)
	} else if len(lines) == 2 {
		c = Credentials{lines[0].text, lines[1].text}
	} else {
		faults = append(faults, fmt.Errorf("want two lines, \"%s = …\" and \"%s = …\"", accessKeyName, secretName))
	}
	if len(faults) == 0 {
		faults = c.check()
	}
	if len(faults) > 0 {
		return Credentials{}, fmt.Errorf("cannot read the credentials: %w", errors.Join(faults...))
	}
	return c, nil
}

type line struct {
	number int
	text   string
}

// named reads lines of the form NAME = VALUE.
func named(lines []line) (c Credentials, faults []error) {
	seen := map[string]bool{}
	for _, l := range lines {
		if l.text[0] == '[' {
			continue
		}
		name, value, ok := strings.Cut(l.text, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case ok && seen[name]:
			faults = append(faults, fmt.Errorf("line %d: a second %s; leave one profile", l.number, name))
		case ok && name == accessKeyName:
			c.AccessKey, seen[name] = strings.TrimSpace(value), true
		case ok && name == secretName:
			c.secret, seen[name] = strings.TrimSpace(value), true
		case ok && name == sessionName:
			faults = append(faults, fmt.Errorf("line %d: these are for a session, and end with it; make some that stay", l.number))
		default:
			faults = append(faults, fmt.Errorf("line %d: neither %s nor %s", l.number, accessKeyName, secretName))
		}
	}
	for _, name := range []string{accessKeyName, secretName} {
		if !seen[name] {
			faults = append(faults, errors.New("no "+name))
		}
	}
	return c, faults
}

func (c Credentials) check() (faults []error) {
	plain := func(s string, but string) bool {
		return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(but, r) })
	}
	// Both go into headers, where a slash would end the access key.
	if len(c.AccessKey) < 3 || len(c.AccessKey) > 128 || !plain(c.AccessKey, "/=,") {
		faults = append(faults, errors.New("want an access key of 3 to 128 letters, digits and signs"))
	}
	if len(c.secret) < 8 || len(c.secret) > 256 || !plain(c.secret, "") {
		faults = append(faults, errors.New("want a secret of 8 to 256 letters, digits and signs"))
	}
	return faults
}

// ReadFile reads the node's credentials; its error wraps fs.ErrNotExist where
// there are none.
func ReadFile(name string) (Credentials, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return Credentials{}, fmt.Errorf("cannot read the credentials: %w", err)
	}
	return Parse(bytes.NewReader(b))
}

// WriteFile keeps c for ReadFile.
func (c Credentials) WriteFile(name string) error {
	err := os.MkdirAll(filepath.Dir(name), 0o700)
	if err == nil {
		err = atomicfile.Write(name, fmt.Appendf(nil, "[default]\n%s = %s\n%s = %s\n", accessKeyName, c.AccessKey, secretName, c.secret), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the credentials: %w", err)
	}
	return nil
}
