package inventory

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Limits, of one image.
const (
	maxUnpacked = 64 << 30  // bytes of all layers
	maxNames    = 256 << 20 // bytes of all names
	maxEntries  = 4_000_000
	maxDatabase = 64 << 20 // bytes of one file that is read whole
	maxKept     = 256 << 20
	perPackage  = 200       // bytes that one of a language takes beside its name
	maxWindow   = 128 << 20 // of zstd
)

// cover is what a higher layer does to a name in those below it.
type cover byte

const (
	itself cover = 1 << iota // whatever has the name is not seen
	below                    // nor what is below it, if it is a directory
)

// finding is what a file of the image has to say.
type finding struct {
	data     []byte    // of a file that is read whole
	modules  []Module  // of a Go program
	packages []Package // of a language
	note     string    // why it was not read, or not all of it
}

// reader goes from the highest layer to the lowest.
type reader struct {
	ctx     context.Context
	scratch *os.File
	left    int64 // bytes to unpack
	entries int
	names   int
	kept    int
	covered map[string]cover // by the layers that were read
	found   map[string]finding
}

func (r *reader) layer(l Layer) error {
	f, err := l.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	plain, end, err := unpack(f)
	if err != nil {
		return err
	}
	defer end()
	covers := map[string]cover{}
	here := map[string]bool{} // what this layer found: a later entry takes its place
	for t := tar.NewReader(limited{plain, r}); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if err := r.count(name); err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if dir, base := path.Split(name); strings.HasPrefix(base, whiteout) {
			switch gone := strings.TrimPrefix(base, whiteout); {
			case base == opaque:
				covers[strings.TrimSuffix(dir, "/")] |= below
			case !strings.HasPrefix(gone, whiteout) && gone != "": // others are of AUFS itself
				covers[dir+gone] |= itself | below
			}
			continue
		}
		if here[name] {
			delete(r.found, name)
		}
		if h.Typeflag == tar.TypeDir {
			covers[name] |= itself
			continue
		}
		covers[name] |= itself | below
		if r.hidden(name) {
			continue
		}
		found, err := r.file(name, h, t)
		if err != nil {
			return err
		}
		if found.data != nil || found.modules != nil || found.packages != nil || found.note != "" {
			r.found[name] = found
			here[name] = true
		}
	}
	for name, c := range covers {
		r.covered[name] |= c
	}
	return nil
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// hidden reports whether the layers above hide a name.
func (r *reader) hidden(name string) bool {
	if r.covered[name]&itself != 0 {
		return true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if r.covered[dir]&below != 0 {
			return true
		}
	}
	return r.covered[""]&below != 0
}

func (r *reader) count(name string) error {
	r.entries++
	r.names += len(name)
	if r.entries > maxEntries || r.names > maxNames {
		return fmt.Errorf("more than the %d files, or %d bytes of names, allowed", maxEntries, maxNames)
	}
	return nil
}

// file looks into a file that is seen.
func (r *reader) file(name string, h *tar.Header, t io.Reader) (finding, error) {
	regular := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse
	if note := unread(name); note != "" {
		return finding{note: note}, nil
	}
	if wanted(name) {
		switch {
		case isRelease(name) && !regular:
			return finding{}, nil // a link to the other, mostly
		case !regular:
			return finding{note: "not a regular file, and not read"}, nil
		case h.Size > maxDatabase || r.kept > maxKept:
			return finding{note: "too large, and not read"}, nil
		}
		b, err := io.ReadAll(io.LimitReader(t, maxDatabase))
		r.kept += len(b)
		if b == nil {
			b = []byte{}
		}
		return finding{data: b}, err
	}
	if !regular {
		return finding{}, nil
	}
	switch kind := language(name); {
	case kind == Maven:
		return r.jar(name, h.Size, t)
	case kind != "":
		f, err := package1(kind, t)
		for _, p := range f.packages {
			r.kept += perPackage + len(p.Name) + len(p.Version)
		}
		if r.kept > maxKept {
			f = finding{note: "a package, beyond what is kept of one image"}
		}
		return f, err
	case h.Size < minProgram:
		return finding{}, nil
	}
	return r.program(h.Size, t)
}

// unpack tells how a layer is compressed by its first bytes, as container
// runtimes do.
func unpack(f io.Reader) (plain io.Reader, end func(), err error) {
	b := bufio.NewReaderSize(f, 1<<17)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return b, func() {}, nil
}

// limited reads what may still be unpacked, until the context ends.
type limited struct {
	io.Reader
	r *reader
}

var errTooLarge = errors.New("the image is larger than the limit, unpacked")

func (l limited) Read(b []byte) (int, error) {
	if err := l.r.ctx.Err(); err != nil {
		return 0, err
	}
	if l.r.left <= 0 {
		return 0, errTooLarge
	}
	n, err := l.Reader.Read(b[:min(int64(len(b)), l.r.left)])
	l.r.left -= int64(n)
	return n, err
}
