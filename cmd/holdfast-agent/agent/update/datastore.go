package update

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// copyDatastore copies the stopped engine's datastore. The copy has its name
// once it is whole and on disk.
func (m Machine) copyDatastore(release uint64) error {
	to := filepath.Join(m.path(DatastoreDir), strconv.FormatUint(release, 10))
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	if err := os.RemoveAll(besideOf(to)); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	if err := m.replace(m.datastore(), to); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	return m.copyBeside(to)
}

// restoreDatastore puts the copy in the datastore's place; the copy stays, so
// that it can be done over again.
func (m Machine) restoreDatastore(release uint64) error {
	from := filepath.Join(m.path(DatastoreDir), strconv.FormatUint(release, 10))
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("cannot restore the datastore of release %d: %w", release, err)
	}
	if m.Datastore == "" {
		return nil
	}
	if err := m.replace(from, m.datastore()); err != nil {
		return fmt.Errorf("cannot restore the datastore of release %d: %w", release, err)
	}
	if err := m.restoreBeside(from); err != nil {
		return fmt.Errorf("cannot restore the datastore of release %d: %w", release, err)
	}
	return nil
}

func (m Machine) datastore() string {
	if m.Datastore == "" {
		return ""
	}
	return m.path(m.Datastore)
}

// replace makes to a copy of the directory from; "" is an empty one.
func (m Machine) replace(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	tmp := to + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if from != "" {
		if err := copyTree(from, tmp); err != nil {
			return err
		}
	}
	if err := syncDirs(tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// copyTree copies directories and regular files with modes and owners into an
// empty directory, each file synced. Anything else is an error: a datastore
// has nothing else.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			if rel != "." {
				if err := os.Mkdir(dst, fi.Mode().Perm()); err != nil {
					return err
				}
			}
			return keepOwner(dst, fi)
		case fi.Mode().IsRegular():
			if err := copyFile(name, dst, fi.Mode().Perm()); err != nil {
				return err
			}
			return keepOwner(dst, fi)
		}
		return fmt.Errorf("%s is neither a file nor a directory", name)
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// syncDirs syncs a directory and all below it.
func syncDirs(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(name)
	})
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
