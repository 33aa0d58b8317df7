package deb

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"

	"holdfast.dev/holdfast/airgap/store"
)

const (
	maxControl     = 64 << 20 // bytes of control.tar, uncompressed
	maxControlFile = 16 << 20
	maxData        = 16 << 30 // bytes of data.tar, uncompressed
	maxDict        = 128 << 20
)

// Meta is what a package says about itself.
type Meta struct {
	Control   Paragraph
	Scripts   map[string]store.Digest // preinst, postinst, prerm, postrm, config, triggers: those that are there
	Conffiles []string                // absolute paths
}

// Inspect reads the control part of a .deb.
func Inspect(r io.Reader) (Meta, error) {
	m, err := inspect(r)
	if err != nil {
		return Meta{}, fmt.Errorf("cannot inspect package: %w", err)
	}
	return m, nil
}

func inspect(r io.Reader) (Meta, error) {
	ar, err := openDeb(r)
	if err != nil {
		return Meta{}, err
	}
	plain, err := openMember(ar, "control.tar")
	if err != nil {
		return Meta{}, err
	}
	defer plain.Close()
	m := Meta{Scripts: map[string]store.Digest{}}
	tr := tar.NewReader(&limited{plain, maxControl})
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Meta{}, fmt.Errorf("control.tar: %w", err)
		}
		if err := m.read(path.Clean(h.Name), h, tr); err != nil {
			return Meta{}, fmt.Errorf("control.tar: %s: %w", h.Name, err)
		}
	}
	if m.Control == nil {
		return Meta{}, errors.New("control.tar: no file named control")
	}
	return m, nil
}

func (m *Meta) read(name string, h *tar.Header, r io.Reader) error {
	wanted := []string{"control", "conffiles", "preinst", "postinst", "prerm", "postrm", "config", "triggers"}
	if !slices.Contains(wanted, name) {
		return nil
	}
	if h.Typeflag != tar.TypeReg {
		return errors.New("not a regular file")
	}
	b, err := io.ReadAll(&limited{r, maxControlFile})
	if err != nil {
		return err
	}
	switch name {
	case "control":
		if m.Control != nil {
			return errors.New("there twice")
		}
		m.Control, err = ParseParagraph(string(b))
		return err
	case "conffiles":
		for line := range strings.Lines(string(b)) {
			// A line may begin with a flag such as remove-on-upgrade.
			if f := strings.Fields(line); len(f) > 0 {
				m.Conffiles = append(m.Conffiles, f[len(f)-1])
			}
		}
	default:
		m.Scripts[name] = store.FromBytes(b)
	}
	return nil
}

// openDeb reads the leading debian-binary member.
func openDeb(r io.Reader) (*arReader, error) {
	ar, err := newArReader(r)
	if err != nil {
		return nil, err
	}
	name, size, err := ar.next()
	if err != nil || name != "debian-binary" || size > 64 {
		return nil, errors.New("not a package: no debian-binary at its start")
	}
	b, err := io.ReadAll(ar)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(string(b), "2.") {
		return nil, fmt.Errorf("package format %.10q, only 2.0 is known", b)
	}
	return ar, nil
}

// openMember finds the member base, base.xz, base.gz or base.zst.
func openMember(ar *arReader, base string) (io.ReadCloser, error) {
	for {
		name, _, err := ar.next()
		if err == io.EOF {
			return nil, fmt.Errorf("no %s", base)
		}
		if err != nil {
			return nil, err
		}
		if suffix, ok := strings.CutPrefix(name, base); ok {
			r, err := Decompressor(ar, suffix)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return r, nil
		}
	}
}

// Decompressor reads what was compressed as the suffix says: "", ".xz", ".gz"
// or ".zst".
func Decompressor(r io.Reader, suffix string) (io.ReadCloser, error) {
	switch suffix {
	case "":
		return io.NopCloser(r), nil
	case ".xz":
		// It takes a quarter of ulikunitz/xz's time; see BenchmarkXZ.
		x, err := xz.NewReader(r, maxDict)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDict))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("unknown compression %.10q", suffix)
}

// Decompress writes the plain data.tar of the package at debPath to dst, by
// way of a temporary file beside it, and says what it wrote. Nothing is at dst
// after an error.
func Decompress(ctx context.Context, debPath, dst string) (store.Content, error) {
	c, err := decompress(ctx, debPath, dst)
	if err != nil {
		return store.Content{}, fmt.Errorf("cannot unpack package %s: %w", debPath, err)
	}
	return c, nil
}

func decompress(ctx context.Context, debPath, dst string) (c store.Content, err error) {
	in, err := os.Open(debPath)
	if err != nil {
		return c, err
	}
	defer in.Close()
	ar, err := openDeb(in)
	if err != nil {
		return c, err
	}
	plain, err := openMember(ar, "data.tar")
	if err != nil {
		return c, err
	}
	defer plain.Close()
	tmp, err := os.CreateTemp(filepath.Dir(dst), ".data-*")
	if err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), &limited{ctxReader{ctx, plain}, maxData})
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return c, err
	}
	if err = os.Rename(tmp.Name(), dst); err != nil {
		return c, err
	}
	return store.Content{Digest: store.SHA256(h.Sum(nil)), Size: n}, nil
}

// Job is one call of Decompress.
type Job struct{ Deb, Tar string }

// DecompressAll does several jobs, workers at a time, and returns the contents
// in the order of jobs. It tries all of them and reports all that failed.
// progress, if not nil, is called as jobs end, by one goroutine at a time.
func DecompressAll(ctx context.Context, jobs []Job, workers int, progress func(done, total int)) ([]store.Content, error) {
	out := make([]store.Content, len(jobs))
	errs := make([]error, len(jobs))
	var next atomic.Int64
	var mu sync.Mutex
	done := 0
	var wg sync.WaitGroup
	for range max(1, workers) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				out[i], errs[i] = Decompress(ctx, jobs[i].Deb, jobs[i].Tar)
				mu.Lock()
				done++
				if progress != nil {
					progress(done, len(jobs))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
