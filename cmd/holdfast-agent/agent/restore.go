package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	format "holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/backup"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
)

// restoringFile is there from before the first file is restored until the last
// one is on the disk: what is between the two is never started.
const restoringFile = "/var/lib/holdfast/restoring"

// recoveryKeyFile is the name of the private recovery key on the stick.
const recoveryKeyFile = "recovery.key"

// confirmations are the codes that somebody confirms by another way than the
// console.
type confirmations struct {
	mu        sync.Mutex
	offered   string
	confirmed string // the last that was; a request may come twice
	given     chan struct{}
}

// offer says that the backup of that code waits for its confirmation.
func (c *confirmations) offer(code string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offered, c.confirmed, c.given = code, "", make(chan struct{})
	return c.given
}

func (c *confirmations) withdraw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offered = ""
}

var errNotOffered = errors.New("no backup waits to be restored here")

func (c *confirmations) confirm(code string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.confirmed == code:
		return nil
	case c.offered == "":
		return errNotOffered
	case c.offered != code:
		return fmt.Errorf("cannot restore: the backup on the stick is %s, not %s", c.offered, code)
	}
	c.offered, c.confirmed = "", code
	close(c.given)
	return nil
}

// restore brings back what a backup has, if this node has nothing yet and there
// is a stick with one. It returns when it is known what the site starts from.
func (a *agent) restore(ctx context.Context, u *updates, n node.Node) error {
	e, err := engineOf(u.running.config.Engine.Name)
	if err != nil {
		return nil // nothing of this site could be in a backup
	}
	errHalf := errors.New("a restore did not come to its end, so nothing of this site may start\nhint: plug the stick with the backup and the recovery key in")
	told := ""
	return a.insist(ctx, status.Refused, "restore a backup", func() error {
		if !a.isThere(restoringFile) && a.inUse(e) {
			return nil
		}
		// Disks that were there at power-on are known by then.
		if err := a.exec(ctx, "/usr/bin/udevadm", "settle", "--timeout=30"); err != nil {
			a.log.Warn("restore", "error", err)
		}
		if !a.isThere(backupDevice) {
			if a.isThere(restoringFile) {
				return errHalf
			}
			return nil
		}
		err := a.onBackupStick(ctx, "ro", func(dir string) error { return a.restoreFrom(ctx, u, e, n, dir, &told) })
		if err == nil && a.isThere(restoringFile) {
			return errHalf
		}
		return err
	})
}

// inUse reports whether the site was started on this disk before.
func (a *agent) inUse(e engine) bool {
	for _, d := range []string{secretsDir, e.datastore} {
		if es, err := os.ReadDir(a.host.path(d)); err == nil && len(es) > 0 {
			return true
		}
	}
	return false
}

// restoreFrom verifies the one backup in dir, asks and restores it. No backup
// there is no fault: it may be a stick for the first one. told is the one that
// the console has shown already.
func (a *agent) restoreFrom(ctx context.Context, u *updates, e engine, n node.Node, dir string, told *string) error {
	found, err := filepath.Glob(filepath.Join(dir, "*"+format.Suffix))
	if err != nil {
		return err
	}
	interrupted := a.isThere(restoringFile)
	if len(found) == 0 && !interrupted {
		return nil
	}
	if len(found) != 1 {
		return fmt.Errorf("cannot choose a backup: the stick has %d\nhint: leave the one *%s to restore in its top directory", len(found), format.Suffix)
	}
	key, err := os.Open(filepath.Join(dir, recoveryKeyFile))
	if err != nil {
		return fmt.Errorf("cannot open the backup: %w\nhint: put the site's recovery key beside it, as %s; or take the stick out, and the site starts empty", err, recoveryKeyFile)
	}
	defer key.Close()
	with, err := format.ParseIdentities(key)
	if err != nil {
		return err
	}
	f, err := os.Open(found[0])
	if err != nil {
		return fmt.Errorf("cannot open the backup: %w", err)
	}
	defer f.Close()
	if name := filepath.Base(found[0]); name != *told {
		*told = name
		a.Say("a stick with the backup %s is there: reading it", name)
	}
	code, err := format.CodeOf(f)
	if err != nil {
		return err
	}
	// Read again when it is restored: a stick may give other bytes then.
	open := func(w io.Writer) (*format.Reader, error) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return format.NewReader(io.TeeReader(f, w), with)
	}
	r, err := open(io.Discard)
	if err != nil {
		return err
	}
	h := r.Header
	r.Close()
	if err := a.fits(u, n, e, h); err != nil {
		return err
	}
	yes, err := a.confirmRestore(ctx, h, code, interrupted)
	if err != nil || !yes {
		return err
	}
	if err := atomicfile.Write(a.host.path(restoringFile), []byte(code+"\n"), 0o644); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	sum := format.NewCode()
	if r, err = open(sum); err != nil {
		return err
	}
	defer r.Close()
	report, done := a.progress("restore"), int64(0)
	if err := backup.Restore(ctx, r, a.host.Root, statePaths(e), func(n int64) { done += n; report("files", done, h.Bytes) }); err != nil {
		return err
	}
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	if got := format.Code(sum); got != code {
		return fmt.Errorf("cannot restore: the stick gave other bytes (%s) than before (%s)", got, code)
	}
	if err := install.AppendAudit(a.host.path(update.AuditFile), a.host.Now(), install.Event{What: "restored", To: u.ref.Release, Index: string(u.ref.Index), Reason: "backup " + code + " of " + h.Time.Format(time.RFC3339)}); err != nil {
		return err
	}
	unix.Sync()
	if err := os.Remove(a.host.path(restoringFile)); err != nil {
		return fmt.Errorf("cannot end the restore: %w", err)
	}
	a.Say("RESTORED: %s, as it was at %s", h.Site, h.Time.Format(time.RFC3339))
	return nil
}

