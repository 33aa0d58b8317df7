package update

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/signing"
)

// Admit says whether a release may follow the running one on this node; the
// error has every reason why not.
func (m Machine) Admit(policy signing.Policy, running, candidate *bundles.Verified) error {
	ref := install.RefOf(running)
	s, err := m.load(ref)
	if err != nil {
		return err
	}
	n := install.Node{Policy: policy, Confirmed: s.Confirmed, Have: m.Layouts}
	idle, err := m.idleSlot(ref)
	if err != nil {
		return err
	}
	n.SlotRoot, n.SlotVerity = idle.Root.Size, idle.Verity.Size
	if n.VarFree, err = free(filepath.Dir(m.Store)); err != nil {
		return err
	}
	if n.ESPFree, err = m.espFree(running.Facts().Release); err != nil {
		return err
	}
	if m.Datastore != "" {
		if n.Datastore, err = sizeOf(m.datastore()); err != nil {
			return err
		}
	}
	return install.Admit(n, running, candidate)
}

// Plan says what the update would change.
func (m Machine) Plan(running, candidate *bundles.Verified) (install.Plan, error) {
	s, err := m.load(install.RefOf(running))
	if err != nil {
		return install.Plan{}, err
	}
	return install.MakePlan(s, m.Layouts, running, candidate)
}

func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot tell the space in %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// espFree is the room on the ESP once only keep's entry is left.
func (m Machine) espFree(keep uint64) (int64, error) {
	n, err := free(m.path(ESP))
	if err != nil {
		return 0, err
	}
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		if uint64(e.Release) == keep {
			continue
		}
		size, err := sizeOf(filepath.Join(m.path(ESP), slot.EntryDir, e.Name()))
		if err != nil {
			return 0, err
		}
		n += size
	}
	return n, nil
}

// sizeOf is what the files of a tree take.
func sizeOf(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("cannot tell the size of %s: %w", dir, err)
	}
	return n, nil
}
