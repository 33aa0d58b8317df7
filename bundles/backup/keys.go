package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// Where a site's recovery keys are, below its directory.
const (
	PrivateKey = "keys/recovery.key"
	PublicKeys = "trust/recovery.txt"
)

const maxKeys = 64 << 10

// GenerateKey makes a site's recovery key: DIR/keys/recovery.key, private, and
// DIR/trust/recovery.txt, to which more public keys may be added, one a line.
// It is a hybrid of X25519 and ML-KEM-768, as a backup that somebody copies
// today may be opened in twenty years. If one of the two files is there already
// it is an error wrapping os.ErrExist, and nothing is written.
func GenerateKey(dir string) error {
	key, err := age.GenerateHybridIdentity()
	if err != nil {
		return fmt.Errorf("cannot make a recovery key: %w", err)
	}
	private, public := filepath.Join(dir, PrivateKey), filepath.Join(dir, PublicKeys)
	for _, name := range []string{private, public} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot make a recovery key: %s: %w\nhint: keep it: backups made for it can be opened by no other", name, errors.Join(err, os.ErrExist))
		}
	}
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{private, 0o700}, {public, 0o755}} {
		if err := os.MkdirAll(filepath.Dir(d.name), d.mode); err != nil {
			return fmt.Errorf("cannot make a recovery key: %w", err)
		}
	}
	if err := writeNew(private, key.String()+"\n", 0o600); err != nil {
		return fmt.Errorf("cannot make a recovery key: %w", err)
	}
	if err := writeNew(public, "# Backups of this site can be opened with the private halves of these keys.\n"+key.Recipient().String()+"\n", 0o644); err != nil {
		return fmt.Errorf("cannot make a recovery key: %w", errors.Join(err, os.Remove(private)))
	}
	return nil
}

func writeNew(name, content string, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// ParseRecipients reads public recovery keys, one a line.
func ParseRecipients(r io.Reader) ([]age.Recipient, error) {
	out, err := age.ParseRecipients(io.LimitReader(r, maxKeys))
	if err != nil {
		return nil, fmt.Errorf("cannot read the recovery keys: %w", err)
	}
	return out, nil
}

// Recipients are the lines of public keys that ParseRecipients accepts.
func Recipients(lines []string) ([]age.Recipient, error) {
	return ParseRecipients(strings.NewReader(strings.Join(lines, "\n") + "\n"))
}

// Lines are the public keys in a file, without comments.
func Lines(b []byte) ([]string, error) {
	if _, err := ParseRecipients(strings.NewReader(string(b))); err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out, nil
}

// ParseIdentities reads private recovery keys. Its errors hold nothing of them.
func ParseIdentities(r io.Reader) ([]age.Identity, error) {
	out, err := age.ParseIdentities(io.LimitReader(r, maxKeys))
	if err != nil {
		return nil, errors.New("cannot read the recovery key: it is no private key of age, which begins with AGE-SECRET-KEY-")
	}
	return out, nil
}
