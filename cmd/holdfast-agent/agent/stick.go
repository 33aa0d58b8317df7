package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/install"
)

const (
	stickPoll = 3 * time.Second
	// Whoever asked by another way for what is on the stick comes first.
	stickSettle = 20 * time.Second
	stickAsk    = 10 * time.Minute
)

// watchSticks looks for sticks until ctx ends. Nothing is done with one before
// somebody confirms it on the console: a release by typing which it is, after it
// was verified and shown, a backup and credentials by these words.
func (a *agent) watchSticks(ctx context.Context, u *updates, apply func() error) {
	update := false
	backup := a.isThere(backupDevice) // what it is for was asked before
	for a.host.Sleep(ctx, stickPoll) == nil {
		newUpdate, newBackup := a.isThere(stickDevice), a.isThere(backupDevice)
		if newUpdate && !update || newBackup && !backup {
			if a.host.Sleep(ctx, stickSettle) != nil {
				return
			}
			if newUpdate && !update && !u.isBusy() {
				a.offer(ctx, u, apply)
			}
			if newBackup && !backup && !u.isBusy() && !a.offerCredentials(ctx, u) {
				a.offerBackup(ctx, u)
			}
		}
		update, backup = newUpdate, newBackup
	}
}

func (a *agent) isThere(name string) bool {
	_, err := os.Stat(a.host.path(name))
	return err == nil
}

// offer shows what is on the stick and waits for the answer.
func (a *agent) offer(ctx context.Context, u *updates, apply func() error) {
	var plan install.Plan
	if s, err := a.host.readSeries(); err == nil && len(s.Releases) > 0 {
		return // a series goes on by itself
	}
	err := a.admitted(ctx, u, bundleRequest{}, func(_ *bundles.Verified, p install.Plan, _ series) error { plan = p; return nil })
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.Say("the stick is not taken: %v", err)
		return
	}
	want := fmt.Sprintf("apply %d", plan.To.Release)
	a.Say("a stick is there, and what is on it is verified:\n%stype \"%s\" and Enter here to take it; pull it out to leave it", plan.Text(), want)
	if a.typed(ctx, want, stickDevice) {
		if err := apply(); err != nil {
			a.Say("%v", err)
		}
	}
}

// offerBackup asks whether a backup is to be made. It says itself how that ends.
func (a *agent) offerBackup(ctx context.Context, u *updates) {
	const want = "backup"
	a.Say("a stick for backups is there\ntype \"%s\" and Enter here to have one written onto it; pull it out to leave it", want)
	if a.typed(ctx, want, backupDevice) {
		_, _ = a.makeBackup(ctx, u, a.onStickForBackups, 0)
	}
}

// typed waits until somebody types what is wanted, and reports whether it was;
// not if the stick is taken out, or nobody comes.
func (a *agent) typed(ctx context.Context, want, device string) bool {
	ctx, cancel := context.WithTimeout(ctx, stickAsk)
	defer cancel()
	lines := a.host.Input(ctx)
	for {
		select {
		case <-ctx.Done():
			a.Say("nobody typed \"%s\"; pull the stick out and put it in again to be asked again", want)
			return false
		case line := <-lines:
			if strings.TrimSpace(line) == want {
				return true
			}
			a.Say("that is not \"%s\": nothing is done", want)
		case <-time.After(stickPoll):
			if !a.isThere(device) {
				a.Say("the stick is gone: nothing is done")
				return false
			}
		}
	}
}

func (u *updates) isBusy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.busy
}
