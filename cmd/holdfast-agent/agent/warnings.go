package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/expiry"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	warningPoll = 5 * time.Minute
	// When somebody is told. A disk that is full stops everything; below a tenth
	// the kubelet begins to evict pods by itself.
	fewFree     = 15      // percent of /var
	leastFree   = 2 << 30 // bytes of it
	certificate = 90 * 24 * time.Hour
	// cert-manager renews those of services when a third of their time is left.
	serviceCertificate = 14 * 24 * time.Hour

	// systemd-timesyncd makes it once a server has answered in this boot.
	synchronized = "/run/systemd/timesync/synchronized"
	// A server that is there answers within that time.
	clockWithin = 10 * time.Minute
	// After that long a clock that is ahead is as likely as a release that is so
	// old, and either has to be looked at.
	oldRelease = 548 * 24 * time.Hour
)

// seen is what warnings come from.
type seen struct {
	free, size int64                  // bytes of /var; size 0: not known
	ends       map[string]time.Time   // certificates, by path
	services   map[string]time.Time   // those in Secrets, by namespace and name
	renewed    func(name string) bool // whether a boot makes that one anew; nil: none
	pods       []string               // what components warn of
	clock      bool                   // a time server is named, and none has answered
	made       time.Time              // the release
	noBackup   bool                   // overdue
	backup     *status.Backup         // the last one
	update     install.State
	mode       install.Mode
}

// warningsOf is pure: what will stop the site unless somebody does something.
func warningsOf(s seen, now time.Time) []string {
	var out []string
	warn := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	if s.size > 0 && (s.free < leastFree || s.free*100/s.size < fewFree) {
		warn("disk: /var has %d of %d GiB free", s.free>>30, s.size>>30)
	}
	ending := func(ends map[string]time.Time, within time.Duration, remedy func(name string) string) {
		for _, name := range slices.SortedFunc(maps.Keys(ends), func(x, y string) int {
			return cmp.Or(ends[x].Compare(ends[y]), cmp.Compare(x, y))
		}) {
			switch left := ends[name].Sub(now); {
			case left <= 0:
				warn("certificate: %s ended on %s%s", name, ends[name].UTC().Format(time.DateOnly), remedy(name))
			case left < within:
				warn("certificate: %s ends on %s%s", name, ends[name].UTC().Format(time.DateOnly), remedy(name))
			}
		}
	}
	ending(s.ends, certificate, func(name string) string {
		if s.renewed != nil && s.renewed(name) {
			return "; a reboot renews it"
		}
		return ""
	})
	ending(s.services, serviceCertificate, func(string) string { return "" })
	out = append(out, s.pods...)
	if s.clock {
		warn("clock: no time server has answered since the node started")
	}
	if !s.made.IsZero() && now.Sub(s.made) > oldRelease {
		warn("clock: it says %s, and this release was made on %s: the one is wrong or the other old", now.UTC().Format(time.DateOnly), s.made.UTC().Format(time.DateOnly))
	}
	switch {
	case s.noBackup && s.backup != nil:
		warn("backup: the last one is of %s", s.backup.Time.UTC().Format(time.RFC3339))
	case s.noBackup:
		warn("backup: there is none")
	}
	if s.mode == install.Fallback {
		warn("update: release %s is confirmed and does not boot", s.update.Confirmed)
	} else if f := s.update.Failed; f.Release.Release != 0 && s.update.Step == install.Idle {
		warn("update: release %s did not stay: %s", f.Release, f.Reason)
	}
	return out
}

// keepWarning looks, until ctx ends, for what nobody sees before it is too late.
func (a *agent) keepWarning(ctx context.Context, u *updates, n node.Node) {
	told := map[string]bool{}
	for {
		now := warningsOf(a.look(u, n), a.host.Now())
		for _, w := range now {
			if !told[w] {
				a.Say("WARNING: %s", w)
			}
		}
		told = map[string]bool{}
		for _, w := range now {
			told[w] = true
		}
		a.Update(func(s *status.Status) { s.Warnings = now })
		if a.host.Sleep(ctx, warningPoll) != nil {
			return
		}
	}
}

func (a *agent) look(u *updates, n node.Node) seen {
	st := a.Get()
	s := seen{made: time.Unix(u.running.Facts().Epoch, 0), noBackup: st.NoBackup, backup: st.Backup, mode: u.is()}
	var fs unix.Statfs_t
	if err := unix.Statfs(a.host.path("/var"), &fs); err == nil {
		s.free, s.size = int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	}
	if e, err := engineOf(u.running.config.Engine.Name); err == nil {
		s.ends, s.renewed = expiry.Of(a.host.Root, e.certificates), e.renewed
	}
	if ends := a.ends.Load(); ends != nil {
		s.services = *ends
	}
	if told := a.podsWarn.Load(); told != nil {
		s.pods = *told
	}
	if len(n.NTP) > 0 && a.host.uptime() > clockWithin {
		s.clock = !a.isThere(synchronized)
	}
	var err error
	if s.update, err = u.machine.State(u.ref); err != nil {
		a.log.Error("warnings", "error", err)
	}
	return s
}
