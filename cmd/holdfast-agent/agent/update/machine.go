// Package update does to a node what the steps of an update ask for: boot
// entries, slots and partition table, the datastore's copy. The order of the
// steps, and what survives a power cut, is package install's;
// docs/updates.md has the table.
package update

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/signing/authenticode"
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
	Datastore string // the engine's, "" if it has none
	Now       func() time.Time
	Progress  func(what string, done, total int64)

	// Releases are the verified releases on the node, the update's among them
	// once it is imported.
	Releases func() ([]*bundles.Verified, error)
	Stop     func(ctx context.Context) error // the engine, and every pod
	Start    func(ctx context.Context) error
	Reboot   func(ctx context.Context) error
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
		CopyDatastore:    func(_ context.Context, n uint64) error { return m.copyDatastore(n) },
		RestoreDatastore: func(_ context.Context, n uint64) error { return m.restoreDatastore(n) },
		Clean:            func(context.Context) error { return m.clean(running) },
		Reboot:           m.Reboot,
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

// entries maps each release to its tries; of two entries of one release that a
// torn rename left, the better one counts.
func (m Machine) entries() (map[uint64]install.Tries, error) {
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return nil, err
	}
	out := map[uint64]install.Tries{}
	for _, e := range es {
		t := install.Uncounted
		if e.Counted {
			t = install.Tries(e.Left)
		}
		n := uint64(e.Release)
		if old, ok := out[n]; !ok || old != install.Uncounted && (t == install.Uncounted || t > old) {
			out[n] = t
		}
	}
	return out, nil
}

// setTries renames a release's entry; where it has two, the others go.
func (m Machine) setTries(release uint64, t install.Tries) error {
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return err
	}
	es = slices.DeleteFunc(es, func(e slot.Entry) bool { return uint64(e.Release) != release })
	if len(es) == 0 {
		return fmt.Errorf("release %d has no boot entry", release)
	}
	want := slot.Entry{Release: int64(release), Counted: t != install.Uncounted, Left: max(0, int(t))}
	if !slices.Contains(es, want) {
		if err := slot.Rename(m.path(ESP), es[0].Name(), want.Name()); err != nil {
			return err
		}
		es = es[1:]
	}
	for _, e := range es {
		if e != want {
			if err := slot.Remove(m.path(ESP), e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m Machine) removeEntry(release uint64) error {
	es, err := slot.Entries(m.path(ESP))
	if err != nil {
		return err
	}
	errs := []error{slot.Remove(m.path(ESP), slot.TempName(int64(release)))}
	for _, e := range es {
		if uint64(e.Release) == release {
			errs = append(errs, slot.Remove(m.path(ESP), e.Name()))
		}
	}
	return errors.Join(errs...)
}

// release finds a release on the node.
func (m Machine) release(r install.Ref) (*bundles.Verified, error) {
	all, err := m.Releases()
	for _, v := range all {
		if install.RefOf(v) == r {
			return v, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("cannot find release %s on this node", r), err)
}

func (m Machine) writeEntry(ctx context.Context, r install.Ref) error {
	v, err := m.release(r)
	if err != nil {
		return err
	}
	src, err := unpacked(v, bundles.UKI)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(m.path(DBCert))
	if err != nil {
		return fmt.Errorf("cannot read the certificate of boot programs: %w", err)
	}
	p, _ := pem.Decode(b)
	if p == nil {
		return fmt.Errorf("cannot read the certificate of boot programs: %s is not PEM", DBCert)
	}
	cert, err := x509.ParseCertificate(p.Bytes)
	if err != nil {
		return fmt.Errorf("cannot read the certificate of boot programs: %w", err)
	}
	_, err = slot.WriteEntry(ctx, m.path(ESP), int64(r.Release), src, func(b []byte) error {
		return authenticode.Verify(b, []*x509.Certificate{cert})
	})
	return err
}

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
