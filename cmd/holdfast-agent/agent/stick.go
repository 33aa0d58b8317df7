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

// watchStick looks for a stick until ctx ends. What is on it is verified and
// shown on the console; somebody there has to confirm it, by typing which
// release it is.
func (a *agent) watchStick(ctx context.Context, u *updates, apply func() error) {
	seen := false
	for a.host.Sleep(ctx, stickPoll) == nil {
		there := a.stickIsThere()
		if there && !seen {
			if a.host.Sleep(ctx, stickSettle) != nil {
				return
			}
			if !u.isBusy() {
				a.offer(ctx, u, apply)
			}
		}
		seen = there
	}
}

func (a *agent) stickIsThere() bool {
	_, err := os.Stat(a.host.path(stickDevice))
	return err == nil
}

// offer shows what is on the stick and waits for the answer.
func (a *agent) offer(ctx context.Context, u *updates, apply func() error) {
	var plan install.Plan
	err := a.admitted(ctx, u, "", func(_ *bundles.Verified, p install.Plan) error { plan = p; return nil })
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.Say("the stick is not taken: %v", err)
		return
	}
	want := fmt.Sprintf("apply %d", plan.To.Release)
	a.Say("a stick is there, and what is on it is verified:\n%stype \"%s\" and Enter here to take it; pull it out to leave it", plan.Text(), want)
	ctx, cancel := context.WithTimeout(ctx, stickAsk)
	defer cancel()
	lines := a.host.Input(ctx)
	for {
		select {
		case <-ctx.Done():
			a.Say("nobody confirmed the update; pull the stick out and put it in again to be asked again")
			return
		case line := <-lines:
			if strings.TrimSpace(line) != want {
				a.Say("that is not \"%s\": nothing is done", want)
				continue
			}
			if err := apply(); err != nil {
				a.Say("%v", err)
			}
			return
		case <-time.After(stickPoll):
			if !a.stickIsThere() {
				a.Say("the stick is gone: nothing is done")
				return
			}
		}
	}
}

func (u *updates) isBusy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.busy
}
