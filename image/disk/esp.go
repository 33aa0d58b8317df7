package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"holdfast.dev/holdfast/image/rootfs"
)

// MinESPSize is the smallest size in bytes of an EFI system partition: FAT32
// has at least 65525 clusters.
const MinESPSize = int64(34) << 20

const maxESPSize = int64(32) << 30

// WriteESP makes an EFI system partition at path: FAT32 of size bytes with the
// directories and regular files of the tree; owners, modes and times are lost,
// epoch is the time of all of them. It reports all files that FAT cannot hold
// at once, two whose names differ in case only among them.
func WriteESP(path string, size int64, files *rootfs.Tree, epoch int64) error {
	return WriteFAT(path, size, fatLabel, files, epoch)
}

// WriteFAT is WriteESP with a label: at most eleven capitals, digits and dashes.
func WriteFAT(path string, size int64, label string, files *rootfs.Tree, epoch int64) error {
	if size < MinESPSize || size > maxESPSize || size%blockSize != 0 {
		return fmt.Errorf("cannot write %s: size %d is not a number of blocks of %d bytes, from %d to %d", path, size, blockSize, MinESPSize, maxESPSize)
	}
	if err := checkFAT(files); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	v, err := planFAT(size, label, files, epoch)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return create(path, func(f *os.File) error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		return v.write(&section{f, 0, size})
	})
}

// checkFAT reports all files that do not fit into FAT.
func checkFAT(files *rootfs.Tree) error {
	var errs []error
	seen := map[string]string{}
	for _, f := range files.Files() {
		if f.Path == "." {
			continue
		}
		fault := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("/%s: %s", f.Path, fmt.Sprintf(format, args...)))
		}
		key := strings.ToLower(f.Path)
		if other, ok := seen[key]; ok {
			fault("same name as /%s but for case", other)
		}
		seen[key] = f.Path
		name := path.Base(f.Path)
		bad := func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"*/:<>?\|`, r) }
		if len(name) > 255 || strings.IndexFunc(name, bad) >= 0 || strings.HasPrefix(name, " ") || strings.TrimRight(name, " .") != name {
			fault("no name for FAT")
		}
		if !f.IsDir() && !f.IsRegular() {
			fault("neither a directory nor a regular file")
		}
		if f.Size() < 0 || f.Size() >= 1<<32 {
			fault("size %d", f.Size())
		}
	}
	return errors.Join(errs...)
}

// write puts everything in its place.
func (v *fat) write(w io.WriterAt) error {
	boot, info := v.bootSector(), v.infoSector()
	table := v.table()
	for _, p := range []struct {
		b  []byte
		at int64 // sector
	}{
		{boot, 0}, {info, 1}, {boot, fatBackup}, {info, fatBackup + 1},
		{table, fatReserved}, {table, fatReserved + v.sectorsPerFAT},
	} {
		if _, err := w.WriteAt(p.b, p.at*sectorSize); err != nil {
			return err
		}
	}
	for _, n := range v.nodes {
		at := v.offset(n.cluster)
		if n.file.IsDir() {
			if _, err := w.WriteAt(v.directory(n), at); err != nil {
				return err
			}
			continue
		}
		if err := copyFile(io.NewOffsetWriter(w, at), n.file); err != nil {
			return fmt.Errorf("/%s: %w", n.file.Path, err)
		}
	}
	return nil
}

// copyFile copies a file's content, which must be as long as its size says.
func copyFile(w io.Writer, f rootfs.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, min(f.Size()+1, 1<<20))
	for left := f.Size(); left > 0; {
		p := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("content is shorter than its size of %d bytes: %w", f.Size(), err)
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		left -= int64(len(p))
	}
	if n, err := io.ReadFull(r, buf[:1]); n != 0 {
		return fmt.Errorf("content is longer than its size of %d bytes", f.Size())
	} else if err != io.EOF {
		return err
	}
	return nil
}

// fatTime gives a time as FAT has it, in the years that it knows.
func fatTime(epoch int64) (clock, date uint16) {
	t := time.Unix(epoch, 0).UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	} else if t.Year() > 2107 {
		t = time.Date(2107, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	clock = uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	return clock, uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day())
}