// fits refuses a backup of another site or node, and one that this release
// could not take up; all reasons at once.
func (a *agent) fits(u *updates, n node.Node, e engine, h format.Header) error {
	c := u.running.config
	var errs []error
	for _, f := range []struct{ what, is, here string }{
		{"site", h.Site, c.Name}, {"zone", h.Zone, c.Zone}, {"node", h.Node, n.Name},
		{"address", h.Address, n.IP()}, {"engine", h.Engine, c.Engine.Name},
	} {
		if f.is != f.here {
			errs = append(errs, fmt.Errorf("cannot restore this backup: its %s is %s, here it is %s", f.what, f.is, f.here))
		}
	}
	if h.Release > u.ref.Release {
		errs = append(errs, fmt.Errorf("cannot restore this backup: it is of release %d, this is release %d\nhint: flash release %d or a later one", h.Release, u.ref.Release, h.Release))
	}
	if err := install.EngineMayFollow(h.EngineVersion, c.Engine.Version); err != nil {
		errs = append(errs, fmt.Errorf("cannot restore this backup: %w", err))
	}
	if free, err := freeBytes(a.host.path("/var/lib/holdfast")); err != nil || free < h.Bytes+spareSpace {
		errs = append(errs, fmt.Errorf("cannot restore this backup: it needs %d MiB on /var, %d MiB are free", (h.Bytes+spareSpace)>>20, free>>20))
	}
	return errors.Join(errs...)
}

// confirmRestore shows the backup and waits until somebody confirms it, or
// takes the stick out.
func (a *agent) confirmRestore(ctx context.Context, h format.Header, code string, interrupted bool) (bool, error) {
	a.Say("it is of site %s, release %d, node %s, as it was at %s: %d files, %d MiB\nits code is %s: compare it with the one that was noted when it was made",
		h.Site, h.Release, h.Node, h.Time.Format(time.RFC3339), h.Files, h.Bytes>>20, code)
	want := "restore " + code
	ask := fmt.Sprintf("type \"%s\" and Enter here to restore it", want)
	if !interrupted {
		ask += "; take the stick out, and the site starts empty"
	}
	a.Say("%s", ask)
	given := a.confirmed.offer(code)
	defer a.confirmed.withdraw()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := a.host.Input(ctx)
	told := a.host.Now()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-given:
			return true, nil
		case line := <-lines:
			if strings.TrimSpace(line) == want {
				return true, nil
			}
			a.Say("that is not \"%s\": nothing is done", want)
		case <-time.After(stickPoll):
			if !a.isThere(backupDevice) {
				a.Say("the stick is gone: nothing is restored")
				return false, nil
			}
			if a.host.Now().Sub(told) >= repeatAfter {
				told = a.host.Now()
				a.Say("%s", ask)
			}
		}
	}
}
