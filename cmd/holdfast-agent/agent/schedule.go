package agent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	format "holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	schedulePoll = time.Minute
	// After a failure, and before somebody is told again that there is no stick.
	scheduleAgain = time.Hour
)

// keepBackups makes the backups that the release asks for, until ctx ends: each
// so many hours after the one before, once the site has been up.
func (a *agent) keepBackups(ctx context.Context, u *updates) {
	b := u.running.config.Backups
	if b.EveryHours == 0 {
		return
	}
	var again time.Time
	for a.host.Sleep(ctx, schedulePoll) == nil {
		s, now := a.Get(), a.host.Now()
		due, overdue := backupDue(b, s, now)
		if overdue != s.NoBackup {
			a.Update(func(s *status.Status) { s.NoBackup = overdue })
		}
		if !due || now.Before(again) || u.is() == install.OnTrial || u.isBusy() {
			continue
		}
		again = now.Add(scheduleAgain)
		if !a.isThere(backupDevice) {
			a.Say("a backup is due: put a stick labelled %s in, and leave it in", backupLabel)
			continue
		}
		if _, err := a.makeBackup(ctx, u, b.Keep); err == nil {
			again = time.Time{}
		}
	}
}

// backupDue says whether a node in that state is to make a backup now, and
// whether it should have long ago. While it starts there is none.
func backupDue(b node.Backups, s status.Status, now time.Time) (due, overdue bool) {
	every := time.Duration(b.EveryHours) * time.Hour
	up := s.Phase == status.Healthy || s.Phase == status.Degraded
	if s.Backup == nil {
		return up, false
	}
	age := now.Sub(s.Backup.Time)
	// One from a time to come was made with a wrong clock.
	return up && (age >= every || age < 0), age >= 2*every
}

// dropBackups removes a site's oldest backups, whose names have their time,
// until so many are left.
func (a *agent) dropBackups(dir, site string, keep int) error {
	form := regexp.MustCompile("^" + regexp.QuoteMeta(site) + `-[0-9]+-([0-9]{8}T[0-9]{6}Z)` + regexp.QuoteMeta(format.Suffix) + "$")
	es, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list the backups on the stick: %w", err)
	}
	var names []string
	at := map[string]string{}
	for _, e := range es {
		if m := form.FindStringSubmatch(e.Name()); m != nil {
			names, at[e.Name()] = append(names, e.Name()), m[1]
		}
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Compare(at[y], at[x]) })
	for _, name := range names[min(keep, len(names)):] {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("cannot remove an old backup: %w", err)
		}
		a.Say("backup: %s is removed, as %d newer ones are there", name, keep)
	}
	return nil
}
