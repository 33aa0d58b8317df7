package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Recall reads into v what was remembered under key, a digest over everything
// that the result was made from, and reports whether there was anything. The
// caller checks the blobs that v names.
func (s *Store) Recall(key Digest, v any) bool {
	b, err := os.ReadFile(s.derivedPath(key))
	if err != nil || json.Unmarshal(b, v) != nil {
		return false
	}
	used(s.derivedPath(key))
	return true
}

// Remember keeps v, the result of a computation over key's inputs.
func (s *Store) Remember(key Digest, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot remember a result: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "derived"), 0o755); err != nil {
		return fmt.Errorf("cannot remember a result: %w", err)
	}
	if err := writeFile(filepath.Join(s.dir, "tmp"), s.derivedPath(key), b); err != nil {
		return fmt.Errorf("cannot remember a result: %w", err)
	}
	return nil
}

func (s *Store) derivedPath(key Digest) string {
	return filepath.Join(s.dir, "derived", key.Hex()+".json")
}

// Key is the digest of the inputs' JSON form.
func Key(inputs ...any) (Digest, error) {
	b, err := json.Marshal(inputs)
	if err != nil {
		return "", fmt.Errorf("internal error: cannot make a key: %w", err)
	}
	return FromBytes(b), nil
}
