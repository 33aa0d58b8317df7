package registry

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// maxEntries bounds the files of an archive.
const maxEntries = 100_000

// archive is a directory, or a tar file.
type archive interface {
	open(name string) (io.ReadCloser, int64, error)
	io.Closer
}

func openArchive(file string) (archive, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		root, err := os.OpenRoot(file)
		return directory{root}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	t, err := listTar(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read it as a tar file: %w\nhint: a compressed archive must be unpacked once (gunzip)", err)
	}
	return t, nil
}

type directory struct{ *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// tarFile knows where in a tar file each file lies.
type tarFile struct {
	*os.File
	at    map[string][2]int64 // offset and size
	links map[string]string
}

func listTar(f *os.File) (tarFile, error) {
	t := tarFile{f, map[string][2]int64{}, map[string]string{}}
	r := tar.NewReader(f) // which reads no further than the header
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return t, err
		}
		if n == maxEntries {
			return t, fmt.Errorf("more than the %d files allowed", maxEntries)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return t, err
			}
			t.at[name] = [2]int64{at, h.Size}
		case tar.TypeSymlink: // docker save writes a layer that is there twice so
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		}
	}
}

func (t tarFile) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	if to, ok := t.links[name]; ok {
		name = to
	}
	at, ok := t.at[name]
	if !ok {
		return nil, 0, fmt.Errorf("no file %s in it: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(t.File, at[0], at[1])), at[1], nil
}
