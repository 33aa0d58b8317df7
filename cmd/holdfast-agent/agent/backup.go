package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	format "holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/backup"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/lab"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
)

const (
	// backupLabel is the file system label of a stick that backups go to and
	// come from.
	backupLabel  = "HF-BACKUP"
	backupDevice = "/dev/disk/by-label/" + backupLabel
	backupDir    = "/run/holdfast/backup"

	stagingDir     = "/var/lib/holdfast/backup.new"
	lastBackupFile = "/var/lib/holdfast/backup.json"

	// spareSpace stays free on /var beside the copies that a backup makes.
	spareSpace = 512 << 20
)

// Passes before everything is held, until less than this was changed.
const (
	mostPasses = 4
	fewBytes   = 32 << 20
)

// statePaths are the files and directories of a node that its release does not
// have.
func statePaths(e engine) []string {
	return append([]string{secretsDir, "/var/lib/holdfast/volumes", update.AuditFile + "*", filepath.Dir(backupKeyFile)}, e.state...)
}

// backUp answers a request for a backup.
func (a *agent) backUp(ctx context.Context, u *updates) func(lab.Request) (any, error) {
	return func(q lab.Request) (any, error) {
		return u.jobs.ask(q.Key, func(done func(job)) error {
			to := a.onStickForBackups
			if q.Server {
				to = a.onServer(u.running.config)
			}
			b, err := a.makeBackup(ctx, u, to, 0)
			if err == nil {
				done(job{Backup: &b, Text: describeBackup(b)})
			}
			return err
		})
	}
}

func describeBackup(b status.Backup) string {
	text := fmt.Sprintf("backup %s is written and read back: %d MiB, of %d MiB of state; the site stood still for %.1f s\nits code is %s: write it down, restoring asks for it\n",
		b.File, b.Bytes>>20, b.State>>20, b.Held, b.Code)
	if b.NotRemoved != "" {
		text += "old ones stay: " + b.NotRemoved + "\n"
	}
	return text
}

// makeBackup writes the state of this node, as it is at one moment, to a place
// for backups. Of those of this site that are there, the newest keep stay; with
// 0, all.
func (a *agent) makeBackup(ctx context.Context, u *updates, to at, keep int) (b status.Backup, err error) {
	if !u.begin() {
		return b, errors.New("cannot make a backup: an update or another backup is being made")
	}
	defer u.end()
	a.Say("backup: begun")
	defer func() {
		if err != nil && ctx.Err() == nil {
			a.Say("NO BACKUP: %v", err)
		}
	}()
	c := u.running.config
	if c.Engine.Name == node.NoEngine {
		return b, errors.New("cannot make a backup: a site without Kubernetes keeps nothing beyond its release")
	}
	e, err := engineOf(c.Engine.Name)
	if err != nil {
		return b, fmt.Errorf("cannot make a backup: %w", err)
	}
	if len(c.Recovery) == 0 {
		return b, errors.New("cannot make a backup: the release names no recovery keys\nhint: \"holdfast keys recovery\" makes them; they are part of the next release")
	}
	if m := u.is(); m == install.OnTrial || m == install.Rebooting {
		return b, errors.New("cannot make a backup: the release is on trial\nhint: when it is confirmed, or the one before is back")
	}
	recipients, err := format.Recipients(c.Recovery)
	if err != nil {
		return b, err
	}
	h := format.Header{
		Site: c.Name, Zone: c.Zone, Release: u.ref.Release, Index: string(u.ref.Index),
		Engine: c.Engine.Name, EngineVersion: c.Engine.Version, Node: a.Get().Node.Name,
	}
	if h.Address, err = addressOf(c, h.Node); err != nil {
		return b, err
	}
	// Whether it is there is found out before the site is held.
	if err := to(ctx, func(p place) error { _, err := p.list(); return err }); err != nil {
		return b, err
	}
	s, held, err := a.snapshot(ctx, e, &h)
	if err != nil {
		return b, err
	}
	defer func() {
		if err := s.Remove(); err != nil {
			a.log.Error("backup", "error", err)
		}
	}()
	b = status.Backup{File: h.Name(), Release: h.Release, Time: h.Time, State: h.Bytes, Held: held.Seconds()}
	err = to(ctx, func(p place) (err error) {
		b.Bytes, b.Code, err = a.writeBackup(ctx, s, h, p, recipients)
		if err != nil || keep == 0 {
			return err
		}
		// The new one is there, whatever becomes of the old ones.
		if err := a.dropBackups(p, c.Name, keep); err != nil {
			b.NotRemoved = err.Error()
		}
		return nil
	})
	if err != nil {
		return b, err
	}
	doc, err := json.Marshal(b)
	if err == nil {
		err = atomicfile.Write(a.host.path(lastBackupFile), append(doc, '\n'), 0o644)
	}
	if err != nil {
		a.log.Error("cannot note the backup", "error", err)
	}
	a.Update(func(s *status.Status) { s.Backup = &b })
	a.Say("%s", describeBackup(b))
	return b, nil
}

func addressOf(c node.Config, name string) (string, error) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n.IP(), nil
		}
	}
	return "", errors.New("cannot make a backup: this machine is not known as a node yet")
}

