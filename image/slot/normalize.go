package slot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/holdfast/image/disk"
)

// Normalize cleans up behind a power cut: it removes temporary files, entries
// whose content cannot be reached, and all but one of the entries of a release,
// which a torn rename leaves with the same clusters; then it frees clusters that
// belong to nothing. It says which files it removed. A power cut while it works
// leaves something for the next time.
//
// The partition must not be mounted, as Linux would free the clusters of one of
// two such files although the other has them, and dev should be the partition's
// own device, whose cache the mount reads; esp.Start is then 0.
func Normalize(dev disk.Device, esp disk.Partition) (removed []string, err error) {
	removed, err = normalize(dev, esp)
	if err != nil {
		return removed, fmt.Errorf("cannot clean up EFI system partition: %w", err)
	}
	return removed, nil
}

func normalize(dev disk.Device, esp disk.Partition) ([]string, error) {
	f, err := openFAT(io.NewSectionReader(dev, esp.Start, esp.Size), esp.Size)
	if err != nil {
		return nil, err
	}
	dir, err := f.find(EntryDir)
	if err != nil {
		return nil, err
	}
	files, err := f.directory(dir.first)
	if err != nil {
		return nil, err
	}
	useless, err := superfluous(f, files)
	if err != nil {
		return nil, err
	}
	w := writer{dev, esp.Start}
	var removed []string
	for _, x := range useless {
		if err := w.removeFile(x); err != nil {
			return removed, err
		}
		removed = append(removed, x.name)
	}
	if len(removed) > 0 {
		if err := dev.Sync(); err != nil {
			return removed, err
		}
	}
	return removed, f.reclaim(w)
}

// orphan is a short name that lost its long one.
var orphan = regexp.MustCompile(`^HO[0-9A-Z]{0,4}~[0-9]\.(EFI|NEW)$`)

// superfluous picks the files to remove.
func superfluous(f *fat, files []file) ([]file, error) {
	var out []file
	best := map[int64]file{}
	for _, x := range files {
		e, ok := ParseEntry(x.name)
		if x.dir || !ok {
			continue
		}
		_, err := f.chain(x.first, x.size)
		switch {
		case errors.Is(err, errChain), err == nil && x.size == 0:
			out = append(out, x)
			continue
		case err != nil:
			return nil, err
		}
		other, twice := best[e.Release]
		if !twice {
			best[e.Release] = x
			continue
		}
		// The loader counts on, so what it wrote has more boots done.
		if old, _ := ParseEntry(other.name); e.Done > old.Done || e.Done == old.Done && e.Left < old.Left {
			best[e.Release], x = x, other
		}
		out = append(out, x)
	}
	for _, x := range files {
		if !x.dir && (strings.HasSuffix(x.name, ".new") || len(best) > 0 && orphan.MatchString(x.name)) {
			out = append(out, x)
		}
	}
	return out, nil
}

// reclaim frees what nothing has, and makes the tables the same.
func (f *fat) reclaim(w writer) error {
	used := map[uint32]bool{}
	if err := f.walk(f.root, used, 0); err != nil {
		return err
	}
	size := (int64(f.clusters)+2)*4 + fatSector - 1
	table := make([]byte, size/fatSector*fatSector)
	if err := readFull(f.r, table, f.tableAt); err != nil {
		return err
	}
	le := binary.LittleEndian
	free, changed := uint32(0), false
	for c := uint32(2); f.has(c); c++ {
		at := int64(c) * 4
		v := le.Uint32(table[at:])
		if v&fatMask != 0 && v&fatMask != fatBad && !used[c] {
			le.PutUint32(table[at:], v&^fatMask)
			v, changed = 0, true
		}
		if v&fatMask == 0 {
			free++
		}
	}
	for n := range f.tables {
		for at := int64(0); at < int64(len(table)); at += fatSector {
			wrote, err := w.write(table[at:at+fatSector], f.tableAt+n*f.tableSize+at)
			if err != nil {
				return err
			}
			changed = changed || wrote
		}
	}
	wrote, err := f.writeInfo(w, free)
	if err != nil || !changed && !wrote {
		return err
	}
	return w.dev.Sync()
}

// writeInfo corrects the count of free clusters, where there is one.
func (f *fat) writeInfo(w writer, free uint32) (changed bool, err error) {
	info := make([]byte, fatSector)
	if err := readFull(f.r, info, f.info); err != nil {
		return false, err
	}
	if f.info == 0 || f.info >= f.tableAt || !bytes.HasPrefix(info, []byte("RRaA")) || !bytes.HasPrefix(info[484:], []byte("rrAa")) {
		return false, nil
	}
	binary.LittleEndian.PutUint32(info[488:], free)
	return w.write(info, f.info)
}

// walk marks all clusters that a directory and what is in it have.
func (f *fat) walk(dir uint32, used map[uint32]bool, depth int) error {
	if depth > 16 {
		return errors.New("FAT: directories too deep")
	}
	if err := f.mark(dir, used); err != nil {
		return err
	}
	files, err := f.directory(dir)
	if err != nil {
		return err
	}
	for _, x := range files {
		switch {
		case x.name == "." || x.name == "..":
		case x.dir && used[x.first]:
			return errors.New("FAT: a directory in two places")
		case x.dir:
			err = f.walk(x.first, used, depth+1)
		case x.first != 0:
			err = f.mark(x.first, used)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mark follows a chain to its end, or to where another has been.
func (f *fat) mark(c uint32, used map[uint32]bool) (err error) {
	for f.has(c) && !used[c] {
		used[c] = true
		if c, err = f.next(c); err != nil {
			return err
		}
	}
	return nil
}

// writer writes sectors of a partition.
type writer struct {
	dev disk.Device
	at  int64
}

// removeFile marks a file's entry as deleted, leaving its clusters alone. The
// short name goes first: a long one without it is nothing.
func (w writer) removeFile(x file) error {
	for _, at := range slices.Backward(x.slots) {
		sector := at / fatSector * fatSector
		b := make([]byte, fatSector)
		if err := readFull(w.dev, b, w.at+sector); err != nil {
			return err
		}
		for _, s := range x.slots {
			if s/fatSector*fatSector == sector {
				b[s-sector] = fatDeleted
			}
		}
		if _, err := w.write(b, sector); err != nil {
			return err
		}
	}
	return nil
}

// write writes a sector where there are other bytes.
func (w writer) write(b []byte, at int64) (changed bool, err error) {
	old := make([]byte, len(b))
	if err := readFull(w.dev, old, w.at+at); err != nil {
		return false, err
	}
	if bytes.Equal(old, b) {
		return false, nil
	}
	_, err = w.dev.WriteAt(b, w.at+at)
	return true, err
}
