package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// hold keeps the datastore as it is while f runs.
type hold func(ctx context.Context, f func(context.Context) error) error

// stopped is of an engine that does not run.
func stopped(ctx context.Context, f func(context.Context) error) error { return f(ctx) }

// copyDatastore copies the engine's datastore. The copy has its name once it is
// whole and on disk.
func (m Machine) copyDatastore(ctx context.Context, release uint64, h hold) error {
	to := filepath.Join(m.path(DatastoreDir), strconv.FormatUint(release, 10))
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	if err := os.RemoveAll(besideOf(to)); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	if err := m.replace(ctx, m.datastore(), to, h); err != nil {
		return fmt.Errorf("cannot copy the datastore: %w", err)
	}
	return m.copyBeside(to)
}

// restoreDatastore puts the copy in the datastore's place; the copy stays, so
// that it can be done over again.
func (m Machine) restoreDatastore(ctx context.Context, release uint64) error {
	from := filepath.Join(m.path(DatastoreDir), strconv.FormatUint(release, 10))
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("cannot restore the datastore of release %d: %w", release, err)
	}
	if m.Datastore == "" {
		return nil
	}
	if err := m.replace(ctx, from, m.datastore(), stopped); err != nil {
		return fmt.Errorf("cannot restore the datastore of release %d: %w", release, err)
	}
	if err := errors.Join(m.restoreBeside(from), m.dumpsBack(release)); err != nil {
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
func (m Machine) replace(ctx context.Context, from, to string, h hold) error {
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
		if err := h(ctx, func(ctx context.Context) error { return copyTree(ctx, from, tmp) }); err != nil {
			return err
		}
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncPath(filepath.Dir(to))
}

// copyTree copies directories and regular files with modes and owners into an
// empty directory. Anything else is an error: a datastore has nothing else.
func copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
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
	return errors.Join(err, out.Close())
}

// syncTree syncs a directory and all below it.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(name)
	})
}

func syncPath(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
