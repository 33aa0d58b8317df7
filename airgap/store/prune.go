package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// ErrBusy is wrapped by errors about a store that another process works in.
var ErrBusy = errors.New("another holdfast is at work there")

// Ages that say that nobody will come back to something.
const (
	// StalePartial is for transfers, which are kept to be resumed.
	StalePartial = 7 * 24 * time.Hour
	// staleWork is for what an ordinary run clears away: a file system that
	// machines share may not share its locks.
	staleWork = time.Hour
)

// Enter marks the store as being worked in until the process ends, whichever
// way. If nobody else is, it first removes the work of processes that were
// killed. On a file system without locks it does neither.
func (s *Store) Enter(now time.Time) error {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("cannot enter store: %w", err)
	}
	s.lock = f // closing it, as the end of the process does, frees the lock
	if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		p := pruner{dir: s.dir, remove: true}
		if err := p.leftovers(now.Add(-staleWork)); err != nil {
			return fmt.Errorf("cannot clear the store: %w", err)
		}
	}
	if err := flock(f, syscall.LOCK_SH); err != nil && !errors.Is(err, syscall.ENOLCK) && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("cannot enter store: %w", err)
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

// PruneOptions says what Prune removes besides the work of killed processes.
type PruneOptions struct {
	Now       time.Time
	OlderThan time.Duration // entries not used for so long; 0 for none
	DryRun    bool          // only count
}

// Pruned counts what was, or would be, removed.
type Pruned struct {
	Leftovers Count `json:"leftovers"` // of processes that were killed
	Partial   Count `json:"partial"`   // broken transfers
	Unused    Count `json:"unused"`
}

// Count is files and folders, and the bytes they take on the disk.
type Count struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// Prune removes what killed processes left, transfers that nobody resumed, and
// what was not used for a time: blobs, results, programs, and the compiler's
// cache. Modules and toolchains have no record of their use and stay. It needs
// the store for itself; else the error wraps ErrBusy, and nothing is removed.
func (s *Store) Prune(o PruneOptions) (Pruned, error) {
	if s.lock == nil {
		return Pruned{}, errors.New("internal error: the store was not entered")
	}
	if err := flock(s.lock, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrBusy
		}
		return Pruned{}, fmt.Errorf("cannot prune %s: %w\nhint: repeat it when that is done", s.dir, err)
	}
	p := pruner{dir: s.dir, remove: !o.DryRun}
	err := p.leftovers(o.Now)
	stale := StalePartial
	if o.OlderThan > 0 {
		stale = min(stale, o.OlderThan)
	}
	err = errors.Join(err, p.each("partial", "*", &p.got.Partial, o.Now.Add(-stale)))
	if o.OlderThan > 0 {
		err = errors.Join(err, p.unused(o.Now.Add(-o.OlderThan)))
	}
	if err = errors.Join(err, flock(s.lock, syscall.LOCK_SH)); err != nil {
		return p.got, fmt.Errorf("cannot prune %s: %w", s.dir, err)
	}
	return p.got, nil
}

type pruner struct {
	dir    string
	remove bool
	got    Pruned
}

// leftovers are work that ends with its process, last touched before a time.
func (p *pruner) leftovers(before time.Time) error {
	var errs []error
	for _, x := range [][2]string{{"tmp", "*"}, {"programs", ".build-*"}, {"toolchain", ".unpack-*"}, {"toolchain", ".zip-*"}} {
		errs = append(errs, p.each(x[0], x[1], &p.got.Leftovers, before))
	}
	return errors.Join(errs...)
}

var hexForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (p *pruner) unused(before time.Time) error {
	var errs []error
	// A record is touched whenever its blob is used.
	records := filepath.Join(p.dir, "checked")
	errs = append(errs, list(filepath.Join(p.dir, "blobs", "sha256"), func(name string, fi fs.FileInfo) error {
		used := fi.ModTime()
		record := filepath.Join(records, fi.Name())
		if r, err := os.Lstat(record); err == nil && r.ModTime().After(used) {
			used = r.ModTime()
		}
		if !hexForm.MatchString(fi.Name()) || !used.Before(before) {
			return nil
		}
		if p.remove {
			if err := removeIfThere(record); err != nil {
				return err
			}
		}
		return p.drop(name, &p.got.Unused)
	}))
	errs = append(errs, p.each("derived", "*.json", &p.got.Unused, before))
	errs = append(errs, p.each("programs", "[!.]*", &p.got.Unused, before))
	// The compiler's cache finds any of its entries missing.
	errs = append(errs, list(filepath.Join(p.dir, "gobuild"), func(name string, fi fs.FileInfo) error {
		if !fi.IsDir() || len(fi.Name()) != 2 {
			return nil
		}
		return p.each(filepath.Join("gobuild", fi.Name()), "*-?", &p.got.Unused, before)
	}))
	return errors.Join(errs...)
}

// each drops what is in a folder, has such a name, and was last touched before
// a time.
func (p *pruner) each(folder, pattern string, count *Count, before time.Time) error {
	return list(filepath.Join(p.dir, folder), func(name string, fi fs.FileInfo) error {
		if ok, err := filepath.Match(pattern, fi.Name()); err != nil || !ok || !fi.ModTime().Before(before) {
			return err
		}
		return p.drop(name, count)
	})
}

// drop counts and removes a file or a tree.
func (p *pruner) drop(name string, count *Count) error {
	var bytes int64
	var folders []string
	err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512
		}
		if d.IsDir() && fi.Mode().Perm()&0o200 == 0 {
			folders = append(folders, path)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && p.remove {
		for _, f := range folders { // unpacked modules are read-only
			err = errors.Join(err, os.Chmod(f, 0o755))
		}
		err = errors.Join(err, os.RemoveAll(name))
	}
	if err != nil {
		return err
	}
	count.Entries++
	count.Bytes += bytes
	return nil
}

// list calls f with what is in a folder; one that is not there is empty.
func list(folder string, f func(name string, fi fs.FileInfo) error) error {
	es, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range es {
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = f(filepath.Join(folder, e.Name()), fi)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// used notes that a file was used now; that it could not is no fault.
func used(name string) {
	now := syscall.Timespec{Nsec: utimeNow}
	_ = syscall.UtimesNano(name, []syscall.Timespec{now, now})
}

// utimeNow asks the kernel for its own time; see utimensat(2).
const utimeNow = 1<<30 - 1
