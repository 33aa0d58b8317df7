// Package oci composes container images in a store out of file trees: layers,
// configuration and manifest as the OCI image specification 1.1 has them. The
// same input gives the same bytes.
package oci

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/rootfs"
)

// LayerDesc names a layer in the store.
type LayerDesc struct {
	Content   store.Content `json:"content"`   // compressed
	DiffID    store.Digest  `json:"diffID"`    // of the tar
	MediaType string        `json:"mediaType"` // of the content
}

// Layer writes t as a zstd-compressed layer into s. All files get the time
// mtime, so that only content makes a difference; sockets have no place in a
// layer and are an error. Nothing enters the store on failure.
func Layer(s *store.Store, t *rootfs.Tree, mtime int64) (LayerDesc, error) {
	d, err := layer(s, t, mtime)
	if err != nil {
		return LayerDesc{}, fmt.Errorf("cannot write layer: %w", err)
	}
	return d, nil
}

func layer(s *store.Store, t *rootfs.Tree, mtime int64) (d LayerDesc, err error) {
	f, err := s.TempFile()
	if err != nil {
		return d, err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	out := &summer{w: f, h: sha256.New()}
	diff := sha256.New()
	err = func() error {
		// A concurrent encoder is free to cut its input elsewhere.
		z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		b := bufio.NewWriterSize(io.MultiWriter(z, diff), 1<<17)
		return errors.Join(WriteTar(b, t, mtime), b.Flush(), z.Close())
	}()
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return d, err
	}
	d = LayerDesc{
		Content:   store.Content{Digest: store.SHA256(out.h.Sum(nil)), Size: out.n},
		DiffID:    store.SHA256(diff.Sum(nil)),
		MediaType: v1.MediaTypeImageLayerZstd,
	}
	return d, s.Adopt(f.Name(), d.Content)
}

// WriteTar writes t as a tar of a layer: sorted, parents first, without the
// root directory itself, names without a leading "./", no user names; extended
// records only for what the plain header cannot hold.
func WriteTar(w io.Writer, t *rootfs.Tree, mtime int64) error {
	tw := tar.NewWriter(w)
	for _, f := range t.Files() {
		if f.Path == "." {
			continue
		}
		if err := writeFile(tw, f, mtime); err != nil {
			return fmt.Errorf("/%s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

func writeFile(tw *tar.Writer, f rootfs.File, mtime int64) error {
	h := &tar.Header{
		Name:    f.Path,
		Mode:    int64(f.Mode &^ rootfs.TypeMask),
		Uid:     f.UID,
		Gid:     f.GID,
		ModTime: time.Unix(mtime, 0),
	}
	switch f.Type() {
	case rootfs.TypeRegular:
		h.Typeflag, h.Size = tar.TypeReg, f.Size()
	case rootfs.TypeDir:
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
	case rootfs.TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Target
	case rootfs.TypeChar:
		h.Typeflag = tar.TypeChar
	case rootfs.TypeBlock:
		h.Typeflag = tar.TypeBlock
	case rootfs.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return fmt.Errorf("a file of type %#o has no place in a layer", f.Type())
	}
	if strings.HasPrefix(f.Path[strings.LastIndexByte(f.Path, '/')+1:], ".wh.") {
		return errors.New("the name would delete a file of the layer below")
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		h.Devmajor, h.Devminor = int64(f.Major), int64(f.Minor)
	}
	for k, v := range f.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(tw, io.LimitReader(r, h.Size))
	if err == nil && n != h.Size {
		err = fmt.Errorf("%d bytes where %d were announced: %w", n, h.Size, io.ErrUnexpectedEOF)
	}
	return err
}

// summer counts and hashes what it passes on.
type summer struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (s *summer) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.h.Write(b[:n])
	s.n += int64(n)
	return n, err
}
