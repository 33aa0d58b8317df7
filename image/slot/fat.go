package slot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// FAT32 as in Microsoft's "FAT32 File System Specification", read as firmware
// and Linux do: the first table counts, and a long name that does not belong to
// its short one is as if it were not there. Every number may be hostile or torn.
const (
	fatSector    = 512
	fatSlot      = 32 // bytes of a directory entry
	fatEnd       = 0x0ffffff8
	fatBad       = 0x0ffffff7
	fatMask      = 0x0fffffff
	fatDeleted   = 0xe5
	fatReadOnly  = 0x01
	fatHidden    = 0x02
	fatSystem    = 0x04
	fatVolume    = 0x08
	fatDirectory = 0x10
	fatLong      = fatReadOnly | fatHidden | fatSystem | fatVolume
	maxDirectory = 2 << 20 // bytes; what FAT allows
	fatPage      = 4096
)

// fat is a file system on a partition; offsets are the partition's.
type fat struct {
	r         io.ReaderAt
	cluster   int64 // bytes
	tableAt   int64
	tableSize int64
	tables    int64
	dataAt    int64
	clusters  uint32
	root      uint32
	info      int64            // offset of the information sector
	pages     map[int64][]byte // of the first table
}

// extent is a run of bytes.
type extent struct{ at, n int64 }

// file is a directory's entry.
type file struct {
	name  string
	dir   bool
	first uint32 // cluster
	size  int64
	slots []int64 // offsets of what the entry consists of, the short name last
}

func openFAT(r io.ReaderAt, size int64) (*fat, error) {
	b := make([]byte, fatSector)
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	perCluster, reserved, tables := int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	sectors, perTable := int64(le.Uint32(b[32:])), int64(le.Uint32(b[36:]))
	switch {
	case le.Uint16(b[510:]) != 0xaa55 || le.Uint16(b[11:]) != fatSector:
		return nil, errors.New("not a FAT file system with sectors of 512 bytes")
	case le.Uint16(b[17:]) != 0 || le.Uint16(b[19:]) != 0 || le.Uint16(b[22:]) != 0 || le.Uint16(b[40:])&0x80 != 0:
		return nil, errors.New("not a FAT32 file system with mirrored tables")
	case perCluster == 0 || perCluster&(perCluster-1) != 0 || reserved == 0 || tables < 1 || tables > 2 || perTable == 0:
		return nil, errors.New("FAT: impossible numbers in its first sector")
	case sectors > size/fatSector || reserved+tables*perTable >= sectors:
		return nil, errors.New("FAT: it is larger than its partition")
	}
	data := reserved + tables*perTable
	clusters := (sectors - data) / perCluster
	f := &fat{
		r: r, cluster: perCluster * fatSector,
		tableAt: reserved * fatSector, tableSize: perTable * fatSector, tables: tables,
		dataAt: data * fatSector, clusters: uint32(min(clusters, fatBad-2)),
		root: le.Uint32(b[44:]) & fatMask, info: int64(le.Uint16(b[48:])) * fatSector,
		pages: map[int64][]byte{},
	}
	if (int64(f.clusters)+2)*4 > f.tableSize {
		return nil, errors.New("FAT: its tables are too short")
	}
	return f, nil
}

func (f *fat) has(cluster uint32) bool { return cluster >= 2 && cluster-2 < f.clusters }

func (f *fat) offset(cluster uint32) int64 { return f.dataAt + int64(cluster-2)*f.cluster }

// next is what the table has for a cluster.
func (f *fat) next(cluster uint32) (uint32, error) {
	at := int64(cluster) * 4
	page := at / fatPage
	b, ok := f.pages[page]
	if !ok {
		b = make([]byte, min(fatPage, f.tableSize-page*fatPage))
		if err := readFull(f.r, b, f.tableAt+page*fatPage); err != nil {
			return 0, err
		}
		f.pages[page] = b
	}
	return binary.LittleEndian.Uint32(b[at%fatPage:]) & fatMask, nil
}

// errChain is wrapped by errors about chains of clusters that end too early.
var errChain = errors.New("FAT: broken chain of clusters")

