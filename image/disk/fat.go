package disk

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// FAT32 as in Microsoft's "FAT32 File System Specification". It is written
// here, since go-diskfs makes tables that are too short for some sizes, takes
// its times from the process's environment, and gives two files one short name.
const (
	fatReserved   = 32 // sectors before the first of the two tables
	fatBackup     = 6  // sector of the copies of the first two
	fatEntry      = 32 // bytes of a directory entry
	fatRoot       = 2  // the first cluster
	fatMaxEntries = 1 << 16
	fatEndOfChain = 0x0fffffff
	fatDirectory  = 0x10
	fatArchive    = 0x20
	fatLabelEntry = 0x08
	fatLongEntry  = 0x0f
	fatLabel      = "ESP" // of an EFI system partition
)

// fat is a file system of which everything has its place.
type fat struct {
	size, clusterSize int64
	sectorsPerFAT     int64
	clusters          int64 // in all
	used              int64
	clock, date       uint16
	id                uint32
	label             [11]byte
	nodes             []*node // parents first
}

// node is a file with its place: clusters in a row.
type node struct {
	file     rootfs.File
	short    [11]byte
	cluster  int64 // 0 for an empty file
	count    int64 // of clusters
	parent   *node // nil for the root
	children []*node
}

// planFAT gives each file its place.
func planFAT(size int64, label string, files *rootfs.Tree, epoch int64) (*fat, error) {
	v := &fat{size: size, clusterSize: sectorSize, id: uint32(epoch), label: [11]byte([]byte("           "))}
	copy(v.label[:], label)
	if size > 260<<20 {
		v.clusterSize = blockSize
	}
	v.clock, v.date = fatTime(epoch)
	perCluster := v.clusterSize / sectorSize
	for {
		v.clusters = (size/sectorSize - fatReserved - 2*v.sectorsPerFAT) / perCluster
		need := alignUp((v.clusters+fatRoot)*4, sectorSize) / sectorSize
		if v.sectorsPerFAT >= need {
			break
		}
		v.sectorsPerFAT++
	}
	byPath := map[string]*node{}
	for _, f := range files.Files() {
		n := &node{file: f}
		if f.Path != "." {
			n.parent = byPath[path.Dir(f.Path)]
			n.parent.children = append(n.parent.children, n)
		}
		byPath[f.Path] = n
		v.nodes = append(v.nodes, n)
	}
	for _, n := range v.nodes {
		nameChildren(n)
	}
	for _, n := range v.nodes {
		bytes := n.file.Size()
		if n.file.IsDir() {
			entries := n.entries()
			if entries > fatMaxEntries {
				return nil, fmt.Errorf("/%s: a directory of %d entries", n.file.Path, entries)
			}
			bytes = entries * fatEntry
		}
		if n.count = alignUp(bytes, v.clusterSize) / v.clusterSize; n.count > 0 {
			n.cluster = fatRoot + v.used
		}
		v.used += n.count
	}
	if v.used > v.clusters {
		return nil, fmt.Errorf("files of %d bytes do not fit into the %d bytes that there are", v.used*v.clusterSize, v.clusters*v.clusterSize)
	}
	return v, nil
}

func (v *fat) offset(cluster int64) int64 {
	return (fatReserved+2*v.sectorsPerFAT)*sectorSize + max(cluster-fatRoot, 0)*v.clusterSize
}

func (v *fat) bootSector() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "\xeb\x58\x90HOLDFAST")
	le.PutUint16(b[11:], uint16(sectorSize))
	b[13] = byte(v.clusterSize / sectorSize)
	le.PutUint16(b[14:], fatReserved)
	b[16] = 2                 // tables
	b[21] = 0xf8              // a fixed disk
	le.PutUint16(b[24:], 63)  // sectors a track, and
	le.PutUint16(b[26:], 255) // heads, as all disks say
	le.PutUint32(b[32:], uint32(v.size/sectorSize))
	le.PutUint32(b[36:], uint32(v.sectorsPerFAT))
	le.PutUint32(b[44:], fatRoot)
	le.PutUint16(b[48:], 1) // the information sector
	le.PutUint16(b[50:], fatBackup)
	b[64] = 0x80 // the first disk
	b[66] = 0x29 // the next three fields are there
	le.PutUint32(b[67:], v.id)
	copy(b[71:82], v.label[:])
	copy(b[82:90], "FAT32   ")
	le.PutUint16(b[510:], 0xaa55)
	return b
}

func (v *fat) infoSector() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	le.PutUint32(b[488:], uint32(v.clusters-v.used))
	le.PutUint32(b[492:], uint32(fatRoot+v.used-1))
	le.PutUint32(b[508:], 0xaa550000)
	return b
}

// table is the file allocation table.
func (v *fat) table() []byte {
	b := make([]byte, v.sectorsPerFAT*sectorSize)
	le := binary.LittleEndian
	le.PutUint32(b, 0x0ffffff8)
	le.PutUint32(b[4:], fatEndOfChain)
	for _, n := range v.nodes {
		for c := n.cluster; c < n.cluster+n.count; c++ {
			next := uint32(c + 1)
			if c == n.cluster+n.count-1 {
				next = fatEndOfChain
			}
			le.PutUint32(b[c*4:], next)
		}
	}
	return b
}

