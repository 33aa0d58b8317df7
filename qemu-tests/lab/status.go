package lab

import "time"

// Status is what the agent on the node says about it.
type Status struct {
	Phase      string      `json:"phase"`
	Node       Node        `json:"node"`
	Release    Release     `json:"release"`
	Engine     Engine      `json:"engine"`
	Components []Component `json:"components"`
	Since      time.Time   `json:"since"`  // when the phase began
	Faults     []string    `json:"faults"` // what keeps the node from being healthy
	Timings    []Timing    `json:"timings"`
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
