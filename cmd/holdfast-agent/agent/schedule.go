package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
		to := a.onStickForBackups
		if b.To != "" {
			to = a.onServer(u.running.config)
		} else if !a.isThere(backupDevice) {
			a.Say("a backup is due: put a stick labelled %s in, and leave it in", backupLabel)
			continue
		}
		if _, err := a.makeBackup(ctx, u, to, b.Keep); err == nil {
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

// backupForm is of the names of a site's backups, which have their time.
func backupForm(site string) *regexp.Regexp {
	return regexp.MustCompile("^" + regexp.QuoteMeta(site) + `-[0-9]+-([0-9]{8}T[0-9]{6}Z)` + regexp.QuoteMeta(format.Suffix) + "(" + regexp.QuoteMeta(partSuffix) + ")?$")
}

// dropBackups removes a site's oldest backups until so many are left, and what
// those left that did not come to their end. One that cannot be removed keeps no
// other from it.
func (a *agent) dropBackups(p place, site string, keep int) error {
	form := backupForm(site)
	found, err := p.list()
	if err != nil {
		return fmt.Errorf("cannot list the backups: %w", err)
	}
	var whole, parts []string
	at := map[string]string{}
	for _, name := range found {
		switch m := form.FindStringSubmatch(name); {
		case m == nil:
		case m[2] != "":
			parts = append(parts, name)
		default:
			whole, at[name] = append(whole, name), m[1]
		}
	}
	slices.SortFunc(whole, func(x, y string) int { return cmp.Compare(at[y], at[x]) })
	old := whole[min(keep, len(whole)):]
	var errs []error
	for _, name := range append(parts, old...) {
		if err := p.remove(name); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove an old backup: %w", err))
		} else if slices.Contains(old, name) {
			a.Say("backup: %s is removed, as %d newer ones are there", name, keep)
		}
	}
	return errors.Join(errs...)
}
