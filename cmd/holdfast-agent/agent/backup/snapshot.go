// Package backup copies a node's state while it is used, as it was at one
// moment, and puts it back onto an empty node.
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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/bundles/backup"
)

// Snapshot is a copy of some directories and files below Root, made in passes:
// each copies what was changed since the one before, so that the last, while
// everything that writes is held, is short. Then it is what a power cut at that
// moment would have left.
type Snapshot struct {
	root  string   // prefix of all paths on the node
	paths []string // absolute on the node, "*" at the end for any; what is not there is left out
	dir   string   // of the copies, one file an inode
	seen  map[uint64]print
	// Of the last pass:
	entries []*tar.Header
	inodes  []uint64 // of each entry; 0 but for regular files
	bytes   int64
}

// print tells whether a file was changed.
type print struct {
	size         int64
	mtime, ctime unix.Timespec
}

// settled is how old a change has to be for a later one to show: clocks of file
// systems are coarse.
const settled = time.Second

// Begin makes an empty snapshot whose copies are kept in dir, which is made
// anew.
func Begin(root string, paths []string, dir string) (*Snapshot, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("cannot begin a backup: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot begin a backup: %w", err)
	}
	return &Snapshot{root: root, paths: paths, dir: dir, seen: map[uint64]print{}}, nil
}

// Remove removes the copies.
func (s *Snapshot) Remove() error { return os.RemoveAll(s.dir) }

// Size is how many files, and bytes of regular ones, the last pass found.
func (s *Snapshot) Size() (files, bytes int64) { return int64(len(s.entries)), s.bytes }

// Measure is the number of bytes that a first pass would copy.
func (s *Snapshot) Measure(ctx context.Context) (int64, error) {
	var n int64
	err := s.walk(ctx, func(_ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			n += st.Size
		}
		return nil
	})
	return n, err
}

// Pass copies what is new or was changed since the last one, and returns how
// many bytes that were. A file that goes away meanwhile is left out.
func (s *Snapshot) Pass(ctx context.Context) (copied int64, err error) {
	// Pages that are written to without a call are told apart by their time only
	// once they were written back.
	if err := s.sync(); err != nil {
		return 0, err
	}
	begun := time.Now().Add(-settled)
	s.entries, s.inodes, s.bytes = nil, nil, 0
	links := map[uint64]string{}
	err = s.walk(ctx, func(name string, st *unix.Stat_t) error {
		t, err := s.header(name, st)
		if errors.Is(err, fs.ErrNotExist) || t == nil && err == nil {
			return nil
		}
		if err != nil {
			return err
		}
		var inode uint64
		if t.Typeflag == tar.TypeReg {
			if first, ok := links[st.Ino]; ok && st.Nlink > 1 {
				t.Typeflag, t.Linkname, t.Size = tar.TypeLink, first, 0
			} else {
				links[st.Ino], inode = t.Name, st.Ino
				n, size, err := s.copy(ctx, name, st, begun)
				if errors.Is(err, fs.ErrNotExist) {
					delete(links, st.Ino)
					return nil
				}
				if err != nil {
					return err
				}
				copied += n
				t.Size = size
				s.bytes += size
			}
		}
		s.entries, s.inodes = append(s.entries, t), append(s.inodes, inode)
		return nil
	})
	if err != nil {
		return copied, fmt.Errorf("cannot copy the node's state: %w", err)
	}
	return copied, nil
}

func (s *Snapshot) sync() error {
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// walk calls f with everything at and below the paths, a directory first.
// Other file systems that are mounted there, and sockets, are left out.
func (s *Snapshot) walk(ctx context.Context, f func(name string, st *unix.Stat_t) error) error {
	for _, p := range expand(s.root, s.paths) {
		var dev uint64
		err := filepath.WalkDir(p, func(full string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(full, &st); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return &fs.PathError{Op: "lstat", Path: full, Err: err}
			}
			if dev == 0 {
				dev = st.Dev
			}
			switch {
			case st.Dev == dev:
			case d.IsDir():
				return filepath.SkipDir
			default:
				return nil
			}
			return f(full, &st)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expand gives what is at the paths below root.
func expand(root string, paths []string) []string {
	var out []string
	for _, p := range paths {
		full := filepath.Join(root, p)
		if prefix, ok := strings.CutSuffix(full, "*"); ok {
			es, _ := os.ReadDir(filepath.Dir(prefix)) // one that cannot be read has nothing in it
			for _, e := range es {
				if strings.HasPrefix(e.Name(), filepath.Base(prefix)) {
					out = append(out, filepath.Join(filepath.Dir(prefix), e.Name()))
				}
			}
			continue
		}
		out = append(out, full)
	}
	return out
}

// header describes a file; nil for one that is not backed up.
func (s *Snapshot) header(full string, st *unix.Stat_t) (*tar.Header, error) {
	name, err := filepath.Rel(s.root, full)
	if err != nil {
		return nil, err
	}
	t := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		t.Typeflag, t.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		t.Typeflag = tar.TypeDir
	case unix.S_IFIFO:
		t.Typeflag = tar.TypeFifo
	case unix.S_IFLNK:
		t.Typeflag = tar.TypeSymlink
		if t.Linkname, err = os.Readlink(full); err != nil {
			return nil, err
		}
	case unix.S_IFSOCK:
		return nil, nil // its program makes it anew
	default:
		return nil, fmt.Errorf("%s is a device, which cannot be backed up", full)
	}
	if t.Typeflag == tar.TypeReg || t.Typeflag == tar.TypeDir {
		t.PAXRecords, err = attributes(full)
	}
	return t, err
}

// copy copies a file's content, unless that was done and it was not changed.
func (s *Snapshot) copy(ctx context.Context, full string, st *unix.Stat_t, begun time.Time) (copied, size int64, err error) {
	now := print{st.Size, st.Mtim, st.Ctim}
	if before, ok := s.seen[st.Ino]; ok && before == now {
		return 0, st.Size, nil
	}
	delete(s.seen, st.Ino)
	in, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(s.content(st.Ino), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, 0, err
	}
	n, err := io.Copy(out, reader{ctx, in})
	if err = errors.Join(err, out.Close()); err != nil {
		return n, 0, err
	}
	// One that was changed a moment ago may be changed again within the same
	// tick: it is copied once more in the next pass.
	if time.Unix(st.Ctim.Unix()).Before(begun) && n == st.Size {
		s.seen[st.Ino] = now
	}
	return n, n, nil
}

func (s *Snapshot) content(inode uint64) string {
	return filepath.Join(s.dir, strconv.FormatUint(inode, 10))
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// WriteTo adds what the last pass found, and tells after each file how many
// bytes it was. A copy is removed as soon as it is added.
func (s *Snapshot) WriteTo(ctx context.Context, w *backup.Writer, progress func(n int64)) error {
	for i, t := range s.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.inodes[i] == 0 {
			if err := w.Add(t, nil); err != nil {
				return err
			}
			continue
		}
		name := s.content(s.inodes[i])
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = w.Add(t, reader{ctx, f})
		if err = errors.Join(err, f.Close(), os.Remove(name)); err != nil {
			return err
		}
		progress(t.Size)
	}
	return nil
}

const attributePrefix = "SCHILY.xattr."

// attributes are a file's extended ones, as tar has them.
func attributes(full string) (map[string]string, error) {
	list := make([]byte, 64<<10) // as long as one can be
	n, err := unix.Llistxattr(full, list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: full, Err: err}
	}
	out := map[string]string{}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr", Path: full, Err: err}
		}
		out[attributePrefix+name] = string(value[:n])
	}
	return out, nil
}
