// Package install brings a verified release onto a node and back off it: it
// says whether a release may come, imports its blobs, and walks the persisted
// steps of an update. What is done to the disk, the boot entries and the
// engine are Actions of the caller; docs/updates.md has the table of steps.
package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
)

// Step is what an update is at. It is persisted before it is done.
type Step string

// The steps, in the order of an update that succeeds; then those of one that
// fails.
const (
	Idle       Step = "idle"
	Importing  Step = "importing"
	Retiring   Step = "retiring"
	Writing    Step = "writing"
	Table      Step = "table"
	Entry      Step = "entry"
	Stopping   Step = "stopping"
	Switching  Step = "switching"
	Trial      Step = "trial"
	Confirming Step = "confirming"
	Failing    Step = "failing"
	Returning  Step = "returning"
)

var steps = []Step{Idle, Importing, Retiring, Writing, Table, Entry, Stopping, Switching, Trial, Confirming, Failing, Returning}

// Ref names a release.
type Ref struct {
	Name     string       `json:"name"`
	Release  uint64       `json:"release"`
	Index    store.Digest `json:"index"`
	RootHash string       `json:"rootHash"`
}

// RefOf is the name of a verified release.
func RefOf(v *bundles.Verified) Ref {
	f := v.Facts()
	return Ref{f.Name, f.Release, v.Index().Digest, f.RootHash}
}

func (r Ref) String() string { return fmt.Sprintf("%s %d", r.Name, r.Release) }

// is reports whether both are one release. Releases may share a root.
func (r Ref) is(o Ref) bool { return r.Release == o.Release && r.Index == o.Index }

// Failure is why an update did not come to its end.
type Failure struct {
	Release Ref       `json:"release"`
	Reason  string    `json:"reason"`
	Time    time.Time `json:"time"`
}

// State is update.json. An older release must read what a newer one wrote
// after the way back, so fields may come, and Version stays 1 as long as an
// old reader may pass over them.
type State struct {
	Version   int                `json:"version"`
	Step      Step               `json:"step"`
	Confirmed Ref                `json:"confirmed"`
	From      Ref                `json:"from,omitzero"` // what runs while the update is made; none in Idle
	To        Ref                `json:"to,omitzero"`
	Slot      string             `json:"slot,omitempty"`    // of To's root; empty if From runs from the same root
	InPlace   bool               `json:"inPlace,omitempty"` // To takes over without a reboot
	Failed    Failure            `json:"failed,omitzero"`
	Times     map[Step]time.Time `json:"times,omitempty"` // when each step of the last update began
	// Healthy is how long it last took from the order to reboot to a healthy
	// platform; 0 if that was never measured.
	Healthy time.Duration `json:"rebootToHealthy,omitempty"`
	// Rebuilt is set when the file was lost: what lies around may then be of
	// an update that nobody knows of, and is not cleaned up.
	Rebuilt bool `json:"rebuilt,omitempty"`
}

// Fresh is the state of a node that has known no update, and the one to go on
// with when the file cannot be read (lost is true then).
func Fresh(running Ref, lost bool) State {
	return State{Version: 1, Step: Idle, Confirmed: running, Rebuilt: lost}
}

// ErrDamaged is wrapped by errors of ReadState about a file that was read and
// makes no sense.
var ErrDamaged = errors.New("damaged")

const maxState = 64 << 10

var hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ReadState reads update.json. There being none is os.ErrNotExist; one that
// cannot be made out wraps ErrDamaged, and the caller may go on with Fresh and
// say so in the audit log.
func ReadState(name string) (State, error) {
	f, err := os.Open(name)
	if err != nil {
		return State{}, fmt.Errorf("cannot read the state of updates: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return State{}, fmt.Errorf("cannot read the state of updates: %w", err)
	}
	s, err := parseState(b)
	if err != nil {
		return State{}, fmt.Errorf("cannot read the state of updates in %s: %w: %w\nhint: it is made anew from the running release; an update that was under way must be repeated", name, ErrDamaged, err)
	}
	return s, nil
}

func parseState(b []byte) (State, error) {
	if len(b) > maxState {
		return State{}, fmt.Errorf("more than %d bytes", maxState)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, err
	}
	return s, s.check()
}

func (s State) check() error {
	if s.Version != 1 {
		return fmt.Errorf("version %d, want 1", s.Version)
	}
	var errs []error
	if !slices.Contains(steps, s.Step) {
		errs = append(errs, fmt.Errorf("no such step: %q", s.Step))
	}
	errs = append(errs, s.Confirmed.check("confirmed"))
	if s.Step == Idle {
		if s.From != (Ref{}) || s.To != (Ref{}) {
			errs = append(errs, errors.New("idle, and an update under way"))
		}
		return errors.Join(errs...)
	}
	errs = append(errs, s.From.check("from"), s.To.check("to"))
	if s.From.Release >= s.To.Release {
		errs = append(errs, fmt.Errorf("an update from %d to %d", s.From.Release, s.To.Release))
	}
	if s.Slot == "" && s.From.RootHash != s.To.RootHash {
		errs = append(errs, errors.New("another root, and no slot"))
	}
	if s.InPlace && s.From.RootHash != s.To.RootHash {
		errs = append(errs, errors.New("another root, and no reboot"))
	}
	return errors.Join(errs...)
}

func (r Ref) check(what string) error {
	_, err := store.ParseDigest(string(r.Index))
	if err != nil || r.Release == 0 || r.Name == "" || !hashForm.MatchString(r.RootHash) {
		return fmt.Errorf("%s names no release: %+v", what, r)
	}
	return nil
}

// WriteState replaces update.json, and returns when file and directory are on
// disk.
func WriteState(name string, s State) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err == nil {
		_, err = parseState(b) // what is written can be read
	}
	if err == nil {
		err = replaceFile(name, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot write the state of updates: %w", err)
	}
	return nil
}

func replaceFile(name string, b []byte) error {
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// at is s at another step; s itself stays as it is.
func (s State) at(step Step, now time.Time) State {
	s.Step, s.Times = step, maps.Clone(s.Times)
	if s.Times == nil {
		s.Times = map[Step]time.Time{}
	}
	s.Times[step] = now.UTC()
	return s
}

// idle is s with no update under way.
func (s State) idle(now time.Time) State {
	s = s.at(Idle, now)
	s.From, s.To, s.Slot, s.InPlace = Ref{}, Ref{}, "", false
	return s
}
