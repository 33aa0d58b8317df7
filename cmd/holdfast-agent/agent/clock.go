package agent

import (
	"context"
	"fmt"
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
)

// setClock moves the clock forward to the latest time known to have been:
// the release's epoch, or what was last persisted. A machine whose battery is
// dead must not take certificates for not valid yet.
func (a *agent) setClock(epoch int64) error {
	floor := epoch
	for _, f := range []string{epochFile, timeFile} {
		b, err := os.ReadFile(a.host.path(f))
		if err != nil {
			continue // not there at a first boot
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			floor = max(floor, n)
		}
	}
	now, want := a.host.Now(), time.Unix(floor, 0)
	if !now.Before(want) {
		return nil
	}
	a.Say("the clock says %s, which is over: set forward to %s", now.UTC().Format(time.RFC3339), want.UTC().Format(time.RFC3339))
	if err := a.host.SetTime(want); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	return nil
}

// keepTime persists the time until ctx ends.
func (a *agent) keepTime(ctx context.Context) {
	for {
		file := a.host.path(timeFile)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = atomicfile.Write(file, strconv.AppendInt(nil, a.host.Now().Unix(), 10), 0o644)
		}
		if err != nil {
			a.log.Error("cannot persist the time", "error", err)
		}
		if a.host.Sleep(ctx, persistTime) != nil {
			return
		}
	}
}