// chain returns where the first size bytes are of what begins at a cluster; with
// an error that wraps errChain, where those are that it leads to.
func (f *fat) chain(first uint32, size int64) ([]extent, error) {
	var out []extent
	for c := first; size > 0; {
		if !f.has(c) {
			return out, fmt.Errorf("%w: cluster %d", errChain, c)
		}
		e := extent{f.offset(c), min(size, f.cluster)}
		if last := len(out) - 1; last >= 0 && out[last].at+out[last].n == e.at {
			out[last].n += e.n
		} else {
			out = append(out, e)
		}
		if size -= e.n; size == 0 {
			break
		}
		var err error
		if c, err = f.next(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// directory lists the directory that begins at a cluster.
func (f *fat) directory(first uint32) ([]file, error) {
	var out []file
	var long []longPart
	b := make([]byte, f.cluster)
	read := int64(0)
	for c := first; c < fatEnd; {
		if !f.has(c) {
			return nil, fmt.Errorf("%w: cluster %d of a directory", errChain, c)
		}
		if read += f.cluster; read > max(maxDirectory, f.cluster) {
			return nil, errors.New("FAT: a directory without end")
		}
		if err := readFull(f.r, b, f.offset(c)); err != nil {
			return nil, err
		}
		for i := int64(0); i < f.cluster; i += fatSlot {
			e, at := b[i:i+fatSlot], f.offset(c)+i
			switch attr := e[11]; {
			case e[0] == 0:
				return out, nil
			case e[0] == fatDeleted:
				long = nil
			case attr&0x3f == fatLong:
				long = append(long, longPart{[fatSlot]byte(e), at})
			case attr&fatVolume != 0:
				long = nil
			default:
				out = append(out, parseFile(e, at, long))
				long = nil
			}
		}
		var err error
		if c, err = f.next(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// longPart is an entry with a part of a long name, the last part first on disk.
type longPart struct {
	b  [fatSlot]byte
	at int64
}

func parseFile(e []byte, at int64, long []longPart) file {
	le := binary.LittleEndian
	out := file{
		name:  shortName(e),
		dir:   e[11]&fatDirectory != 0,
		first: (uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))) & fatMask,
		size:  int64(le.Uint32(e[28:])),
		slots: []int64{at},
	}
	if name, n := longName(long, e); n > 0 {
		out.name = name
		for _, l := range long[len(long)-n:] {
			out.slots = append([]int64{l.at}, out.slots...)
		}
		slices.Sort(out.slots[:n])
	}
	return out
}

// longName puts the parts together that stand before a short name, and says how
// many they are; none, if they are not those of this short name.
func longName(long []longPart, short []byte) (name string, n int) {
	var sum byte
	for _, c := range short[:11] {
		sum = sum<<7 + sum>>1 + c
	}
	var units []uint16
	for seq := 1; seq <= 20 && seq <= len(long); seq++ {
		p := long[len(long)-seq].b
		if int(p[0]&0x3f) != seq || p[13] != sum {
			return "", 0
		}
		for _, i := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			units = append(units, binary.LittleEndian.Uint16(p[i:]))
		}
		if p[0]&0x40 != 0 {
			if end := slices.Index(units, 0); end >= 0 {
				units = units[:end]
			}
			return string(utf16.Decode(units)), seq
		}
	}
	return "", 0
}

func shortName(e []byte) string {
	stem, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if e[12]&0x08 != 0 {
		stem = strings.ToLower(stem)
	}
	if e[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		ext = "." + ext
	}
	return stem + ext
}

var errNoFile = errors.New("no such file")

// find returns the file at a path with slashes; case does not matter.
func (f *fat) find(path string) (file, error) {
	at := file{dir: true, first: f.root}
	for name := range strings.SplitSeq(path, "/") {
		if !at.dir {
			return file{}, fmt.Errorf("%s: %w", path, errNoFile)
		}
		files, err := f.directory(at.first)
		if err != nil {
			return file{}, fmt.Errorf("%s: %w", path, err)
		}
		i := slices.IndexFunc(files, func(x file) bool { return strings.EqualFold(x.name, name) })
		if i < 0 {
			return file{}, fmt.Errorf("%s: %w", path, errNoFile)
		}
		at = files[i]
	}
	return at, nil
}

// read reads what lies at the extents.
func (f *fat) read(extents []extent) ([]byte, error) {
	var size int64
	for _, e := range extents {
		size += e.n
	}
	b := make([]byte, 0, size)
	for _, e := range extents {
		if err := readFull(f.r, b[len(b):][:e.n:e.n], e.at); err != nil {
			return nil, err
		}
		b = b[:int64(len(b))+e.n]
	}
	return b, nil
}

// readFull reads all of b; what ends before is an error.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("cannot read %d bytes at %d: %w", len(b), at, err)
}
