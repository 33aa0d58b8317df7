// Package status keeps what the agent tells: a file for programs, lines on the
// console for people, and the log.
package status

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/outside"
)

// Status is /run/holdfast/status.json.
type Status struct {
	Phase      string      `json:"phase"`
	Node       Node        `json:"node"`
	Release    Release     `json:"release"`
	Engine     Engine      `json:"engine"`
	Components []Component `json:"components"`
	Since      time.Time   `json:"since"`              // when the phase began
	Faults     []string    `json:"faults"`             // what keeps the node from being healthy
	Warnings   []string    `json:"warnings,omitempty"` // what will stop the site unless somebody does something
	Alerts     []Alert     `json:"alerts,omitempty"`   // of the site's monitoring
	Timings    []Timing    `json:"timings"`
	Update     UpdateState `json:"update"`
	Backup     *Backup     `json:"backup,omitempty"`        // the last one that was made
	NoBackup   bool        `json:"backupOverdue,omitempty"` // none was made for twice the time that the release asks for
	// BackupServer is where backups go that the node makes by itself; nil: onto a stick.
	BackupServer *BackupServer `json:"backupServer,omitempty"`
	Outside      Outside       `json:"outside,omitzero"`
}

// Alert is one that the site's monitoring raised.
type Alert struct {
	Name     string    `json:"name"`
	Summary  string    `json:"summary"`
	Severity string    `json:"severity,omitempty"`
	Since    time.Time `json:"since"`
}

// BackupServer is a place on a server, and what it lets the node in by.
type BackupServer struct {
	URL       string `json:"url"`
	Key       string `json:"key,omitempty"`       // of SFTP: the line of authorized_keys that it must have
	AccessKey string `json:"accessKey,omitempty"` // of S3: the name of the node's access key
	Missing   string `json:"missing,omitempty"`   // of S3: what to do where the node has none
}

// Text gives k for people.
func (k BackupServer) Text() string {
	switch {
	case k.Key != "":
		return fmt.Sprintf("backups go to %s, which must let in this key:\n%s", k.URL, k.Key)
	case k.AccessKey != "":
		return fmt.Sprintf("backups go to %s, with the access key %s", k.URL, k.AccessKey)
	}
	return fmt.Sprintf("NO BACKUPS: they go to %s, and there are no credentials for it\nhint: %s", k.URL, k.Missing)
}

// Outside is what of the node reached beyond the site in this boot.
type Outside struct {
	Tries []outside.Try `json:"tries,omitempty"`
	Lost  int64         `json:"lost,omitempty"`  // packets that were not kept apart
	Fault string        `json:"fault,omitempty"` // why it cannot be told
	// Counted is when the counters were last read; it moves on each minute.
	Counted time.Time `json:"counted,omitzero"`
}

// Backup is one that was written and read back.
type Backup struct {
	File    string    `json:"file"` // its name on the stick or the server
	Code    string    `json:"code"` // what to compare when it is restored
	Release uint64    `json:"release"`
	Time    time.Time `json:"time"`  // of the moment that it shows
	Bytes   int64     `json:"bytes"` // of the file
	State   int64     `json:"state"` // bytes of the files in it
	Held    float64   `json:"held"`  // seconds for which the site stood still
	// NotRemoved is why old ones stay that should not.
	NotRemoved string `json:"notRemoved,omitempty"`
}

// UpdateState is how the node stands to its releases.
type UpdateState struct {
	Mode      string   `json:"mode,omitempty"` // normal, trial, returned, fallback, rebooting
	Step      string   `json:"step,omitempty"` // idle when no update is under way
	From      uint64   `json:"from,omitempty"`
	To        uint64   `json:"to,omitempty"`
	Confirmed uint64   `json:"confirmed,omitempty"`
	Progress  string   `json:"progress,omitempty"`
	Failed    *Failed  `json:"failed,omitempty"` // the last failure, until the next update begins
	Then      []uint64 `json:"then,omitempty"`   // releases of a series that are to follow
}

// Failed is why an update did not come to its end.
type Failed struct {
	Release uint64    `json:"release"`
	Reason  string    `json:"reason"`
	Time    time.Time `json:"time"`
}

type Node struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Version string `json:"version"`
	Reason  string `json:"reason,omitempty"`
}

type Release struct {
	Name   string `json:"name"`
	Number int    `json:"number"`
}

type Engine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"`
}

type Component struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"`
}

// Timing is how long a step of this boot took.
type Timing struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// The phases, in order.
const (
	Starting   = "starting"
	Refused    = "refused"    // nothing starts; the faults say why
	Network    = "network"    // finding and bringing up this node
	EngineUp   = "engine"     // starting Kubernetes
	Components = "components" // applying and waiting for the platform
	Healthy    = "healthy"    // all is well
	Degraded   = "degraded"   // all was well, and something is not now
)

// Reporter tells. Make one with New; it is safe for concurrent use.
type Reporter struct {
	file    string
	console func() (io.WriteCloser, error)
	log     *slog.Logger
	now     func() time.Time

	mu   sync.Mutex
	s    Status
	last []byte
}

