package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/qemu-tests/lab"
)

func (a *app) labApply() *cobra.Command {
	var o lab.ApplyOptions
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "apply BUNDLE",
		Short: "Update the lab's node from a bundle, as from a stick",
		Long: `Plugs a stick with the bundle into the lab's machine. Its agent verifies the
bundle, says what it changes, and takes it: into the idle slot, and on trial at the
next boot; one with the same OS, node and engine takes over without a reboot. A
release that does not get healthy goes back by itself. Of a file with several releases
("bundle join") the node takes one after the other.

Exit codes: 0 done, 1 failed or gone back, 3 refused by the node.`,
		Example: "  holdfast lab apply --dry-run out/mysite-2.bundle\n  holdfast lab apply --wait out/mysite-2.bundle",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			vm, err := lab.Open(a.labDir())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			doc, err := vm.Apply(ctx, args[0], o)
			if errors.Is(err, lab.ErrRefused) {
				return fmt.Errorf("%w: %w", errPolicy, err)
			}
			if err != nil {
				return err
			}
			var p install.Plan
			if err := json.Unmarshal(doc, &p); err != nil {
				return fmt.Errorf("cannot read what the node answered: %w", err)
			}
			if a.json {
				a.event(map[string]any{"event": "plan", "plan": p})
			} else {
				a.printf("%s", p.Text())
			}
			if o.DryRun || !wait {
				return nil
			}
			to := []int64{int64(p.To.Release)}
			for _, n := range p.Then {
				to = append(to, int64(n))
			}
			return a.waitUpdated(ctx, vm, to, func(lab.Status) {})
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would change, and how long it is likely to take")
	c.Flags().BoolVar(&o.Reboot, "reboot", false, "have the node reboot also where only manifests and images change")
	c.Flags().BoolVar(&wait, "wait", false, "wait until the new release is confirmed, or has gone back")
	c.Flags().DurationVar(&timeout, "timeout", 60*time.Minute, "give up after that long")
	return c
}

// updateState is what the status says of an update.
type updateState struct {
	Update struct {
		Mode      string `json:"mode"`
		Step      string `json:"step"`
		Confirmed int64  `json:"confirmed"`
		Progress  string `json:"progress"`
		Failed    *struct {
			Release int64  `json:"release"`
			Reason  string `json:"reason"`
		} `json:"failed"`
	} `json:"update"`
}

// waitUpdated follows an update, or a series of them, until the last release of
// to is confirmed and healthy, or the node is back on another. look gets each
// status.
func (a *app) waitUpdated(ctx context.Context, vm *lab.VM, to []int64, look func(lab.Status)) error {
	last := to[len(to)-1]
	start, told := a.Now(), ""
	for {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		s, err := vm.Status(try)
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("cannot see the end of the update: %w", ctx.Err())
		}
		var u updateState
		line := "no answer: the machine or its agent is starting"
		if err == nil {
			look(s)
			doc, err := json.Marshal(s)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(doc, &u); err != nil {
				return err
			}
			line = fmt.Sprintf("release %d: %s; update %s %s %s", s.Release.Number, s.Phase, u.Update.Step, u.Update.Mode, u.Update.Progress)
		}
		if line != told {
			told = line
			if a.json {
				a.event(map[string]any{"event": "status", "status": s})
			} else {
				fmt.Fprintf(a.Stderr, "%5.0f s  %s\n", a.Now().Sub(start).Seconds(), line)
			}
		}
		if err == nil && u.Update.Step == string(install.Idle) {
			if f := u.Update.Failed; f != nil && slices.Contains(to, f.Release) {
				return fmt.Errorf("the update to release %d failed, release %d runs: %s", f.Release, s.Release.Number, f.Reason)
			}
			if s.Release.Number == last && u.Update.Confirmed == last && s.Healthy() {
				if !a.json {
					a.printf("release %d is confirmed and healthy\n", last)
				}
				return nil
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
