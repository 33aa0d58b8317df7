package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/ignore"
)

// What a chart may hold, its dependencies included.
const (
	MaxArchive  = 32 << 20 // bytes, packed
	maxUnpacked = 64 << 20 // bytes
	maxFile     = 8 << 20  // bytes
	maxFiles    = 5000
	maxNesting  = 8 // of charts in charts
)

// File is a file of a chart, by its path below the chart's folder.
type File struct {
	Name string
	Data []byte
}

// budget is what is left of the limits while a chart is read.
type budget struct {
	bytes int64
	files int
}

func newBudget() *budget { return &budget{maxUnpacked, maxFiles} }

func (b *budget) take(name string, size int64) error {
	b.files--
	b.bytes -= size
	switch {
	case size > maxFile:
		return fmt.Errorf("%.200q has %d bytes, more than the %d allowed", name, size, maxFile)
	case b.files < 0:
		return fmt.Errorf("more than the %d files allowed", maxFiles)
	case b.bytes < 0:
		return fmt.Errorf("more than the %d bytes allowed", maxUnpacked)
	}
	return nil
}

// ReadArchive reads the files of a packed chart, sorted by name. Packed charts
// among its dependencies are unpacked in place. Nothing in the archive is
// trusted: links, devices, names that leave the chart, a file that is there
// twice, and what is larger than a chart ever is are errors.
func ReadArchive(r io.Reader) ([]File, error) {
	b := newBudget()
	files, err := readTar(io.LimitReader(r, MaxArchive+1), b)
	if err == nil {
		files, err = unpackNested(files, b, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the chart's archive: %w", err)
	}
	return sorted(files)
}

// readTar is one archive; what all its names have in common is dropped.
func readTar(r io.Reader, b *budget) ([]File, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is not a .tgz: %w", err)
	}
	// Padding of a tar file and what stands behind it count too.
	t := tar.NewReader(io.LimitReader(z, 2*maxUnpacked))
	var out []File
	top := ""
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader, tar.TypeDir:
			if b.files--; b.files < 0 {
				return nil, fmt.Errorf("more than the %d files allowed", maxFiles)
			}
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("%.200q is neither a file nor a directory", h.Name)
		}
		name := strings.TrimPrefix(h.Name, "./")
		folder, rest, ok := strings.Cut(name, "/")
		switch {
		case !ok || !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00"):
			return nil, fmt.Errorf("%.200q is not in the chart's folder", h.Name)
		case top != "" && folder != top:
			return nil, fmt.Errorf("it has two folders, %.100q and %.100q; a chart is one", top, folder)
		}
		top = folder
		if err := b.take(name, h.Size); err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(t, h.Size+1))
		if err != nil {
			return nil, err
		}
		if int64(len(data)) != h.Size {
			return nil, fmt.Errorf("%.200q has not the size that it is said to have", h.Name)
		}
		out = append(out, File{rest, data})
	}
	if len(out) == 0 {
		return nil, errors.New("it is empty")
	}
	return out, nil
}

// unpackNested puts charts/NAME.tgz into the folder charts/NAME.
func unpackNested(files []File, b *budget, depth int) ([]File, error) {
	var out []File
	for _, f := range files {
		dir, base := path.Split(f.Name)
		stem, packed := strings.CutSuffix(base, ".tgz")
		if !packed || path.Base(dir) != "charts" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
			out = append(out, f)
			continue
		}
		if depth == maxNesting {
			return nil, fmt.Errorf("%.200q: charts in charts more than %d deep", f.Name, maxNesting)
		}
		inner, err := readTar(bytes.NewReader(f.Data), b)
		if err == nil {
			inner, err = unpackNested(inner, b, depth+1)
		}
		if err != nil {
			return nil, fmt.Errorf("%.200q: %w", f.Name, err)
		}
		for _, i := range inner {
			out = append(out, File{dir + stem + "/" + i.Name, i.Data})
		}
	}
	return out, nil
}

func sorted(files []File) ([]File, error) {
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(files); i++ {
		if files[i].Name == files[i-1].Name {
			return nil, fmt.Errorf("cannot read the chart: %.200q is there twice", files[i].Name)
		}
	}
	return files, nil
}

// ReadDir reads the files of a chart in a directory as they are, but for those
// that its .helmignore leaves out. Anything that is neither a file nor a
// directory is an error: a link could lead out of the site.
func ReadDir(fsys fs.FS) ([]File, error) {
	rules := ignore.Empty()
	if f, err := fsys.Open(ignore.HelmIgnore); err == nil {
		rules, err = ignore.Parse(io.LimitReader(f, maxFile))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("cannot read the chart: %s: %w", ignore.HelmIgnore, err)
		}
	}
	rules.AddDefaults()
	b := newBudget()
	var out []File
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case rules.Ignore(name, fi) && name != "Chart.yaml":
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		case !fi.Mode().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
		if err := b.take(name, fi.Size()); err != nil {
			return err
		}
		data, err := readBounded(fsys, name)
		out = append(out, File{name, data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the chart: %w", err)
	}
	return sorted(out)
}

// Unpack is the chart of a directory's files: packed charts among its
// dependencies are unpacked in place.
func Unpack(files []File) ([]File, error) {
	b := newBudget()
	for _, f := range files {
		if err := b.take(f.Name, int64(len(f.Data))); err != nil {
			return nil, fmt.Errorf("cannot read the chart: %w", err)
		}
	}
	out, err := unpackNested(files, b, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read the chart: %w", err)
	}
	return sorted(out)
}

func readBounded(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than the %d bytes allowed", name, maxFile)
	}
	return data, errors.Join(err, f.Close())
}
