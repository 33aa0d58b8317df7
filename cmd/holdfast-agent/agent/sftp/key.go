package sftp

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
)

// Key reads the node's key from a file, and makes it where there is none.
// public is its line for authorized_keys.
func Key(file, comment string, random io.Reader) (key ssh.Signer, public string, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = newKey(file, comment, random)
	}
	if err == nil {
		key, err = ssh.ParsePrivateKey(b)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot use this node's key for servers: %w", err)
	}
	return key, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey()))) + " " + comment, nil
}

func newKey(file, comment string, random io.Reader) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(block)
	return b, atomicfile.Write(file, b, 0o600)
}
