package disk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"

	"github.com/google/uuid"
)

const (
	gptHeaderSize = 92
	gptEntrySize  = 128
	maxEntries    = 1024
)

// ReadGPT reads the partition table of a disk of size bytes with sectors of
// 512 bytes: the first of its two copies or, if that is damaged, the other.
// GUIDs are in lower case; Content is nil.
func ReadGPT(r io.ReaderAt, size int64) ([]Partition, error) {
	if size < 3*sectorSize || size%sectorSize != 0 {
		return nil, fmt.Errorf("cannot read partition table: a disk of %d bytes", size)
	}
	last := size/sectorSize - 1
	parts, err := readGPT(r, 1, last)
	if err == nil {
		return parts, nil
	}
	parts, err2 := readGPT(r, last, last)
	if err2 != nil {
		return nil, fmt.Errorf("cannot read partition table: %w", errors.Join(err, fmt.Errorf("backup: %w", err2)))
	}
	return parts, nil
}

// readGPT reads the copy of the table whose header is in sector at.
func readGPT(r io.ReaderAt, at, last int64) ([]Partition, error) {
	h := make([]byte, sectorSize)
	if err := readFull(r, h, at*sectorSize); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if string(h[:8]) != "EFI PART" {
		return nil, errors.New("no GPT")
	}
	if n := le.Uint32(h[12:]); n != gptHeaderSize {
		return nil, fmt.Errorf("header of %d bytes", n)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h[:gptHeaderSize]) != sum {
		return nil, errors.New("header with a wrong checksum")
	}
	first, end := le.Uint64(h[40:]), le.Uint64(h[48:])
	table, count, entry := le.Uint64(h[72:]), int64(le.Uint32(h[80:])), le.Uint32(h[84:])
	switch {
	case le.Uint64(h[24:]) != uint64(at):
		return nil, errors.New("header in the wrong sector")
	case first > end || end > uint64(last) || table > uint64(last):
		return nil, errors.New("header names sectors that the disk has not")
	case count == 0 || count > maxEntries || entry != gptEntrySize:
		return nil, fmt.Errorf("%d entries of %d bytes", count, entry)
	}
	b := make([]byte, count*gptEntrySize)
	if err := readFull(r, b, int64(table)*sectorSize); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(b) != le.Uint32(h[88:]) {
		return nil, errors.New("entries with a wrong checksum")
	}
	return parseEntries(b, first, end)
}

func parseEntries(b []byte, first, end uint64) ([]Partition, error) {
	var out []Partition
	le := binary.LittleEndian
	for ; len(b) > 0; b = b[gptEntrySize:] {
		if bytes.Equal(b[:16], zeros[:16]) {
			continue
		}
		from, to := le.Uint64(b[32:]), le.Uint64(b[40:])
		if from < first || to > end || from > to {
			return nil, fmt.Errorf("a partition from sector %d to %d, outside of %d to %d", from, to, first, end)
		}
		out = append(out, Partition{
			Name:       parseName(b[56:gptEntrySize]),
			TypeGUID:   parseGUID(b[:16]),
			PartGUID:   parseGUID(b[16:32]),
			Start:      int64(from) * sectorSize,
			Size:       int64(to-from+1) * sectorSize,
			Attributes: le.Uint64(b[48:]),
		})
	}
	byStart := slices.SortedFunc(slices.Values(out), func(a, b Partition) int { return cmp.Compare(a.Start, b.Start) })
	for i := 1; i < len(byStart); i++ {
		if a, b := byStart[i-1], byStart[i]; a.Start+a.Size > b.Start {
			return nil, fmt.Errorf("partitions %q and %q overlap", a.Name, b.Name)
		}
	}
	return out, nil
}

// parseGUID turns the bytes of a GUID on disk, whose first three numbers are
// little-endian, into its usual form.
func parseGUID(b []byte) string {
	u := uuid.UUID(b)
	slices.Reverse(u[0:4])
	slices.Reverse(u[4:6])
	slices.Reverse(u[6:8])
	return u.String()
}

func parseName(b []byte) string {
	var units []uint16
	for ; len(b) > 0; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// readFull reads all of b; a disk that ends before is an error.
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