// snapshot copies the state, the last of it while nothing runs that could write
// to it, and says in h how much it is and of when.
func (a *agent) snapshot(ctx context.Context, e engine, h *format.Header) (s *backup.Snapshot, held time.Duration, err error) {
	s, err = backup.Begin(a.host.Root, statePaths(e), a.host.path(stagingDir))
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Remove())
		}
	}()
	need, err := s.Measure(ctx)
	if err != nil {
		return nil, 0, err
	}
	if free, err := freeBytes(a.host.path(stagingDir)); err != nil || free < need+spareSpace {
		return nil, 0, fmt.Errorf("cannot make a backup: its copies need %d MiB on /var beside what is there, and %d MiB are free: %w", (need+spareSpace)>>20, free>>20, cmp.Or[error](err, unix.ENOSPC))
	}
	a.Say("backup: copying %d MiB", need>>20)
	for range mostPasses {
		n, err := s.Pass(ctx)
		if err != nil {
			return nil, 0, err
		}
		if n < fewBytes {
			break
		}
	}
	began := a.host.Now()
	err = a.held(ctx, e, func(ctx context.Context) error {
		h.Time = a.host.Now()
		_, err := s.Pass(ctx)
		return err
	})
	held = a.host.Now().Sub(began)
	h.Files, h.Bytes = s.Size()
	h.Time = h.Time.UTC().Truncate(time.Second)
	if err != nil {
		return nil, held, fmt.Errorf("cannot hold the site for the last of the copies: %w", err)
	}
	return s, held, nil
}

// holdAtMost is how long the site stands still: kubelet and API server take a
// node that says nothing for dead.
const holdAtMost = 30 * time.Second

// held runs f while nothing runs that writes to the engine's state or to volumes.
func (a *agent) held(ctx context.Context, e engine, f func(context.Context) error) error {
	// Nothing may end while all is held, or nobody lets it go.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdAtMost)
	defer cancel()
	err := backup.Freeze(ctx, a.host.Root, e.groups)
	if err == nil {
		err = f(ctx)
	}
	return errors.Join(err, backup.Thaw(a.host.Root, e.groups))
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// writeBackup writes the file, reads it back and gives it its name.
func (a *agent) writeBackup(ctx context.Context, s *backup.Snapshot, h format.Header, p place, to []age.Recipient) (size int64, code string, err error) {
	name := h.Name()
	part := p.draft(name)
	f, err := p.create(part)
	if err != nil {
		return 0, "", fmt.Errorf("cannot write the backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.remove(part))
		}
	}()
	sum := format.NewCode()
	count := &counter{w: io.MultiWriter(f, sum)}
	w, err := format.NewWriter(count, to, h)
	if err == nil {
		report, done := a.progress("backup"), int64(0)
		err = s.WriteTo(ctx, w, func(n int64) { done += n; report(name, done, h.Bytes) })
		if err == nil {
			err = w.Close()
		}
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if errors.Is(err, unix.EFBIG) {
		err = fmt.Errorf("%w\nhint: FAT holds no file of 4 GiB; use a stick with exFAT or ext4", err)
	}
	if err != nil {
		return 0, "", fmt.Errorf("cannot write the backup: %w", err)
	}
	want := format.Code(sum)
	got, err := codeAt(p, part)
	if err != nil {
		return 0, "", fmt.Errorf("cannot read the backup back: %w", err)
	}
	if got != want {
		return 0, "", fmt.Errorf("cannot make a backup: %s gives back other bytes (%s) than were written (%s)\nhint: keep backups elsewhere", p, got, want)
	}
	if err := p.rename(part, name); err != nil {
		return 0, "", fmt.Errorf("cannot name the backup: %w", err)
	}
	return count.n, want, nil
}

// codeAt reads a file to its end.
func codeAt(p place, name string) (string, error) {
	f, err := p.open(name)
	if err != nil {
		return "", err
	}
	code, err := format.CodeOf(f)
	return code, errors.Join(err, f.Close())
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// onBackupStick mounts the stick for backups and unmounts it after f.
func (a *agent) onBackupStick(ctx context.Context, mode string, f func(dir string) error) error {
	return a.withStick(ctx, backupLabel, backupDevice, backupDir, mode, f)
}

// lastBackup puts into the status what the last boot knew of backups, and
// clears up after one that did not come to its end.
func (a *agent) lastBackup() error {
	for _, name := range []string{"kubeadm", "k3s"} {
		e, err := engineOf(name)
		if err != nil {
			return err
		}
		if err := backup.Thaw(a.host.Root, e.groups); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(a.host.path(stagingDir)); err != nil {
		return fmt.Errorf("cannot clear up after a backup: %w", err)
	}
	doc, err := os.ReadFile(a.host.path(lastBackupFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var b status.Backup
	if err == nil {
		err = json.Unmarshal(doc, &b)
	}
	if err != nil {
		a.log.Error("cannot read what the last backup was", "error", err)
		return nil
	}
	a.Update(func(s *status.Status) { s.Backup = &b })
	return nil
}