// New returns a reporter that writes file. console is opened for each line,
// because a console may hang up; nil means none.
func New(file string, console func() (io.WriteCloser, error), log *slog.Logger, now func() time.Time) *Reporter {
	return &Reporter{file: file, console: console, log: log, now: now, s: Status{Phase: Starting, Since: now()}}
}

// Say prints lines to the console and the log, with the prefix that tells them
// from the kernel's. What pods said may be in them, so no byte of theirs moves
// the console's cursor.
func (r *Reporter) Say(format string, a ...any) {
	msg := fmt.Sprintf(format, a...)
	r.log.Info(msg)
	if r.console == nil {
		return
	}
	w, err := r.console()
	if err != nil {
		return // no console to tell it to
	}
	defer w.Close()
	for line := range strings.Lines(msg) {
		fmt.Fprintf(w, "holdfast: %s\n", strings.Map(plain, strings.TrimSuffix(line, "\n")))
	}
}

func plain(r rune) rune {
	if unicode.IsControl(r) && r != '\t' {
		return '?'
	}
	return r
}

// Get returns a copy of the status.
func (r *Reporter) Get() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.copy()
}

func (r *Reporter) copy() Status {
	s := r.s
	s.Components, s.Faults, s.Timings = slices.Clone(s.Components), slices.Clone(s.Faults), slices.Clone(s.Timings)
	s.Warnings, s.Alerts = slices.Clone(s.Warnings), slices.Clone(s.Alerts)
	return s
}

// Update changes the status and writes the file if anything changed.
func (r *Reporter) Update(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.copy()
	change(&s)
	if s.Phase != r.s.Phase {
		s.Since = r.now()
	}
	r.s = s
	b, err := Encode(s)
	if err != nil || string(b) == string(r.last) {
		return
	}
	r.last = b
	if err := os.MkdirAll(filepath.Dir(r.file), 0o755); err != nil {
		r.log.Error("cannot write status", "error", err)
		return
	}
	if err := atomicfile.Write(r.file, b, 0o644); err != nil {
		r.log.Error("cannot write status", "error", err)
	}
}

// Phase moves to phase p, and forgets the faults of the one before.
func (r *Reporter) Phase(p string) {
	r.Update(func(s *Status) { s.Phase, s.Faults = p, nil })
}

// Step runs f, and if it succeeds tells and records how long it took.
func (r *Reporter) Step(name string, f func() error) error {
	start := r.now()
	err := f()
	if err != nil {
		return err
	}
	d := r.now().Sub(start)
	r.Update(func(s *Status) {
		s.Timings = append(s.Timings, Timing{name, float64(d.Milliseconds()) / 1000})
	})
	r.Say("%s: done in %.1f s", name, d.Seconds())
	return nil
}

// Encode gives the JSON of s, with empty lists rather than null.
func Encode(s Status) ([]byte, error) {
	if s.Components == nil {
		s.Components = []Component{}
	}
	if s.Faults == nil {
		s.Faults = []string{}
	}
	if s.Timings == nil {
		s.Timings = []Timing{}
	}
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// Text gives s for people.
func Text(s Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "release %s %d, %s since %s\n", s.Release.Name, s.Release.Number, s.Phase, s.Since.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "node %s: %s\n", s.Node.Name, state(s.Node.Ready, "ready", s.Node.Reason))
	fmt.Fprintf(&b, "engine %s %s: %s\n", s.Engine.Name, s.Engine.Version, state(s.Engine.Ready, "ready", s.Engine.Reason))
	for _, c := range s.Components {
		fmt.Fprintf(&b, "component %s: %s\n", c.Name, state(c.Healthy, "healthy", c.Reason))
	}
	if u := s.Update; u.To != 0 {
		fmt.Fprintf(&b, "update from release %d to %d: %s %s\n", u.From, u.To, u.Step, u.Progress)
	}
	if f := s.Update.Failed; f != nil {
		fmt.Fprintf(&b, "the update to release %d failed: %s\n", f.Release, f.Reason)
	}
	for _, t := range s.Outside.Tries {
		fmt.Fprintf(&b, "reached outside: %s\n", t)
	}
	if s.Outside.Lost > 0 {
		fmt.Fprintf(&b, "reached outside: %d packets more\n", s.Outside.Lost)
	}
	if s.Outside.Fault != "" {
		fmt.Fprintf(&b, "cannot tell what reaches outside: %s\n", s.Outside.Fault)
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	for _, x := range s.Alerts {
		fmt.Fprintf(&b, "alert since %s: %s: %s\n", x.Since.UTC().Format(time.RFC3339), x.Name, x.Summary)
	}
	if k := s.BackupServer; k != nil {
		fmt.Fprintf(&b, "%s\n", strings.Replace(k.Text(), ":\n", ": ", 1))
	}
	for _, f := range s.Faults {
		fmt.Fprintf(&b, "fault: %s\n", f)
	}
	return b.String()
}

func state(ok bool, word, reason string) string {
	switch {
	case ok:
		return word
	case reason == "":
		return "not " + word
	}
	return "not " + word + ": " + reason
}
