package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/airgap/origin/registry"
	"holdfast.dev/holdfast/airgap/store"
)

// fromEngine is the origin of images that come with the engine's release files.
const fromEngine = "engine"

const (
	maxUnpacked = 16 << 30 // of the images, which take about 1 GiB
	// unpackedImages is about how many times its size the archive of images takes
	// once it is unpacked and again when it is taken apart.
	unpackedImages = 8
)

// ofEngine reports whether im came with the engine's release files.
func (im Image) ofEngine() bool { return im.Origin == fromEngine }

// images takes the images out of the archive, which s has.
func (w WantEngine) images(ctx context.Context, e Engine, s *store.Store, progress func(done, total int64, name string)) ([]Image, error) {
	archive, ok := e.File(K3sImages)
	if !ok {
		return nil, fmt.Errorf("%s is not locked", K3sImages)
	}
	free, err := FreeSpace(s.Dir())
	if need := unpackedImages * archive.Size; err == nil && need > free {
		err = fmt.Errorf("cannot unpack %s: about %d bytes needed, %d are free in %s\nhint: make room there, or set HOLDFAST_CACHE to a larger disk", archive.Name, need, free, s.Dir())
	}
	if err != nil {
		return nil, err
	}
	file, err := unzstd(ctx, s, archive)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w", archive.Name, err)
	}
	defer os.Remove(file)
	names, err := registry.Names(file)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", archive.Name, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("cannot use %s: it has no image with a name", archive.Name)
	}
	var out []Image
	var errs []error
	for _, n := range names {
		ref, err := registry.ParseRef(n)
		var found registry.Image
		if err == nil {
			found, err = registry.Import(ctx, s, file, ref, Platform, progress)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, Image{
			Name: n, Component: e.Name, Origin: fromEngine, Platform: Platform.String(), MediaType: found.MediaType,
			Content: found.Manifest, Index: found.Index, Bytes: found.Bytes, File: archive.Content, Signature: notAsked,
		})
	}
	return out, errors.Join(errs...)
}

// unzstd unpacks a blob of s into a file beside it, which the caller removes.
func unzstd(ctx context.Context, s *store.Store, f File) (name string, err error) {
	in, err := s.Open(f.Content)
	if err != nil {
		return "", err
	}
	defer in.Close()
	z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return "", err
	}
	defer z.Close()
	out, err := s.TempFile()
	if err != nil {
		return "", err
	}
	n, err := io.Copy(out, io.LimitReader(whole{ctx, z}, maxUnpacked))
	if err == nil && n == maxUnpacked {
		err = errors.New("it unpacks without end")
	}
	if err = errors.Join(err, out.Close()); err != nil {
		os.Remove(out.Name())
		return "", err
	}
	return out.Name(), nil
}

// whole ends a read when its context does.
type whole struct {
	ctx context.Context
	r   io.Reader
}

func (w whole) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}
