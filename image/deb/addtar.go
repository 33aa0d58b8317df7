package deb

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

const maxMembers = 1 << 20

// AddOptions says how AddTar adds; the zero value adds everything.
type AddOptions struct {
	Package string                 // named in errors
	Drop    func(path string) bool // true for what is left out; the path has no leading slash
}

// AddTar adds the files of the plain tar at tarPath to t. It reads headers
// only: file contents become [rootfs.Section]s of the tar, which must stay
// where it is. Hard links become files that share a Section. Devices, FIFOs,
// sparse files and extended attributes are refused, as are names and links
// that leave the tree; these wrap [rootfs.ErrEscape].
func AddTar(t *rootfs.Tree, tarPath string, o AddOptions) error {
	f, err := os.Open(tarPath)
	if err != nil {
		return fmt.Errorf("cannot add package %s: %w", o.Package, err)
	}
	defer f.Close()
	if err := addTar(t, f, tarPath, o); err != nil {
		return fmt.Errorf("cannot add package %s: %w", o.Package, err)
	}
	return nil
}

func addTar(t *rootfs.Tree, f io.ReadSeeker, tarPath string, o AddOptions) error {
	seen := map[string]rootfs.File{} // regular files, for hard links
	return walkTar(f, func(h *tar.Header, offset int64) error {
		file, err := fileOf(h, tarPath, offset, seen)
		if err != nil {
			return err
		}
		if file.IsRegular() {
			seen[file.Path] = file
		}
		if o.Drop != nil && o.Drop(file.Path) {
			return nil
		}
		return t.Add(file)
	})
}

// walkTar calls fn for each member, with the offset of its content.
func walkTar(f io.ReadSeeker, fn func(h *tar.Header, offset int64) error) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tr := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("data.tar: %w", err)
		}
		if n == maxMembers {
			return fmt.Errorf("data.tar: over %d members", maxMembers)
		}
		// The tar reader reads headers in whole blocks and no further, so the
		// content begins here.
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg && (h.Size < 0 || h.Size > end-offset || offset%512 != 0) {
			return fmt.Errorf("data.tar: %s: its %d bytes go beyond the end", h.Name, h.Size)
		}
		if err := fn(h, offset); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// fileOf is the entry for one member.
func fileOf(h *tar.Header, tarPath string, offset int64, seen map[string]rootfs.File) (rootfs.File, error) {
	name, err := memberName(h.Name)
	if err != nil {
		return rootfs.File{}, err
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") || strings.HasPrefix(k, "GNU.sparse.") {
			return rootfs.File{}, fmt.Errorf("%s is not supported in a package", k)
		}
	}
	file := rootfs.File{Path: name, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid, MTime: h.ModTime.Unix()}
	if h.Uid < 0 || h.Gid < 0 {
		return rootfs.File{}, errors.New("negative owner")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		file.Mode |= rootfs.TypeRegular
		file.Data = rootfs.Section{Name: tarPath, Offset: offset, Length: h.Size}
	case tar.TypeDir:
		file.Mode |= rootfs.TypeDir
	case tar.TypeSymlink:
		if err := checkLink(name, h.Linkname); err != nil {
			return rootfs.File{}, err
		}
		file.Mode = rootfs.TypeSymlink | 0o777
		file.Target = h.Linkname
	case tar.TypeLink:
		target, err := memberName(h.Linkname)
		if err != nil {
			return rootfs.File{}, err
		}
		other, ok := seen[target]
		if !ok {
			return rootfs.File{}, fmt.Errorf("a hard link to %.200q, which is no earlier file", h.Linkname)
		}
		other.Path = name
		return other, nil
	case tar.TypeChar, tar.TypeBlock:
		return rootfs.File{}, errors.New("a device")
	default:
		return rootfs.File{}, fmt.Errorf("a member of unknown type %q", h.Typeflag)
	}
	return file, nil
}

// memberName cleans "./usr/bin/sh" to "usr/bin/sh".
func memberName(s string) (string, error) {
	if s == "" || s[0] == '/' || strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("bad name %.200q", s)
	}
	for e := range strings.SplitSeq(s, "/") {
		if e == ".." {
			return "", fmt.Errorf("bad name %.200q: %w", s, rootfs.ErrEscape)
		}
	}
	return path.Clean(s), nil
}

// checkLink refuses a link at name that climbs above the root. Where a parent
// of name is itself a link, rootfs checks again on each use.
func checkLink(name, target string) error {
	if target == "" || strings.ContainsRune(target, 0) {
		return fmt.Errorf("bad link to %.200q", target)
	}
	depth := strings.Count(name, "/")
	if target[0] == '/' {
		depth = 0
	}
	for e := range strings.SplitSeq(target, "/") {
		switch e {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return fmt.Errorf("a link to %.200q: %w", target, rootfs.ErrEscape)
			}
		default:
			depth++
		}
	}
	return nil
}
