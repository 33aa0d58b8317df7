package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/bundles/backup"
)

// Restore puts all files of a backup below root, in place of what is at the
// paths, which are absolute on the node. It refuses files that lie elsewhere,
// and never follows a link out of root. What it wrote is on the disk when it
// returns without an error; after one, some of it may be there.
func Restore(ctx context.Context, r *backup.Reader, root string, paths []string, progress func(n int64)) error {
	for _, p := range expand(root, paths) {
		if err := clear(p); err != nil {
			return fmt.Errorf("cannot restore: %w", err)
		}
	}
	base, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	defer base.Close()
	var dirs []*tar.Header     // their times, and modes without write, come last
	links := map[string]bool{} // symbolic ones: nothing is written through them
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if !belongs(t.Name, paths) || t.Typeflag == tar.TypeLink && !belongs(t.Linkname, paths) {
			return fmt.Errorf("cannot restore /%s: it is no part of this site's state", t.Name)
		}
		for dir := filepath.Dir(t.Name); dir != "."; dir = filepath.Dir(dir) {
			if links[dir] {
				return fmt.Errorf("cannot restore /%s: /%s is a link", t.Name, dir)
			}
		}
		if t.Typeflag == tar.TypeSymlink || t.Typeflag == tar.TypeLink && links[t.Linkname] {
			links[t.Name] = true
		}
		if err := put(base, t, reader{ctx, r}); err != nil {
			return fmt.Errorf("cannot restore /%s: %w", t.Name, err)
		}
		if t.Typeflag == tar.TypeDir {
			dirs = append(dirs, t)
		}
		progress(t.Size)
	}
	for _, t := range slices.Backward(dirs) {
		if err := finish(base, t); err != nil {
			return fmt.Errorf("cannot restore /%s: %w", t.Name, err)
		}
	}
	unix.Sync()
	return nil
}

// belongs reports whether a file is at or below one of the paths.
func belongs(name string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		p = strings.TrimPrefix(p, "/")
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			rest, ok := strings.CutPrefix(name, prefix)
			return ok && !strings.Contains(rest, "/")
		}
		return name == p || strings.HasPrefix(name, p+"/")
	})
}

// clear removes what is at a path, but for mount points.
func clear(full string) error {
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return &fs.PathError{Op: "lstat", Path: full, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return os.Remove(full)
	}
	es, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	for _, e := range es {
		name := filepath.Join(full, e.Name())
		var in unix.Stat_t
		if err := unix.Lstat(name, &in); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		if in.Dev != st.Dev {
			continue
		}
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

func put(base *os.Root, t *tar.Header, r io.Reader) error {
	if dir := filepath.Dir(t.Name); dir != "." {
		if err := base.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	switch t.Typeflag {
	case tar.TypeDir:
		if err := base.Mkdir(t.Name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil // the rest when all is in it
	case tar.TypeSymlink:
		if err := base.Symlink(t.Linkname, t.Name); err != nil {
			return err
		}
		return base.Lchown(t.Name, t.Uid, t.Gid)
	case tar.TypeLink:
		return base.Link(t.Linkname, t.Name)
	case tar.TypeFifo:
		dir, err := base.Open(filepath.Dir(t.Name))
		if err != nil {
			return err
		}
		err = unix.Mknodat(int(dir.Fd()), filepath.Base(t.Name), unix.S_IFIFO|uint32(t.Mode&0o777), 0)
		return errors.Join(err, dir.Close(), base.Lchown(t.Name, t.Uid, t.Gid))
	}
	f, err := base.OpenFile(t.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, dress(f, t), f.Close())
}

func finish(base *os.Root, t *tar.Header) error {
	f, err := base.Open(t.Name)
	if err != nil {
		return err
	}
	return errors.Join(dress(f, t), f.Close())
}

// dress gives an open file its owner, mode, attributes and time.
func dress(f *os.File, t *tar.Header) error {
	if err := f.Chown(t.Uid, t.Gid); err != nil {
		return err
	}
	for name, value := range t.PAXRecords {
		if a, ok := strings.CutPrefix(name, attributePrefix); ok {
			if err := unix.Fsetxattr(int(f.Fd()), a, []byte(value), 0); err != nil {
				return fmt.Errorf("attribute %s: %w", a, err)
			}
		}
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(t.Mode&0o7777)); err != nil {
		return err
	}
	at := unix.NsecToTimeval(t.ModTime.Truncate(time.Microsecond).UnixNano())
	return unix.Futimes(int(f.Fd()), []unix.Timeval{at, at})
}
