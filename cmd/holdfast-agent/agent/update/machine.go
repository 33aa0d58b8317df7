// Package update does to a node what the steps of an update ask for: boot
// entries, slots and partition table, the datastore's copy. The order of the
// steps, and what survives a power cut, is package install's;
// docs/updates.md has the table.
package update

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/image/slot"
)

// Paths on a node.
const (
	StateFile    = "/var/lib/holdfast/update.json"
	AuditFile    = "/var/lib/holdfast/audit.log"
	DatastoreDir = "/var/lib/holdfast/datastore"
	ESP          = "/run/holdfast/esp"
	Disk         = "/dev/disk/by-partlabel/holdfast-esp" // a partition of the disk that is meant
	DBCert       = "/usr/lib/holdfast/trust/db.crt"
)

// Machine is the node as the steps see it.
type Machine struct {
	Root      string // prefix of all paths; "/" on a node
	Device    string // the whole disk
	Store     string // directory that blobs are imported into
	Layouts   []string
	Datastore string   // the engine's, "" if it has none
	Beside    []string // files without which a copy of it cannot be used, as far as they are there
	Now       func() time.Time
	Progress  func(what string, done, total int64)

	// Releases are the verified releases on the node, the update's among them
	// once it is imported.
	Releases func() ([]*bundles.Verified, error)
	Stop     func(ctx context.Context) error // the engine, and every pod
	Start    func(ctx context.Context) error
	Reboot   func(ctx context.Context) error
	// TakeOver makes another release of this root the running one.
	TakeOver func(ctx context.Context, to install.Ref) error
	// Hold runs f while nothing runs that could write to the datastore.
	Hold func(ctx context.Context, f func(context.Context) error) error
}

func (m Machine) path(p string) string { return filepath.Join(m.Root, p) }

// Actions are what package install asks for. from is the release to import;
// nil at boot, when nothing is imported.
func (m Machine) Actions(running install.Ref, from *bundles.Verified) install.Actions {
	return install.Actions{
		Load: func() (install.State, error) { return m.load(running) },
		Save: func(s install.State) error { return install.WriteState(m.path(StateFile), s) },
		Record: func(e install.Event) error {
			return install.AppendAudit(m.path(AuditFile), m.Now(), e)
		},
		Now: m.Now,
		Import: func(ctx context.Context, to install.Ref) error {
			if from == nil || install.RefOf(from) != to {
				return fmt.Errorf("internal error: no bundle of release %s", to)
			}
			return m.importFrom(ctx, running, from)
		},
		Entries:     func(context.Context) (map[uint64]install.Tries, error) { return m.entries() },
		SetTries:    func(_ context.Context, n uint64, t install.Tries) error { return m.setTries(n, t) },
		RemoveEntry: func(_ context.Context, n uint64) error { return m.removeEntry(n) },
		WriteEntry:  m.writeEntry,
		Arm: func(_ context.Context, n uint64) error {
			e := slot.Entry{Release: int64(n), Counted: true, Left: int(install.FullTries)}
			return slot.Rename(m.path(ESP), slot.TempName(int64(n)), e.Name())
		},
		IdleSlot: func(_ context.Context, running install.Ref) (string, error) {
			s, err := m.idleSlot(running)
			return s.Name, err
		},
		Fill:             m.fill,
		SetTable:         func(_ context.Context, name string, to install.Ref) error { return m.setTable(name, to) },
		Check:            m.check,
		StopEngine:       m.Stop,
		StartEngine:      m.Start,
		CopyDatastore:    func(ctx context.Context, n uint64) error { return m.copyDatastore(ctx, n, stopped) },
		CopyRunning:      func(ctx context.Context, n uint64) error { return m.copyDatastore(ctx, n, m.Hold) },
		RestoreDatastore: m.restoreDatastore,
		Clean:            func(context.Context) error { return m.clean(running) },
		Reboot:           m.Reboot,
		TakeOver:         m.TakeOver,
	}
}

// load reads the state. A node that never had an update has none; one that is
// damaged is made anew, which the audit log tells.
func (m Machine) load(running install.Ref) (install.State, error) {
	s, err := install.ReadState(m.path(StateFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return install.Fresh(running, false), nil
	case errors.Is(err, install.ErrDamaged):
		s = install.Fresh(running, true)
		return s, errors.Join(
			install.AppendAudit(m.path(AuditFile), m.Now(), install.Event{What: "state made anew", To: running.Release, Index: string(running.Index), Reason: err.Error()}),
			install.WriteState(m.path(StateFile), s))
	}
	return s, err
}

// State is what update.json says, for status.
func (m Machine) State(running install.Ref) (install.State, error) { return m.load(running) }

// clean removes copies of the datastore and temporary boot entries, and then
// the blobs that only other releases than these need: the running one, the
// confirmed one, and what has a boot entry.
func (m Machine) clean(running install.Ref) error {
	errs := []error{os.RemoveAll(m.path(DatastoreDir))}
	files, err := os.ReadDir(filepath.Join(m.path(ESP), slot.EntryDir))
	errs = append(errs, err)
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".new" {
			errs = append(errs, slot.Remove(m.path(ESP), f.Name()))
		}
	}
	s, err := m.load(running)
	errs = append(errs, err)
	entries, err := m.entries()
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	keep := maps.Clone(entries)
	keep[running.Release], keep[s.Confirmed.Release] = 0, 0
	return m.sweep(keep)
}

func (m Machine) sweep(keep map[uint64]install.Tries) error {
	stored, err := bundlesIn(m.Releases, keep)
	if err != nil {
		return err
	}
	if _, err := os.Stat(m.Store); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	_, err = bundles.Sweep(m.Store, stored, m.Now().Add(-time.Hour))
	return err
}

func bundlesIn(all func() ([]*bundles.Verified, error), keep map[uint64]install.Tries) ([]*bundles.Verified, error) {
	vs, err := all()
	if len(vs) == 0 && err != nil {
		return nil, err // better to keep what nobody can judge
	}
	return slices.DeleteFunc(vs, func(v *bundles.Verified) bool {
		_, ok := keep[v.Facts().Release]
		return !ok
	}), nil
}

// importFrom brings a release's blobs into the store. Its root is not needed
// where it runs already.
func (m Machine) importFrom(ctx context.Context, running install.Ref, from *bundles.Verified) error {
	if err := os.MkdirAll(m.Store, 0o755); err != nil {
		return fmt.Errorf("cannot import: %w", err)
	}
	keep, err := m.Releases()
	if len(keep) == 0 {
		return err
	}
	return install.Import(ctx, from, install.ImportOptions{
		Have: slices.DeleteFunc(slices.Clone(m.Layouts), func(d string) bool { return d == m.Store }),
		Into: m.Store, Keep: keep, SkipRoot: from.RootHash() == running.RootHash,
		Progress: func(done, total int64) { m.Progress("import", done, total) },
	})
}
