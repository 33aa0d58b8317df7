package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/google/uuid"
)

// Device is a disk, or a file that stands for one.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// table is one copy of a partition table, as its bytes.
type table struct {
	header  []byte // one sector
	entries []byte // whole sectors
	at      int64  // sector of the entries
	length  int64  // of what is used of entries
}

// SetGUIDs gives the partitions that the keys name new identifiers. A power cut
// at any sector leaves a disk that ReadGPT, and so firmware and kernel, read
// with either all the old identifiers or all the new ones: the backup table, in
// the disk's last sectors, is written and flushed while the first one is valid,
// then the first one. Only sectors that change are written.
func SetGUIDs(dev Device, size int64, guids map[string]string) error {
	if err := setGUIDs(dev, size, guids); err != nil {
		return fmt.Errorf("cannot change partition table: %w", err)
	}
	return nil
}

func setGUIDs(dev Device, size int64, guids map[string]string) error {
	if _, err := RepairGPT(dev, size); err != nil {
		return err
	}
	t, parts, err := readTable(dev, 1, size/sectorSize-1)
	if err != nil {
		return err
	}
	t.entries = bytes.Clone(t.entries)
	var errs []error
	done := map[string]bool{}
	for i := int64(0); i < t.length; i += gptEntrySize {
		e := t.entries[i : i+gptEntrySize]
		name := parseName(e[56:])
		guid, ok := guids[name]
		if !ok || bytes.Equal(e[:16], zeros[:16]) {
			continue
		}
		u, err := uuid.Parse(guid)
		if err != nil || len(guid) != 36 {
			errs = append(errs, fmt.Errorf("partition %s: %q is not a GUID", name, guid))
		}
		if done[name] {
			errs = append(errs, fmt.Errorf("a second partition %s", name))
		}
		for _, p := range parts {
			if _, changes := guids[p.Name]; !changes && strings.EqualFold(p.PartGUID, guid) {
				errs = append(errs, fmt.Errorf("partition %s: %s is that of %s", name, guid, p.Name))
			}
		}
		done[name] = true
		putGUID(e[16:32], u)
	}
	for name := range guids {
		if !done[name] {
			errs = append(errs, fmt.Errorf("no partition %s", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return writeBoth(dev, size, t, parts)
}

// RepairGPT makes a disk's two tables one again, and says which of them it
// wrote: "primary" when only the backup in the disk's last sector was valid,
// "backup" when that was damaged, elsewhere, or differed; "" when there was
// nothing to do. Where both are valid the first one counts, as it does for
// firmware and kernel.
func RepairGPT(dev Device, size int64) (which string, err error) {
	if size < 3*sectorSize || size%sectorSize != 0 {
		return "", fmt.Errorf("cannot repair partition table: a disk of %d bytes", size)
	}
	last := size/sectorSize - 1
	t, parts, err := readTable(dev, 1, last)
	if err == nil {
		changed, err := writeBackup(dev, size, t, parts)
		if err != nil {
			return "", fmt.Errorf("cannot repair partition table: %w", err)
		}
		if changed || int64(binary.LittleEndian.Uint64(t.header[32:])) != last {
			which = "backup"
		}
		if _, err := writePrimary(dev, size, t, parts); err != nil {
			return "", fmt.Errorf("cannot repair partition table: %w", err)
		}
		return which, nil
	}
	t, parts, err2 := readTable(dev, last, last)
	if err2 != nil {
		return "", fmt.Errorf("cannot repair partition table: %w", errors.Join(err, fmt.Errorf("backup: %w", err2)))
	}
	if _, err := writePrimary(dev, size, t, parts); err != nil {
		return "", fmt.Errorf("cannot repair partition table: %w", err)
	}
	return "primary", nil
}

// readTable reads the copy of the table whose header is in sector at.
func readTable(r io.ReaderAt, at, last int64) (table, []Partition, error) {
	parts, err := readGPT(r, at, last)
	if err != nil {
		return table{}, nil, err
	}
	t := table{header: make([]byte, sectorSize)}
	if err := readFull(r, t.header, at*sectorSize); err != nil {
		return table{}, nil, err
	}
	le := binary.LittleEndian
	t.at = int64(le.Uint64(t.header[72:]))
	t.length = int64(le.Uint32(t.header[80:])) * gptEntrySize
	t.entries = make([]byte, alignUp(t.length, sectorSize))
	if err := readFull(r, t.entries, t.at*sectorSize); err != nil {
		return table{}, nil, err
	}
	return t, parts, nil
}

func writeBoth(dev Device, size int64, t table, parts []Partition) error {
	if _, err := writeBackup(dev, size, t, parts); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	_, err := writePrimary(dev, size, t, parts)
	return err
}

func writeBackup(dev Device, size int64, t table, parts []Partition) (changed bool, err error) {
	last := size/sectorSize - 1
	at := last - int64(len(t.entries))/sectorSize
	return writeTableAt(dev, t, parts, last, 1, at)
}

// writePrimary leaves the entries where they are, or behind the header if t is
// the backup.
func writePrimary(dev Device, size int64, t table, parts []Partition) (changed bool, err error) {
	at := t.at
	if le := binary.LittleEndian; le.Uint64(t.header[24:]) != 1 {
		at = 2
	}
	return writeTableAt(dev, t, parts, 1, size/sectorSize-1, at)
}

// writeTableAt writes t with its header in sector header, and flushes.
func writeTableAt(dev Device, t table, parts []Partition, header, other, entries int64) (changed bool, err error) {
	from, to := entries*sectorSize, entries*sectorSize+int64(len(t.entries))
	for _, p := range parts {
		if p.Start < to && from < p.Start+p.Size || p.Start <= header*sectorSize && header*sectorSize < p.Start+p.Size {
			return false, fmt.Errorf("partition %s lies where the table belongs", p.Name)
		}
	}
	if entries < 2 && header == 1 || from < 0 {
		return false, errors.New("no room for the table")
	}
	le := binary.LittleEndian
	h := bytes.Clone(t.header)
	le.PutUint64(h[24:], uint64(header))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[72:], uint64(entries))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries[:t.length]))
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
	for i := int64(0); i < int64(len(t.entries)); i += sectorSize {
		w, err := writeSector(dev, t.entries[i:i+sectorSize], from+i)
		if err != nil {
			return changed, err
		}
		changed = changed || w
	}
	w, err := writeSector(dev, h, header*sectorSize)
	if err != nil {
		return changed, err
	}
	if changed = changed || w; changed {
		if err := dev.Sync(); err != nil {
			return changed, fmt.Errorf("cannot flush: %w", err)
		}
	}
	return changed, nil
}

// writeSector writes b where the disk has other bytes.
func writeSector(dev Device, b []byte, at int64) (changed bool, err error) {
	old := make([]byte, len(b))
	// A sector that cannot be read may still take a write.
	if err := readFull(dev, old, at); err == nil && bytes.Equal(old, b) {
		return false, nil
	}
	if _, err := dev.WriteAt(b, at); err != nil {
		return true, fmt.Errorf("cannot write sector %d: %w", at/sectorSize, err)
	}
	return true, nil
}

// putGUID is the opposite of parseGUID.
func putGUID(b []byte, u uuid.UUID) {
	copy(b, u[:])
	for _, p := range [][]byte{b[0:4], b[4:6], b[6:8]} {
		for i, j := 0, len(p)-1; i < j; i, j = i+1, j-1 {
			p[i], p[j] = p[j], p[i]
		}
	}
}
