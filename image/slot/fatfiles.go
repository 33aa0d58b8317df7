package slot

import (
	"fmt"
	"io"
)

// FATFile is a file in the top directory of a FAT32 file system.
type FATFile struct {
	Name string
	Size int64
	io.Reader
}

// FATFiles are the files in the top directory of the FAT32 file system in r.
func FATFiles(r io.ReaderAt, size int64) ([]FATFile, error) {
	f, err := openFAT(r, size)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	in, err := f.directory(f.root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	var out []FATFile
	for _, x := range in {
		if x.dir {
			continue
		}
		extents, err := f.chain(x.first, x.size)
		if err != nil {
			return nil, fmt.Errorf("cannot read %q: %w", x.name, err)
		}
		var parts []io.Reader
		for _, e := range extents {
			parts = append(parts, io.NewSectionReader(r, e.at, e.n))
		}
		out = append(out, FATFile{x.name, x.size, io.LimitReader(io.MultiReader(parts...), x.size)})
	}
	return out, nil
}
