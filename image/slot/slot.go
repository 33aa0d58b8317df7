// Package slot deals with what a node can boot: the two slots of root and
// verity partition, the partition table that names them, the boot entries on
// the EFI system partition, and a judge that reads a disk as firmware, boot
// loader and initial RAM disk do. docs/updates.md is the contract.
package slot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/verity"
)

// Slot is a place for one root with its verity tree.
type Slot struct {
	Name         string // "a" or "b"
	Root, Verity disk.Partition
}

// Slots finds the slots among a disk's partitions, a before b, by their labels:
// holdfast-root-a, holdfast-verity-a and so on.
func Slots(parts []disk.Partition) ([]Slot, error) {
	var errs []error
	find := func(label, kind string) disk.Partition {
		var found []disk.Partition
		for _, p := range parts {
			if p.Name == label {
				found = append(found, p)
			}
		}
		switch {
		case len(found) != 1:
			errs = append(errs, fmt.Errorf("%d partitions %s", len(found), label))
			return disk.Partition{}
		case !strings.EqualFold(found[0].TypeGUID, kind):
			errs = append(errs, fmt.Errorf("partition %s has type %s, want %s", label, found[0].TypeGUID, kind))
		}
		return found[0]
	}
	var out []Slot
	for _, name := range []string{"a", "b"} {
		out = append(out, Slot{
			Name:   name,
			Root:   find("holdfast-root-"+name, disk.TypeRootX86),
			Verity: find("holdfast-verity-"+name, disk.TypeRootX86Verity),
		})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("cannot find slots: %w", err)
	}
	return out, nil
}

// Find returns the slot whose identifiers are those of the root hash, 64
// hexadecimal digits.
func Find(slots []Slot, rootHash string) (Slot, bool) {
	root, tree, err := guids(rootHash)
	if err != nil {
		return Slot{}, false
	}
	for _, s := range slots {
		if strings.EqualFold(s.Root.PartGUID, root) && strings.EqualFold(s.Verity.PartGUID, tree) {
			return s, true
		}
	}
	return Slot{}, false
}

// Idle returns the slot that does not hold the running root.
func Idle(slots []Slot, runningRootHash string) (Slot, error) {
	running, ok := Find(slots, runningRootHash)
	if !ok {
		return Slot{}, fmt.Errorf("cannot tell which slot is idle: none has the running root hash %q", runningRootHash)
	}
	for _, s := range slots {
		if s.Name != running.Name {
			return s, nil
		}
	}
	return Slot{}, errors.New("cannot tell which slot is idle: there is only one")
}

// Check reads the whole slot and returns an error unless it is what the root
// hash stands for; that error wraps verity.ErrMismatch, any other means that
// the slot could not be read.
func Check(ctx context.Context, r io.ReaderAt, s Slot, rootHash string) error {
	hash, err := parseHash(rootHash)
	if err != nil {
		return err
	}
	data := contextReader{ctx, io.NewSectionReader(r, s.Root.Start, s.Root.Size)}
	tree := contextReader{ctx, io.NewSectionReader(r, s.Verity.Start, s.Verity.Size)}
	if err := check(data, tree, s.Root.Size, hash); err != nil {
		return fmt.Errorf("cannot trust slot %s: %w", s.Name, err)
	}
	return nil
}

func check(data, tree io.ReaderAt, room int64, hash [32]byte) error {
	size, err := verity.DataSize(tree)
	if err != nil {
		return err
	}
	if size > room {
		return fmt.Errorf("%w: it is said to have %d bytes, the partition has %d", verity.ErrMismatch, size, room)
	}
	return verity.Verify(data, tree, size, hash)
}

// SetGUIDs gives the slot on a disk of size bytes the identifiers of the root
// hash, so that it is found from then on. A power cut leaves the old or the new
// ones.
func SetGUIDs(dev disk.Device, size int64, s Slot, rootHash string) error {
	root, tree, err := guids(rootHash)
	if err != nil {
		return err
	}
	return disk.SetGUIDs(dev, size, map[string]string{s.Root.Name: root, s.Verity.Name: tree})
}

// RepairTable mends the partition table that a power cut left, and says which
// of its copies it wrote: "primary", "backup" or "" for none.
func RepairTable(dev disk.Device, size int64) (which string, err error) {
	return disk.RepairGPT(dev, size)
}

// Size is the size in bytes of a block device or file.
func Size(dev io.Seeker) (int64, error) {
	n, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("cannot find size: %w", err)
	}
	return n, nil
}

func parseHash(s string) (h [32]byte, err error) {
	if len(s) != 64 || strings.ToLower(s) != s {
		return h, fmt.Errorf("root hash %q is not 64 hexadecimal digits", s)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return h, fmt.Errorf("root hash %q: %w", s, err)
	}
	return h, nil
}

func guids(rootHash string) (root, tree string, err error) {
	h, err := parseHash(rootHash)
	if err != nil {
		return "", "", err
	}
	root, tree = disk.RootGUIDs(h)
	return root, tree, nil
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	io.ReaderAt
}

func (r contextReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(p, off)
}
