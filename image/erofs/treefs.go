package erofs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"strings"
	"time"

	goerofs "github.com/erofs/go-erofs"

	"holdfast.dev/holdfast/image/rootfs"
)

// treeFS shows a tree to the library. Files are opened when they are read, not
// before: a tree has more files than a process may have open.
type treeFS struct {
	files    map[string]rootfs.File
	children map[string][]fs.DirEntry
}

func newTreeFS(t *rootfs.Tree) (treeFS, error) {
	src := treeFS{map[string]rootfs.File{}, map[string][]fs.DirEntry{}}
	var errs []error
	for _, f := range t.Files() {
		if err := check(f); err != nil {
			errs = append(errs, fmt.Errorf("/%s: %w", f.Path, err))
			continue
		}
		src.files[f.Path] = f
		if f.Path != "." {
			dir := path.Dir(f.Path)
			src.children[dir] = append(src.children[dir], fs.FileInfoToDirEntry(info{f}))
		}
	}
	return src, errors.Join(errs...)
}

// check refuses what the image cannot hold, or would hold as something else.
func check(f rootfs.File) error {
	var errs []error
	if len(path.Base(f.Path)) > 255 {
		errs = append(errs, errors.New("name longer than 255 bytes"))
	}
	if f.Mode&^(rootfs.TypeMask|0o7777) != 0 {
		errs = append(errs, fmt.Errorf("mode %o has bits that are none of a mode", f.Mode))
	}
	switch f.Type() {
	case rootfs.TypeDir, rootfs.TypeRegular, rootfs.TypeFIFO, rootfs.TypeSocket:
	case rootfs.TypeSymlink:
		if len(f.Target) == 0 || len(f.Target) >= BlockSize {
			errs = append(errs, fmt.Errorf("link target of %d bytes", len(f.Target)))
		}
	case rootfs.TypeChar, rootfs.TypeBlock:
		if f.Major > 0xfff || f.Minor > 0xfffff {
			errs = append(errs, fmt.Errorf("device number %d:%d is too large", f.Major, f.Minor))
		}
	default:
		errs = append(errs, fmt.Errorf("unknown file type %o", f.Type()))
	}
	if f.MTime < 0 {
		errs = append(errs, fmt.Errorf("time %d is before 1970", f.MTime))
	}
	if !fits32(f.UID) || !fits32(f.GID) {
		errs = append(errs, fmt.Errorf("owner %d:%d is not a number of 32 bits", f.UID, f.GID))
	}
	if f.Size() < 0 {
		errs = append(errs, fmt.Errorf("size %d", f.Size()))
	}
	if f.Path == "." && !f.IsDir() {
		errs = append(errs, errors.New("the root is not a directory"))
	}
	errs = append(errs, checkXattrs(f.Xattrs), checkEmpty(f))
	return errors.Join(errs...)
}

func fits32(n int) bool { return n >= 0 && int64(n) <= math.MaxUint32 }

// checkXattrs refuses names whose prefix the kernel stores by a number that the
// library does not know, ACLs among them: they would get lost.
func checkXattrs(xattrs map[string]string) error {
	total := 12
	for name, value := range xattrs {
		prefix, suffix, _ := strings.Cut(name, ".")
		if (prefix != "user" && prefix != "trusted" && prefix != "security") || suffix == "" {
			return fmt.Errorf("attribute %q is none of user.*, trusted.*, security.*", name)
		}
		if len(suffix) > 255 || len(value) > math.MaxUint16 {
			return fmt.Errorf("attribute %q is too large", name)
		}
		total += (4 + len(suffix) + len(value) + 3) &^ 3
	}
	if total > BlockSize/2 {
		return fmt.Errorf("attributes of %d bytes, more than %d", total, BlockSize/2)
	}
	return nil
}

// checkEmpty reads the files that the library does not read because their size
// is said to be zero.
func checkEmpty(f rootfs.File) error {
	if !f.IsRegular() || f.Data == nil || f.Size() != 0 {
		return nil
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return atEnd(r, 0)
}

// atEnd is an error unless r has nothing more after size bytes.
func atEnd(r io.Reader, size int64) error {
	var one [1]byte
	switch _, err := io.ReadFull(r, one[:]); err {
	case io.EOF:
		return nil
	case nil:
		return fmt.Errorf("content is longer than its size of %d bytes", size)
	default:
		return err
	}
}

func (t treeFS) Stat(name string) (fs.FileInfo, error) {
	f, ok := t.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return info{f}, nil
}

func (t treeFS) ReadDir(name string) ([]fs.DirEntry, error) { return t.children[name], nil }

func (t treeFS) ReadLink(name string) (string, error) { return t.files[name].Target, nil }

func (t treeFS) Open(name string) (fs.File, error) {
	f, ok := t.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &content{file: f}, nil
}

// content reads a file and sees to it that it is as long as it should be: the
// library stops at that length, and pads a short one that lies in an inode.
type content struct {
	file rootfs.File
	r    io.ReadCloser
	n    int64
}

func (c *content) Stat() (fs.FileInfo, error) { return info{c.file}, nil }

func (c *content) Read(p []byte) (int, error) {
	if c.r == nil {
		r, err := c.file.Open()
		if err != nil {
			return 0, err
		}
		c.r = r
	}
	size := c.file.Size()
	if left := size - c.n; int64(len(p)) > left {
		p = p[:left]
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	switch {
	case c.n == size && (err == nil || err == io.EOF):
		if err := atEnd(c.r, size); err != nil {
			return n, err
		}
		return n, io.EOF
	case err == io.EOF:
		return n, fmt.Errorf("content ends after %d of %d bytes: %w", c.n, size, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (c *content) Close() error {
	if c.r == nil {
		return nil
	}
	return c.r.Close()
}

// info is a file's description in the form that the library copies whole.
type info struct{ f rootfs.File }

func (i info) Name() string       { return path.Base(i.f.Path) }
func (i info) Size() int64        { return i.f.Size() }
func (i info) ModTime() time.Time { return time.Unix(i.f.MTime, 0) }
func (i info) IsDir() bool        { return i.f.IsDir() }

func (i info) Mode() fs.FileMode {
	m := fs.FileMode(i.f.Mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.f.Mode&bit != 0 {
			m |= flag
		}
	}
	switch i.f.Type() {
	case rootfs.TypeDir:
		m |= fs.ModeDir
	case rootfs.TypeSymlink:
		m |= fs.ModeSymlink
	case rootfs.TypeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case rootfs.TypeBlock:
		m |= fs.ModeDevice
	case rootfs.TypeFIFO:
		m |= fs.ModeNamedPipe
	case rootfs.TypeSocket:
		m |= fs.ModeSocket
	}
	return m
}

func (i info) Sys() any {
	s := &goerofs.Stat{
		UID:    uint32(i.f.UID),
		GID:    uint32(i.f.GID),
		Mtime:  uint64(i.f.MTime),
		Xattrs: maps.Clone(i.f.Xattrs),
	}
	if t := i.f.Type(); t == rootfs.TypeChar || t == rootfs.TypeBlock {
		// The kernel's encoding of a device number in 32 bits.
		s.Rdev = i.f.Minor&0xff | i.f.Major<<8 | i.f.Minor&^0xff<<12
	}
	return s
}
