package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/slot"
)

// open opens the disk; write says whether for writing too.
func (m Machine) open(write bool) (*os.File, []slot.Slot, int64, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(m.Device, flag, 0)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("cannot open the disk: %w", err)
	}
	size, err := slot.Size(f)
	var slots []slot.Slot
	if err == nil {
		var parts []disk.Partition
		if parts, err = disk.ReadGPT(f, size); err == nil {
			slots, err = slot.Slots(parts)
		}
	}
	if err != nil {
		return nil, nil, 0, errors.Join(err, f.Close())
	}
	return f, slots, size, nil
}

func (m Machine) idleSlot(running install.Ref) (slot.Slot, error) {
	f, slots, _, err := m.open(false)
	if err != nil {
		return slot.Slot{}, err
	}
	defer f.Close()
	return slot.Idle(slots, running.RootHash)
}

func named(slots []slot.Slot, name string) (slot.Slot, error) {
	for _, s := range slots {
		if s.Name == name {
			return s, nil
		}
	}
	return slot.Slot{}, fmt.Errorf("internal error: no slot %q", name)
}

// fill writes the release's root into a slot.
func (m Machine) fill(ctx context.Context, name string, to install.Ref) error {
	v, err := m.release(to)
	if err != nil {
		return err
	}
	root, err := unpacked(v, bundles.RootErofs)
	if err != nil {
		return err
	}
	tree, err := unpacked(v, bundles.RootVerity)
	if err != nil {
		return err
	}
	f, slots, _, err := m.open(true)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := named(slots, name)
	if err != nil {
		return err
	}
	return slot.Fill(ctx, f, s, root, tree, func(done, total int64) { m.Progress("slot "+name, done, total) })
}

// unpacked is a file of the OS part as it goes onto the disk.
func unpacked(v *bundles.Verified, title string) (slot.Source, error) {
	c, open, err := install.Raw(v, title)
	return slot.Source{Raw: c, Open: open}, err
}

// WithRoot lets the running release be the base of differences: its root is in
// its slot, and not in the seed store.
func (m Machine) WithRoot(v *bundles.Verified) *bundles.Verified {
	return v.WithRoot(func() (io.ReadCloser, error) {
		c, _, err := install.Raw(v, bundles.RootErofs)
		if err != nil {
			return nil, err
		}
		f, slots, _, err := m.open(false)
		if err != nil {
			return nil, err
		}
		s, ok := slot.Find(slots, v.RootHash())
		if !ok {
			return nil, errors.Join(fmt.Errorf("no slot holds the root of release %d", v.Facts().Release), f.Close())
		}
		return section{io.NewSectionReader(f, s.Root.Start, min(c.Size, s.Root.Size)), f}, nil
	})
}

// section reads a part of a file.
type section struct {
	io.Reader
	io.Closer
}

func (m Machine) setTable(name string, to install.Ref) error {
	f, slots, size, err := m.open(true)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := named(slots, name)
	if err != nil {
		return err
	}
	return slot.SetGUIDs(f, size, s, to.RootHash)
}

// check reads the whole slot that has r's root.
func (m Machine) check(ctx context.Context, r install.Ref) error {
	f, slots, _, err := m.open(false)
	if err != nil {
		return err
	}
	defer f.Close()
	s, ok := slot.Find(slots, r.RootHash)
	if !ok {
		return fmt.Errorf("no slot holds the root of release %s", r)
	}
	return slot.Check(ctx, f, s, r.RootHash)
}

// Normalize cleans up the unmounted ESP behind a power cut, and says which files
// it removed. Mounted, two names of one file would free each other's content.
func (m Machine) Normalize(partition string) (removed []string, err error) {
	f, err := os.OpenFile(partition, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the EFI system partition: %w", err)
	}
	defer f.Close()
	size, err := slot.Size(f)
	if err != nil {
		return nil, err
	}
	return slot.Normalize(f, disk.Partition{Name: "holdfast-esp", Size: size})
}

// RepairTable mends a partition table that a power cut tore.
func (m Machine) RepairTable() (which string, err error) {
	f, err := os.OpenFile(m.Device, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot open the disk: %w", err)
	}
	defer f.Close()
	size, err := slot.Size(f)
	if err != nil {
		return "", err
	}
	return slot.RepairTable(f, size)
}
