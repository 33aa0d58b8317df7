// Package disk writes disk images as files: a GPT with its partitions, a FAT32
// EFI system partition, and the qcow2 form of a raw image. All of them are
// deterministic, sparse, and appear under their name only when they are whole.
//
// Partition types and the identifiers of verity partitions are those of the
// UAPI Group's Discoverable Partitions Specification.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// Partition types.
const (
	TypeESP           = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	TypeRootX86       = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" // x86-64
	TypeRootX86Verity = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5" // x86-64
	TypeVar           = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"
	TypeLinux         = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	AttributeReadOnly = uint64(1) << 60
	AttributeNoAuto   = uint64(1) << 63
	Alignment         = int64(1) << 20 // of partitions, in bytes
	sectorSize        = int64(512)
	blockSize         = int64(4096) // of what is a hole or not
	maxDiskSize       = int64(1) << 41
	maxPartitions     = 128
	maxPartitionName  = 36
	tableTail         = 33 * sectorSize // the backup table at the disk's end
)

// Layout is a disk to write.
type Layout struct {
	GUID       string
	Size       int64 // bytes; 0 means just enough
	Partitions []Partition
}

// Partition is one of a disk's partitions. Their order in a Layout is that on
// the disk.
type Partition struct {
	Name               string // the label, at most 36 printable ASCII characters
	TypeGUID, PartGUID string // 36 characters, in lower or upper case
	Start              int64  // bytes; ReadGPT sets it, Write computes it
	Size               int64  // bytes, a multiple of 4096
	Attributes         uint64

	// Content writes what the partition holds; nil leaves it empty. A write
	// outside of the partition is an error.
	Content func(io.WriterAt) error
}

// RootGUIDs are the identifiers by which a root partition and its verity
// partition are found from the root hash: its first and its last 16 bytes.
func RootGUIDs(rootHash [32]byte) (root, verity string) {
	return uuid.UUID(rootHash[:16]).String(), uuid.UUID(rootHash[16:]).String()
}

// Write makes a raw disk image at path. It reports all faults of the layout at
// once. Blocks of zeros become holes of the file.
func Write(path string, l Layout) error {
	parts, size, err := place(l)
	if err != nil {
		return fmt.Errorf("cannot write disk %s: %w", path, err)
	}
	return create(path, func(f *os.File) error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		for _, p := range parts {
			if p.Content == nil {
				continue
			}
			if err := p.Content(&section{f, p.Start, p.Size}); err != nil {
				return fmt.Errorf("partition %s: %w", p.Name, err)
			}
		}
		return writeTable(f, l.GUID, size, parts)
	})
}

// place gives the partitions their places, and the disk its size.
func place(l Layout) ([]Partition, int64, error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	guids := map[string]string{}
	checkGUID := func(what, s string) {
		if _, err := uuid.Parse(s); err != nil || len(s) != 36 {
			fault("%s: %q is not a GUID", what, s)
		}
	}
	checkGUID("disk", l.GUID)
	if len(l.Partitions) > maxPartitions {
		fault("%d partitions, more than %d", len(l.Partitions), maxPartitions)
	}
	out := make([]Partition, len(l.Partitions))
	names := map[string]bool{}
	at := Alignment
	for i, p := range l.Partitions {
		if !isName(p.Name) {
			fault("partition %d: name %q is not 1 to %d printable characters", i+1, p.Name, maxPartitionName)
		}
		if names[p.Name] {
			fault("partition %d: a second %s", i+1, p.Name)
		}
		names[p.Name] = true
		checkGUID("partition "+p.Name, p.TypeGUID)
		checkGUID("partition "+p.Name, p.PartGUID)
		if other, ok := guids[strings.ToLower(p.PartGUID)]; ok {
			fault("partition %s: same GUID as %s", p.Name, other)
		}
		guids[strings.ToLower(p.PartGUID)] = p.Name
		if p.Size <= 0 || p.Size%blockSize != 0 || p.Size > maxDiskSize {
			fault("partition %s: size %d is not a number of blocks of %d bytes", p.Name, p.Size, blockSize)
			continue
		}
		p.Start = at
		out[i] = p
		at = min(alignUp(at+p.Size, Alignment), 2*maxDiskSize)
	}
	size := l.Size
	if size == 0 {
		size = at + Alignment
	}
	end := Alignment
	if len(out) > 0 {
		end = out[len(out)-1].Start + out[len(out)-1].Size
	}
	if end+tableTail > size {
		fault("partitions need %d bytes, the disk has %d", alignUp(end, Alignment)+Alignment, size)
	}
	if size%blockSize != 0 || size < 2*Alignment || size > maxDiskSize {
		fault("size %d is not a number of blocks of %d bytes, from %d to %d", size, blockSize, 2*Alignment, maxDiskSize)
	}
	return out, size, errors.Join(errs...)
}

func isName(s string) bool {
	return len(s) > 0 && len(s) <= maxPartitionName && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func writeTable(f *os.File, guid string, size int64, parts []Partition) error {
	t := gpt.Table{
		LogicalSectorSize:  int(sectorSize),
		PhysicalSectorSize: int(sectorSize),
		GUID:               guid,
		ProtectiveMBR:      true,
	}
	for i, p := range parts {
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index:      i + 1,
			Start:      uint64(p.Start / sectorSize),
			End:        uint64((p.Start+p.Size)/sectorSize - 1),
			Size:       uint64(p.Size),
			Type:       gpt.Type(strings.ToUpper(p.TypeGUID)),
			Name:       p.Name,
			GUID:       p.PartGUID,
			Attributes: p.Attributes,
		})
	}
	w, err := file.New(f, false).Writable()
	if err != nil {
		return err
	}
	return t.Write(w, size)
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
