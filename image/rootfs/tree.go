// Package rootfs holds a file tree as a value: what an image will contain,
// independent of the host's file system, its users and its clock.
//
// Paths are relative, slash-separated and clean; "." is the root directory.
// A path whose parent is a symbolic link inside the tree is stored where the
// link leads, as it would be on a running system (merged /usr); a path or link
// that would leave the tree is an error wrapping [ErrEscape].
package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Unix file type bits, as in st_mode.
const (
	TypeMask    uint32 = 0o170000
	TypeSocket  uint32 = 0o140000
	TypeSymlink uint32 = 0o120000
	TypeRegular uint32 = 0o100000
	TypeBlock   uint32 = 0o060000
	TypeDir     uint32 = 0o040000
	TypeChar    uint32 = 0o020000
	TypeFIFO    uint32 = 0o010000
)

// ErrEscape is wrapped by errors about a path or link that leaves the tree.
var ErrEscape = errors.New("leaves the tree")

// ErrConflict is wrapped by errors about two different files at one path.
var ErrConflict = errors.New("two different files at one path")

// File is one entry of a Tree.
type File struct {
	Path         string // relative and clean
	Mode         uint32 // st_mode: type and permission bits, setuid included
	UID, GID     int
	MTime        int64  // seconds since the epoch
	Target       string // of a symbolic link, as written
	Major, Minor uint32 // of a device
	Xattrs       map[string]string
	Data         Data // of a regular file; nil means empty
}

// Type returns the file type bits of f.
func (f File) Type() uint32 { return f.Mode & TypeMask }

// IsDir reports whether f is a directory.
func (f File) IsDir() bool { return f.Type() == TypeDir }

// IsRegular reports whether f is a regular file.
func (f File) IsRegular() bool { return f.Type() == TypeRegular }

// Size is the length of a regular file in bytes, 0 for anything else.
func (f File) Size() int64 {
	if f.Data == nil || !f.IsRegular() {
		return 0
	}
	return f.Data.Size()
}

// Open returns the content of a regular file.
func (f File) Open() (io.ReadCloser, error) {
	if f.Data == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return f.Data.Open()
}

// Data is the content of a regular file; it can be opened any number of times.
type Data interface {
	Open() (io.ReadCloser, error)
	Size() int64
}

// Bytes is content held in memory.
type Bytes []byte

func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
func (b Bytes) Size() int64                  { return int64(len(b)) }

// Section is content that lies in a part of a file on the host.
type Section struct {
	Name           string // the host's file
	Offset, Length int64
}

func (s Section) Size() int64 { return s.Length }

func (s Section) Open() (io.ReadCloser, error) {
	f, err := os.Open(s.Name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.Offset, s.Length), f}, nil
}

// Tree is a set of files; [Tree.Files] gives them in order, parents first.
// The zero Tree is not usable; make one with [New].
type Tree struct {
	files map[string]File
}

// New returns a tree that holds a root directory with mode 0755 and time mtime.
func New(mtime int64) *Tree {
	return &Tree{files: map[string]File{".": {Path: ".", Mode: TypeDir | 0o755, MTime: mtime}}}
}

// Clone returns a tree that can be changed without changing t.
func (t *Tree) Clone() *Tree { return &Tree{files: maps.Clone(t.files)} }

// Len is the number of entries, the root directory included.
func (t *Tree) Len() int { return len(t.files) }

// Get returns the file at name, without following a link in its last element.
func (t *Tree) Get(name string) (File, bool) {
	p, err := t.place(name)
	if err != nil {
		return File{}, false
	}
	f, ok := t.files[p]
	return f, ok
}

// Stat returns the file at name, following links in every element.
func (t *Tree) Stat(name string) (File, bool) {
	p, err := t.resolve(name, true, 0)
	if err != nil {
		return File{}, false
	}
	f, ok := t.files[p]
	return f, ok
}

// ReadFile returns the content of the file at name, following links; nil where
// none is there. More than limit bytes are an error.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	f, ok := t.Stat(name)
	if !ok {
		return nil, nil
	}
	if f.Size() > limit {
		return nil, fmt.Errorf("cannot read /%s: %d bytes, more than %d", name, f.Size(), limit)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot read /%s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read /%s: %w", name, err)
	}
	return b, nil
}

