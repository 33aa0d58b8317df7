package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
)

const (
	epochFile   = "/usr/lib/holdfast/release.epoch"
	timeFile    = "/var/lib/holdfast/time"
	persistTime = 10 * time.Minute

	machineClock = "/sys/class/rtc/rtc0/since_epoch" // as it is now, UTC
	timesyncd    = "/var/lib/systemd/timesync/clock" // its time is what timesyncd has persisted

	// No clock goes that wrong by itself between two starts.
	clockSlack = 24 * time.Hour
	// How long somebody is asked which of two times is right.
	clockAsks  = 2 * time.Minute
	clockRight = "the clock is right"
)

// setClock moves the clock forward to the latest time known to have been:
// the release's epoch, or what was last persisted. A machine whose battery is
// dead must not take certificates for not valid yet. Where the machine's clock is
// behind what was persisted and still later than the release, either may be wrong:
// somebody at the console is asked, and without an answer time goes on from what
// was persisted.
func (a *agent) setClock(ctx context.Context, epoch int64) error {
	made, now := time.Unix(max(epoch, a.seconds(epochFile)), 0), a.host.Now()
	floor := latest(made, time.Unix(a.seconds(timeFile), 0))
	// timesyncd has moved the time forward by then to what it has persisted, so
	// that the machine's own clock is asked.
	machine := now
	if n := a.seconds(machineClock); n > 0 && time.Unix(n, 0).Before(now) {
		machine = time.Unix(n, 0)
	}
	seen := latest(floor, now)
	if !machine.Before(made) && seen.Sub(machine) > clockSlack && a.clockIsRight(ctx, machine, seen) {
		if err := a.goBy(machine); err != nil {
			return fmt.Errorf("cannot go by the machine's clock: %w", err)
		}
		a.Say("the clock is taken for right: %s", machine.UTC().Format(time.RFC3339))
		return nil
	}
	if !now.Before(floor) {
		return nil
	}
	a.Say("the clock says %s, which is over: set forward to %s", now.UTC().Format(time.RFC3339), floor.UTC().Format(time.RFC3339))
	if err := a.host.SetTime(floor); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	return nil
}

func latest(x, y time.Time) time.Time {
	if x.Before(y) {
		return y
	}
	return x
}

// goBy sets the time, back too, and persists it for the next start.
func (a *agent) goBy(t time.Time) error {
	if err := a.host.SetTime(t); err != nil {
		return err
	}
	err := os.Chtimes(a.host.path(timesyncd), t, t)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, a.writeTime())
}

// seconds is what a file says, since 1970; 0 if there is none, as at a first boot.
func (a *agent) seconds(file string) int64 {
	b, err := os.ReadFile(a.host.path(file))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// clockIsRight asks whoever is at a console.
func (a *agent) clockIsRight(ctx context.Context, now, written time.Time) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_ = a.host.Sleep(ctx, clockAsks)
	}()
	lines := a.host.Input(ctx)
	a.Say("the clock says %s, but this node has seen %s. Which is wrong?\ntype \"%s\" and Enter here within %.0f minutes to go by the clock; otherwise it is set forward",
		now.UTC().Format(time.RFC3339), written.UTC().Format(time.RFC3339), clockRight, clockAsks.Minutes())
	for {
		select {
		case <-ctx.Done():
			return false
		case line := <-lines:
			if strings.TrimSpace(line) == clockRight {
				return true
			}
			a.Say("that is not \"%s\": nothing is done", clockRight)
		}
	}
}

// writeTime persists the time.
func (a *agent) writeTime() error {
	file := a.host.path(timeFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, strconv.AppendInt(nil, a.host.Now().Unix(), 10), 0o644)
}

// keepTime persists the time until ctx ends.
func (a *agent) keepTime(ctx context.Context) {
	for {
		if err := a.writeTime(); err != nil {
			a.log.Error("cannot persist the time", "error", err)
		}
		if a.host.Sleep(ctx, persistTime) != nil {
			return
		}
	}
}
