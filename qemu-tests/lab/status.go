package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Status is what the agent on the node says about it. An agent may be newer
// than this: as JSON, a Status that was read is all that the agent said.
type Status struct {
	Phase      string      `json:"phase"`
	Node       Node        `json:"node"`
	Release    Release     `json:"release"`
	Engine     Engine      `json:"engine"`
	Components []Component `json:"components"`
	Since      time.Time   `json:"since"`              // when the phase began
	Faults     []string    `json:"faults"`             // what keeps the node from being healthy
	Warnings   []string    `json:"warnings,omitempty"` // what will stop the site unless somebody does something
	Timings    []Timing    `json:"timings"`
	Alerts     []Alert     `json:"alerts,omitempty"`
	Outside    Outside     `json:"outside,omitzero"`

	raw   json.RawMessage
	Other []Field `json:"-"` // what it says beside, in its order
}

// Field is something that the agent says and this package knows nothing of.
type Field struct{ Name, Text string }

// known are the fields of Status, which people are shown in another way.
var known = map[string]bool{
	"phase": true, "node": true, "release": true, "engine": true,
	"components": true, "since": true, "faults": true, "timings": true,
	"outside": true, "warnings": true, "alerts": true,
}

// UnmarshalJSON keeps what it does not know.
func (s *Status) UnmarshalJSON(b []byte) error {
	type plain Status // without these methods
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	fields, err := fieldsOf(b)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if !known[f.name] {
			p.Other = append(p.Other, Field{f.name, text(f.value)})
		}
	}
	p.raw = bytes.Clone(b)
	*s = Status(p)
	return nil
}

// MarshalJSON gives what the agent said, if s came from it.
func (s Status) MarshalJSON() ([]byte, error) {
	if s.raw != nil {
		return s.raw, nil
	}
	type plain Status
	return json.Marshal(plain(s))
}

type field struct {
	name  string
	value json.RawMessage
}

// fieldsOf are those of a JSON object, in order; of anything else, none.
func fieldsOf(b []byte) ([]field, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, err
	}
	var all []field
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		all = append(all, field{fmt.Sprint(name), v})
	}
	return all, nil
}

// text writes a value for people, on one line: "step trial, from 1, to 2".
func text(v json.RawMessage) string {
	fields, err := fieldsOf(v)
	var parts []string
	for _, f := range fields {
		if t := text(f.value); t != "" {
			parts = append(parts, f.name+" "+t)
		}
	}
	if len(fields) > 0 && err == nil {
		return strings.Join(parts, ", ")
	}
	var s string
	if json.Unmarshal(v, &s) == nil { // null too
		return strings.Join(strings.Fields(s), " ")
	}
	var c bytes.Buffer
	if json.Compact(&c, v) != nil {
		return ""
	}
	return c.String()
}

// The two phases that a node stays in unless something changes.
const (
	PhaseHealthy = "healthy" // every component is ready
	PhaseRefused = "refused" // nothing starts; the faults say why
)

// Engine is the Kubernetes distribution.
type Engine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"` // why it is not ready
}

// Node is the Kubernetes node.
type Node struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Version string `json:"version"`
	Reason  string `json:"reason,omitempty"` // why it is not ready
}

// Release is the release that runs.
type Release struct {
	Name   string `json:"name"`
	Number int64  `json:"number"`
}

// Component is one system of the platform.
type Component struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"` // why it is not healthy
}

// Alert is one that the site's monitoring raised.
type Alert struct {
	Name     string    `json:"name"`
	Summary  string    `json:"summary"`
	Severity string    `json:"severity,omitempty"`
	Since    time.Time `json:"since"`
}

// Outside is what of the node reached beyond the site since it started.
type Outside struct {
	Tries []Try  `json:"tries,omitempty"`
	Lost  int64  `json:"lost,omitempty"`  // packets that were not kept apart
	Fault string `json:"fault,omitempty"` // why it cannot be told
	// Counted is when the counters were last read, by the machine's clock; zero if
	// they never were.
	Counted time.Time `json:"counted,omitzero"`
}

// Try is all that one pod or unit sent to one place.
type Try struct {
	Who     string `json:"who"` // "pod NAMESPACE/NAME", "unit NAME", or begins with "unknown"
	From    string `json:"from,omitempty"`
	To      string `json:"to"` // an address, with the port where there is one
	Proto   string `json:"proto"`
	Packets int64  `json:"packets"`
}

// Timing is how long one step of the start took.
type Timing struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// Healthy reports whether the node and all components are.
func (s Status) Healthy() bool {
	for _, c := range s.Components {
		if !c.Healthy {
			return false
		}
	}
	return s.Phase == PhaseHealthy && s.Node.Ready
}
