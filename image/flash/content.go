package flash

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"holdfast.dev/holdfast/image/disk"
)

// Content is what a disk holds, so that its owner may recognize it.
type Content struct {
	Table      string   `json:"table,omitempty"` // gpt or mbr
	Partitions []Volume `json:"partitions,omitempty"`
	Whole      *Volume  `json:"whole,omitempty"` // without a partition table
	Fault      string   `json:"fault,omitempty"` // why it could not be read
}

// Volume is a partition, or a disk without any.
type Volume struct {
	Name  string `json:"name,omitempty"` // in the partition table
	Kind  string `json:"kind,omitempty"` // of file system, or what else it is for; empty if not known
	Label string `json:"label,omitempty"`
	Size  int64  `json:"size"`
}

// String is the content in one line.
func (c Content) String() string {
	switch {
	case c.Fault != "":
		return "cannot be read: " + c.Fault
	case c.Whole != nil:
		return c.Whole.String()
	case c.Table == "":
		return "nothing known"
	case len(c.Partitions) == 0:
		return c.Table + ", no partitions"
	}
	var parts []string
	for _, p := range c.Partitions {
		parts = append(parts, p.String())
	}
	return c.Table + ": " + strings.Join(parts, ", ")
}

func (v Volume) String() string {
	var words []string
	if v.Name != "" {
		words = append(words, v.Name)
	}
	kind := v.Kind
	if kind == "" && v.Name == "" {
		kind = "unknown"
	}
	if v.Label != "" && v.Label != v.Name {
		kind = strings.TrimSpace(fmt.Sprintf("%s %q", kind, v.Label))
	}
	switch {
	case kind != "" && v.Name != "":
		words = append(words, "("+kind+")")
	case kind != "":
		words = append(words, kind)
	}
	return strings.Join(words, " ")
}

// magic is bytes by which a kind of content is known, and where its label is.
type magic struct {
	at    int
	bytes string
	kind  string
	label [2]int // where, and how long
}

// magics: where two fit, the first counts.
var magics = [...]magic{
	{0, "LUKS\xba\xbe", "luks", [2]int{24, 48}},
	{512, "LABELONE", "lvm", [2]int{}},
	{0, "LABELONE", "lvm", [2]int{}},
	{4096, "\xfc\x4e\x2b\xa9", "raid", [2]int{4096 + 32, 32}},
	{0, "\xfc\x4e\x2b\xa9", "raid", [2]int{32, 32}},
	{0x10040, "_BHRfS_M", "btrfs", [2]int{0x1012b, 256}},
	{4086, "SWAPSPACE2", "swap", [2]int{1052, 16}},
	{4086, "SWAP-SPACE", "swap", [2]int{}},
	{0, "XFSB", "xfs", [2]int{108, 12}},
	{0, "hsqs", "squashfs", [2]int{}},
	{1024, "\xe2\xe1\xf5\xe0", "erofs", [2]int{1024 + 64, 16}},
	{0x8001, "CD001", "iso9660", [2]int{0x8028, 32}},
	{1080, "\x53\xef", "ext", [2]int{1144, 16}},
	{4096, "\x10\x20\xf5\xf2", "f2fs", [2]int{}},
	{1024, "\x10\x20\xf5\xf2", "f2fs", [2]int{}},
	{82, "FAT32   ", "vfat", [2]int{71, 11}},
	{54, "FAT16   ", "vfat", [2]int{43, 11}},
	{54, "FAT12   ", "vfat", [2]int{43, 11}},
	{3, "NTFS    ", "ntfs", [2]int{}},
	{3, "EXFAT   ", "exfat", [2]int{}},
	{3, "-FVE-FS-", "bitlocker", [2]int{}},
}

// peeked is how much of a volume is looked at.
const peeked = 0x10040 + 512

// ReadContent looks at a disk of size bytes: its partition table and the first
// bytes of each partition. What it does not know is no error.
func ReadContent(r io.ReaderAt, size int64) Content {
	if parts, err := disk.ReadGPT(r, size); err == nil {
		c := Content{Table: "gpt"}
		for _, p := range parts {
			v := volume(r, p.Start, p.Size)
			v.Name = clean(p.Name)
			c.Partitions = append(c.Partitions, v)
		}
		return c
	}
	whole := volume(r, 0, size)
	if whole.Kind != "" {
		return Content{Whole: &whole}
	}
	return mbr(r, size)
}

// mbr reads the table of the first sector. Logical partitions are not
// followed: their container is one.
func mbr(r io.ReaderAt, size int64) Content {
	b := make([]byte, 512)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return Content{Fault: err.Error()}
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return Content{}
	}
	c := Content{Table: "mbr"}
	for e := b[446:510]; len(e) > 0; e = e[16:] {
		start, length := int64(binary.LittleEndian.Uint32(e[8:]))*512, int64(binary.LittleEndian.Uint32(e[12:]))*512
		if e[4] == 0 || length == 0 || start > size {
			continue
		}
		v := volume(r, start, min(length, size-start))
		if v.Kind == "" {
			v.Kind = fmt.Sprintf("type 0x%02x", e[4])
		}
		c.Partitions = append(c.Partitions, v)
	}
	return c
}

// volume recognizes what begins at an offset.
func volume(r io.ReaderAt, at, size int64) Volume {
	v := Volume{Size: size}
	b := make([]byte, min(peeked, size))
	n, _ := r.ReadAt(b, at) // what cannot be read is not known
	b = b[:n]
	for _, m := range magics {
		if m.at+len(m.bytes) > len(b) || string(b[m.at:m.at+len(m.bytes)]) != m.bytes {
			continue
		}
		v.Kind = m.kind
		if from, to := m.label[0], m.label[0]+m.label[1]; to <= len(b) {
			label, _, _ := bytes.Cut(b[from:to], []byte{0})
			v.Label = strings.TrimSpace(clean(strings.ToValidUTF8(string(label), "")))
		}
		break
	}
	return v
}
