// Package atomicfile replaces a file so that a power cut leaves the old one or
// the new one, whole.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write writes name with mode perm, by way of a temporary file beside it, and
// returns when file and directory are on disk.
func Write(name string, data []byte, perm os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