// Add puts f into the tree. A directory that is there already keeps its place
// and takes f's owner and mode; any other file at that path, unless it is the
// same link, is an error wrapping [ErrConflict].
func (t *Tree) Add(f File) error {
	p, err := t.place(f.Path)
	if err != nil {
		return err
	}
	if old, ok := t.files[p]; ok {
		// A directory shipped at a path that the tree has as a link to a
		// directory (merged /usr) is that directory.
		if f.IsDir() && old.Type() == TypeSymlink {
			if d, ok := t.Stat(p); ok && d.IsDir() {
				return nil
			}
		}
		same := f.IsDir() && old.IsDir() ||
			f.Type() == TypeSymlink && old.Type() == TypeSymlink && f.Target == old.Target
		if !same {
			return fmt.Errorf("cannot add /%s: %w", p, ErrConflict)
		}
	}
	return t.Put(f)
}

// Put puts f into the tree, in place of what was there. Missing parents are
// made as directories of mode 0755 with f's time.
func (t *Tree) Put(f File) error {
	p, err := t.place(f.Path)
	if err != nil {
		return err
	}
	if f.Type() == TypeSymlink && f.Target == "" {
		return fmt.Errorf("cannot add /%s: empty link", p)
	}
	if old, ok := t.files[p]; ok && old.IsDir() && !f.IsDir() {
		return fmt.Errorf("cannot add /%s: %w: a directory is there", p, ErrConflict)
	}
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if q, ok := t.files[d]; ok {
			if !q.IsDir() {
				return fmt.Errorf("cannot add /%s: /%s is not a directory", p, d)
			}
			break
		}
		t.files[d] = File{Path: d, Mode: TypeDir | 0o755, MTime: f.MTime}
	}
	f.Path = p
	t.files[p] = f
	return nil
}

// Remove takes name out, with everything below it. It does not follow a link
// in the last element, and does nothing where nothing is there.
func (t *Tree) Remove(name string) {
	p, err := t.place(name)
	if err != nil || p == "." {
		return
	}
	f, ok := t.files[p]
	if !ok {
		return
	}
	delete(t.files, p)
	if f.IsDir() {
		for q := range t.files {
			if strings.HasPrefix(q, p+"/") {
				delete(t.files, q)
			}
		}
	}
}

// Files returns all entries, a directory before what it holds.
func (t *Tree) Files() []File {
	fs := slices.Collect(maps.Values(t.files))
	slices.SortFunc(fs, func(a, b File) int { return ComparePaths(a.Path, b.Path) })
	return fs
}

// ComparePaths orders paths element by element, "." first.
func ComparePaths(a, b string) int {
	if a == b {
		return 0
	}
	if a == "." {
		return -1
	}
	if b == "." {
		return 1
	}
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			switch {
			case a[i] == '/':
				return -1
			case b[i] == '/':
				return 1
			}
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// place finds where a file of that name lies: links in its parents are
// followed, one in its last element is not.
func (t *Tree) place(name string) (string, error) { return t.resolve(name, false, 0) }

func (t *Tree) resolve(name string, last bool, depth int) (string, error) {
	if depth > 40 {
		return "", fmt.Errorf("cannot resolve %q: too many links", name)
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("cannot resolve %q: a NUL in the name", name)
	}
	at := "."
	elems := strings.Split(strings.Trim(name, "/"), "/")
	for i, e := range elems {
		switch e {
		case "", ".":
			continue
		case "..":
			if at == "." {
				return "", fmt.Errorf("cannot resolve %q: %w", name, ErrEscape)
			}
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, e)
		f, ok := t.files[next]
		if ok && f.Type() == TypeSymlink && (last || i < len(elems)-1) {
			target := f.Target
			if !strings.HasPrefix(target, "/") {
				target = path.Join("/", at) + "/" + target
			}
			// Links are resolved as below a chroot, but one that climbs
			// above the root is refused rather than clamped.
			r, err := t.resolve(strings.TrimPrefix(target, "/"), true, depth+1)
			if err != nil {
				return "", fmt.Errorf("cannot resolve %q through the link /%s -> %s: %w", name, next, f.Target, err)
			}
			at = r
			continue
		}
		at = next
	}
	return at, nil
}
