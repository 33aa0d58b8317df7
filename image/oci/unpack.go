package oci

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
)

// maxUnpacked bounds what layers unpack to, in bytes, and maxFiles their number.
const (
	maxUnpacked = 16 << 30
	maxFiles    = 1 << 20
	maxWindow   = 128 << 20 // of zstd
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// Unpack puts the files of layers, lowest first, into a directory: what a
// program would see that is run from the image, but that all belongs to the
// user who unpacks, who can read it; devices, set-uid bits and the times of
// directories are left out.
func Unpack(ctx context.Context, s *store.Store, layers []LayerDesc, root *os.Root) error {
	u := unpacker{ctx: ctx, root: root, bytes: maxUnpacked, files: maxFiles}
	for _, l := range layers {
		if err := u.layer(s, l); err != nil {
			return fmt.Errorf("cannot unpack layer %s: %w", l.Content.Digest, err)
		}
	}
	return nil
}

type unpacker struct {
	ctx   context.Context
	root  *os.Root
	bytes int64 // that may still come
	files int
}

func (u *unpacker) layer(s *store.Store, l LayerDesc) error {
	f, err := s.Open(l.Content)
	if err != nil {
		return err
	}
	defer f.Close()
	var plain io.Reader = bufio.NewReaderSize(f, 1<<17)
	switch l.MediaType {
	case v1.MediaTypeImageLayer:
	case v1.MediaTypeImageLayerGzip:
		z, err := gzip.NewReader(plain)
		if err != nil {
			return err
		}
		plain = z
	case v1.MediaTypeImageLayerZstd:
		z, err := zstd.NewReader(plain, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	default:
		return fmt.Errorf("its type %q is not known", l.MediaType)
	}
	return u.tar(plain)
}

// UnpackTar puts what [WriteTar] writes over what is in a directory.
func UnpackTar(ctx context.Context, r io.Reader, root *os.Root) error {
	u := unpacker{ctx: ctx, root: root, bytes: maxUnpacked, files: maxFiles}
	return u.tar(r)
}

func (u *unpacker) tar(r io.Reader) error {
	here := map[string]bool{} // of this layer: its whiteouts are for those below
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = u.ctx.Err()
		}
		if err != nil {
			return err
		}
		if u.files--; u.files < 0 {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" {
			continue
		}
		if err := u.member(name, h, t, here); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
}

func (u *unpacker) member(name string, h *tar.Header, content io.Reader, here map[string]bool) error {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if gone, ok := strings.CutPrefix(base, whiteout); ok {
		switch {
		case base == opaque:
			return u.empty(dir, here)
		case gone == "" || gone == "." || gone == ".." || strings.HasPrefix(gone, whiteout) || here[path.Join(dir, gone)]:
			return nil
		}
		return u.root.RemoveAll(path.Join(dir, gone))
	}
	for d := name; d != "."; d = path.Dir(d) {
		here[d] = true
	}
	if err := u.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.mkdir(name, fs.FileMode(h.Mode)&0o777|0o700)
	}
	if err := u.root.RemoveAll(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return errors.Join(u.write(name, fs.FileMode(h.Mode)&0o777|0o600, content), u.root.Chtimes(name, h.ModTime, h.ModTime))
	case tar.TypeSymlink:
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return u.root.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), name)
	}
	return nil // devices and pipes
}

// mkdir makes a directory, or takes the mode for the one that is there; a link
// to a directory stays.
func (u *unpacker) mkdir(name string, mode fs.FileMode) error {
	st, err := u.root.Stat(name)
	if err == nil && st.IsDir() {
		return u.root.Chmod(name, mode)
	}
	if err := u.root.RemoveAll(name); err != nil {
		return err
	}
	return errors.Join(u.root.Mkdir(name, 0o700), u.root.Chmod(name, mode))
}

func (u *unpacker) write(name string, mode fs.FileMode, content io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(content, u.bytes+1))
	if u.bytes -= n; err == nil && u.bytes < 0 {
		err = fmt.Errorf("the layers unpack to more than %d bytes", int64(maxUnpacked))
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// empty removes from a directory what layers below put there.
func (u *unpacker) empty(dir string, here map[string]bool) error {
	entries, err := fs.ReadDir(u.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if name := path.Join(dir, e.Name()); !here[name] {
			err = errors.Join(err, u.root.RemoveAll(name))
		}
	}
	return err
}
