// Package secrets makes the site's passwords on the node, once.
package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// Ensure returns the secret s, kept as a file in dir. A key to generate that
// the file does not have is made, of so many characters of [A-Za-z0-9], and so
// is a pair; what it has is never changed. What is returned is on disk. A secret
// from another one is not kept: the other, which must be there, is read.
func Ensure(dir string, s node.Secret, random io.Reader) (map[string]string, error) {
	if s.From != nil {
		return part(dir, s)
	}
	namespace, name := s.Namespace, s.Name
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep secrets: %w", err)
	}
	file := fileOf(dir, namespace, name)
	have := map[string]string{}
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("cannot read secret %s/%s: %w", namespace, name, err)
	default:
		// Never replaced: a database may hold what this file holds.
		if err := json.Unmarshal(b, &have); err != nil {
			return nil, fmt.Errorf("cannot read secret %s/%s: %s is damaged", namespace, name, file)
		}
	}
	changed, err := Complete(have, s, random)
	if err != nil {
		return nil, err
	}
	if !changed {
		return have, nil
	}
	if b, err = json.Marshal(have); err != nil {
		return nil, fmt.Errorf("cannot write secret %s/%s: %w", namespace, name, err)
	}
	if err := atomicfile.Write(file, b, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write secret %s/%s: %w", namespace, name, err)
	}
	return have, nil
}

// Complete makes what have lacks of s, which is from no other secret, and reports
// whether that was anything. What is there is never changed.
func Complete(have map[string]string, s node.Secret, random io.Reader) (changed bool, err error) {
	for _, k := range slices.Sorted(maps.Keys(s.Generate)) {
		if _, ok := have[k]; ok {
			continue
		}
		if have[k], err = Password(s.Generate[k], random); err != nil {
			return false, fmt.Errorf("cannot make secret %s/%s: %w", s.Namespace, s.Name, err)
		}
		changed = true
	}
	for _, p := range s.Pairs {
		if have[p.Key] != "" && have[p.Certificate] != "" {
			continue
		}
		if have[p.Key], have[p.Certificate], err = Pair(p); err != nil {
			return false, fmt.Errorf("cannot make secret %s/%s: %w", s.Namespace, s.Name, err)
		}
		changed = true
	}
	return changed, nil
}

func fileOf(dir, namespace, name string) string {
	return filepath.Join(dir, namespace+"_"+name+".json")
}

// part reads the keys that s takes from another secret.
func part(dir string, s node.Secret) (map[string]string, error) {
	b, err := os.ReadFile(fileOf(dir, s.From.Namespace, s.From.Name))
	all := map[string]string{}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take secret %s/%s from %s/%s: %w", s.Namespace, s.Name, s.From.Namespace, s.From.Name, err)
	}
	return Part(s, all)
}

// Part are the keys that s takes from another secret, which holds all.
func Part(s node.Secret, all map[string]string) (map[string]string, error) {
	if len(s.From.Keys) == 0 {
		return all, nil
	}
	out := map[string]string{}
	for _, k := range s.From.Keys {
		v, ok := all[k]
		if !ok {
			return nil, fmt.Errorf("cannot take secret %s/%s from %s/%s: it has no %s", s.Namespace, s.Name, s.From.Namespace, s.From.Name, k)
		}
		out[k] = v
	}
	return out, nil
}

// Password is n characters of [A-Za-z0-9], each as likely as the others.
func Password(n int, random io.Reader) (string, error) {
	// Bytes past the largest multiple of the alphabet's length would favour
	// its beginning: they are thrown away.
	const limit = 256 - 256%len(alphabet)
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "", err
		}
		if int(b[0]) < limit {
			out = append(out, alphabet[int(b[0])%len(alphabet)])
		}
	}
	return string(out), nil
}