// directory is the content of the directory n, in whole clusters.
func (v *fat) directory(n *node) []byte {
	b := make([]byte, 0, n.count*v.clusterSize)
	if n.parent == nil {
		b = v.appendEntry(b, v.label, fatLabelEntry, 0, 0)
	} else {
		up := n.parent.cluster
		if n.parent.parent == nil {
			up = 0 // so FAT names the root
		}
		b = v.appendEntry(b, [11]byte([]byte(".          ")), fatDirectory, n.cluster, 0)
		b = v.appendEntry(b, [11]byte([]byte("..         ")), fatDirectory, up, 0)
	}
	for _, c := range n.children {
		b = appendLongName(b, c)
		if c.file.IsDir() {
			b = v.appendEntry(b, c.short, fatDirectory, c.cluster, 0)
		} else {
			b = v.appendEntry(b, c.short, fatArchive, c.cluster, c.file.Size())
		}
	}
	return b[:cap(b)]
}

func (v *fat) appendEntry(b []byte, name [11]byte, attributes byte, cluster, size int64) []byte {
	e := make([]byte, fatEntry)
	le := binary.LittleEndian
	copy(e, name[:])
	e[11] = attributes
	le.PutUint16(e[14:], v.clock)
	le.PutUint16(e[16:], v.date)
	le.PutUint16(e[18:], v.date)
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[22:], v.clock)
	le.PutUint16(e[24:], v.date)
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], uint32(size))
	return append(b, e...)
}

// entries is the number of entries of the directory n.
func (n *node) entries() int64 {
	count := 2 // itself and its parent; the label, in the root
	for _, c := range n.children {
		count += 1 + longEntries(c)
	}
	return int64(count)
}

const longPerEntry = 13 // characters

// longEntries is the number of entries that hold the long name of n.
func longEntries(n *node) int {
	name := path.Base(n.file.Path)
	if short, ok := shortForm(name); ok && short == n.short && strings.ToUpper(name) == name {
		return 0
	}
	return (len(name) + longPerEntry - 1) / longPerEntry
}

// appendLongName appends the entries of n's long name, the last part first.
func appendLongName(b []byte, n *node) []byte {
	name := path.Base(n.file.Path)
	var sum byte
	for _, c := range n.short {
		sum = sum<<7 + sum>>1 + c
	}
	last := longEntries(n)
	for seq := last; seq > 0; seq-- {
		e := make([]byte, fatEntry)
		e[0] = byte(seq)
		if seq == last {
			e[0] |= 0x40
		}
		e[11] = fatLongEntry
		e[13] = sum
		for i, at := range [longPerEntry]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			unit := uint16(0xffff) // behind the zero that ends a name
			switch k := (seq-1)*longPerEntry + i; {
			case k < len(name):
				unit = uint16(name[k])
			case k == len(name):
				unit = 0
			}
			binary.LittleEndian.PutUint16(e[at:], unit)
		}
		b = append(b, e...)
	}
	return b
}

// nameChildren gives short names: first to those that have one by themselves,
// then numbered ones to the rest.
func nameChildren(n *node) {
	taken := map[[11]byte]bool{}
	var rest []*node
	for _, c := range n.children {
		short, ok := shortForm(path.Base(c.file.Path))
		if !ok || taken[short] {
			rest = append(rest, c)
			continue
		}
		c.short = short
		taken[short] = true
	}
	for _, c := range rest {
		for i := 1; ; i++ {
			c.short = numberedName(path.Base(c.file.Path), i)
			if !taken[c.short] {
				break
			}
		}
		taken[c.short] = true
	}
}

const shortCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~"

// shortForm is the name in capitals, if that is a name of 8 and 3 characters.
func shortForm(name string) (short [11]byte, ok bool) {
	stem, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	if len(stem) == 0 || len(stem) > 8 || len(ext) > 3 || strings.Trim(stem+ext, shortCharacters) != "" || strings.HasSuffix(name, ".") {
		return short, false
	}
	copy(short[:], fmt.Sprintf("%-8s%-3s", stem, ext))
	return short, true
}

// numberedName is the i-th short name that may stand for a long one.
func numberedName(name string, i int) (short [11]byte) {
	clean := func(s string, n int) string {
		s = strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '.':
				return -1
			case !strings.ContainsRune(shortCharacters, r):
				return '_'
			}
			return r
		}, strings.ToUpper(s))
		return s[:min(len(s), n)]
	}
	stem, ext := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		stem, ext = name[:dot], name[dot+1:]
	}
	tail := fmt.Sprintf("~%d", i)
	copy(short[:], fmt.Sprintf("%-8s%-3s", clean(stem, 8-len(tail))+tail, clean(ext, 3)))
	return short
}
