// Package erofs writes a [rootfs.Tree] as an uncompressed EROFS image and
// looks into such images. EROFS is the read-only file system of the Linux
// kernel; https://erofs.docs.kernel.org describes its format.
//
// The subset written: 4096-byte blocks, one device, no compression, no hard
// links, times in whole seconds. Files larger than what fits beside their
// inode start at a block, so that a change in one file leaves the blocks of the
// others as they are.
package erofs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	goerofs "github.com/erofs/go-erofs"

	"holdfast.dev/holdfast/image/rootfs"
)

// BlockSize is the size in bytes of a block of the images that Write makes.
const BlockSize = 4096

const (
	superblockAt = 1024 // bytes
	uuidAt       = superblockAt + 48
	labelAt      = superblockAt + 64
	labelSize    = 16
)

// Options are what an image has beside its files.
type Options struct {
	UUID  [16]byte
	Epoch int64  // build time, seconds
	Label string // at most 15 bytes
}

// Write replaces what f holds by an image of t, and returns its size in bytes,
// a multiple of BlockSize. The bytes depend on t and o alone. Memory grows with
// the number of files, not with their sizes. It reports all files that the
// image cannot hold at once; a file whose content is not as long as its Data
// says is an error as well. After an error, f holds nothing of use.
func Write(f *os.File, t *rootfs.Tree, o Options) (int64, error) {
	size, err := write(f, t, o)
	if err != nil {
		return 0, fmt.Errorf("cannot write EROFS image: %w", err)
	}
	return size, nil
}

func write(f *os.File, t *rootfs.Tree, o Options) (int64, error) {
	if len(o.Label) >= labelSize {
		return 0, fmt.Errorf("label %q is longer than %d bytes", o.Label, labelSize-1)
	}
	if o.Epoch < 0 {
		return 0, fmt.Errorf("build time %d is before 1970", o.Epoch)
	}
	src, err := newTreeFS(t)
	if err != nil {
		return 0, err
	}
	if err := f.Truncate(0); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	w := goerofs.Create(f, goerofs.WithBlockSize(BlockSize), goerofs.WithBuildTime(uint64(o.Epoch), 0))
	if err := w.CopyFrom(src); err != nil {
		return 0, err
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	// The library has no option for these two fields of the superblock.
	label := make([]byte, labelSize)
	copy(label, o.Label)
	if _, err := f.WriteAt(o.UUID[:], uuidAt); err != nil {
		return 0, err
	}
	if _, err := f.WriteAt(label, labelAt); err != nil {
		return 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.Size()%BlockSize != 0 {
		return 0, fmt.Errorf("internal error: image of %d bytes, not whole blocks", fi.Size())
	}
	return fi.Size(), nil
}

// Open reads the image in r as a file system; its files' Sys() is a
// *goerofs.Stat with owner, device number and attributes.
func Open(r io.ReaderAt) (fs.FS, error) {
	img, err := goerofs.Open(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read EROFS image: %w", err)
	}
	return img, nil
}

// ReadFile returns the content of one regular file of the image in r. A file
// of more than limit bytes is an error.
func ReadFile(r io.ReaderAt, name string, limit int64) ([]byte, error) {
	b, err := readFile(r, name, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot read /%s in EROFS image: %w", strings.TrimPrefix(name, "/"), err)
	}
	return b, nil
}

func readFile(r io.ReaderAt, name string, limit int64) ([]byte, error) {
	img, err := goerofs.Open(r)
	if err != nil {
		return nil, err
	}
	f, err := img.Open(strings.TrimPrefix(path.Clean("/"+name), "/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if fi.Size() < 0 || fi.Size() > limit {
		return nil, fmt.Errorf("%d bytes, more than the %d allowed", fi.Size(), limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != fi.Size() {
		return nil, fmt.Errorf("%d bytes instead of %d", len(b), fi.Size())
	}
	return b, nil
}
