package lab

// Status is what the agent on the node says about it.
type Status struct {
	Phase      string      `json:"phase"`
	Node       Node        `json:"node"`
	Release    Release     `json:"release"`
	Components []Component `json:"components"`
	Faults     []string    `json:"faults"`
	Timings    []Timing    `json:"timings"`
}

// PhaseHealthy is the phase of a node with every component ready.
const PhaseHealthy = "healthy"

// Node is the Kubernetes node.
type Node struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Version string `json:"version"`
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
	Reason  string `json:"reason"` // why it is not healthy
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
