package install

import (
	"context"
	"fmt"
	"time"
)

// Tries is how many boots a boot entry has left.
type Tries int

const (
	// Uncounted is of an entry without a counter: it never runs out.
	Uncounted Tries = -1
	// FullTries is what a counted entry begins with.
	FullTries Tries = 3
)

// Actions are what the steps do to the machine. Each must be on disk when it
// returns, must not mind being done twice, and must leave, when it is cut off,
// something that it can be done over again. An error means that it is not
// done, or perhaps not.
type Actions struct {
	Load   func() (State, error)
	Save   func(State) error
	Record func(Event) error // into the audit log
	Now    func() time.Time

	Import func(ctx context.Context, to Ref) error // blobs, then index.json

	// Entries are the boot entries by release number: those under their final
	// name. Of two of one release, the one with more tries counts.
	Entries     func(ctx context.Context) (map[uint64]Tries, error)
	SetTries    func(ctx context.Context, release uint64, t Tries) error // a rename
	RemoveEntry func(ctx context.Context, release uint64) error          // the temporary one too; none is fine
	WriteEntry  func(ctx context.Context, r Ref) error                   // under its temporary name, read back and checked
	Arm         func(ctx context.Context, release uint64) error          // the temporary name becomes the final one, with FullTries

	IdleSlot func(ctx context.Context, running Ref) (string, error)
	Fill     func(ctx context.Context, slot string, to Ref) error // root and verity, read back
	SetTable func(ctx context.Context, slot string, to Ref) error
	Check    func(ctx context.Context, r Ref) error // whether a slot has r's root whole, and its identifiers

	StopEngine       func(ctx context.Context) error
	StartEngine      func(ctx context.Context) error              // called when an update is given up after StopEngine
	CopyDatastore    func(ctx context.Context, from uint64) error // of the stopped engine
	CopyRunning      func(ctx context.Context, from uint64) error // of the one that runs, and goes on: as a power cut would leave it
	RestoreDatastore func(ctx context.Context, from uint64) error // the copy stays

	// Clean removes what no update needs any more: copies of the datastore,
	// temporary boot entries. It is called when the step is Idle, and what goes
	// wrong in it can wait.
	Clean  func(ctx context.Context) error
	Reboot func(ctx context.Context) error // returns when the reboot is under way
	// TakeOver makes to, which has the running release's root, the one that
	// runs, until the next reboot. AtBoot is to be called next, with to.
	TakeOver func(ctx context.Context, to Ref) error
}

// Mode is how a node boots.
type Mode string

// Modes.
const (
	Normal    Mode = "normal"    // the confirmed release
	OnTrial   Mode = "trial"     // a new release: ingress stays closed until Confirm or Fail
	Returned  Mode = "returned"  // a new release failed, and its traces are gone; State.Failed says why
	Fallback  Mode = "fallback"  // the confirmed release does not boot; this is the one before, on the current datastore
	Rebooting Mode = "rebooting" // nothing is to be started
)

// Event is what the audit log keeps of a transition.
type Event struct {
	What   string `json:"what"` // a Step, or a word for what is none
	From   uint64 `json:"from,omitempty"`
	To     uint64 `json:"to,omitempty"`
	Index  string `json:"index,omitempty"` // of To
	Reason string `json:"reason,omitempty"`
}

// enter persists a step and then records it.
func enter(a Actions, s State, step Step, reason string) (State, error) {
	next := s.at(step, a.Now())
	if err := a.Save(next); err != nil {
		return s, err
	}
	return next, record(a, next, string(step), reason)
}

// settle persists that no update is under way.
func settle(ctx context.Context, a Actions, s State, what, reason string) (State, error) {
	next := s.idle(a.Now())
	if err := a.Save(next); err != nil {
		return s, err
	}
	// From here on the node is as it should be. Neither the log nor leftovers
	// may keep it from starting; the next boot cleans up again.
	_ = record(a, s, what, reason)
	clean(ctx, a, next)
	return next, nil
}

func clean(ctx context.Context, a Actions, s State) {
	if s.Rebuilt {
		return
	}
	if err := a.Clean(ctx); err != nil {
		_ = a.Record(Event{What: "cannot clean up", Reason: err.Error()})
	}
}

func record(a Actions, s State, what, reason string) error {
	e := Event{What: what, From: s.From.Release, To: s.To.Release, Index: string(s.To.Index), Reason: reason}
	if err := a.Record(e); err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}
