package install

import (
	"fmt"
	"strings"
	"time"

	"holdfast.dev/holdfast/bundles"
)

// Plan is what an update would change.
type Plan struct {
	From     Ref                     `json:"from"`
	To       Ref                     `json:"to"`
	OS       bool                    `json:"os"`       // another root is written
	Reboot   string                  `json:"reboot"`   // why the machine reboots; "": it does not, and the engine runs on
	Items    []bundles.Item          `json:"items"`    // files, images and manifests, the dearest first
	Packages []bundles.PackageChange `json:"packages"` // and in which of them
	Blobs    int                     `json:"blobs"`    // to be imported
	Import   int64                   `json:"import"`   // their bytes
	// Downtime is how long it last took from the order to reboot to a healthy
	// platform on this node; 0 if that is not known.
	Downtime time.Duration `json:"downtime"`
	// Then are the releases of the same file that follow, each once the one before
	// is confirmed; they are verified when their turn comes.
	Then []uint64 `json:"then,omitempty"`
	// FailedBefore is why this release went back the last time it was tried.
	FailedBefore string `json:"failedBefore,omitempty"`
}

// MakePlan compares the candidate with the running release; have are the
// node's layouts.
func MakePlan(s State, have []string, running, candidate *bundles.Verified) (Plan, error) {
	p := Plan{From: RefOf(running), To: RefOf(candidate), Downtime: s.Healthy}
	if p.OS = p.From.RootHash != p.To.RootHash; p.OS {
		p.Reboot = "the OS changes"
	} else if !p.From.is(s.Confirmed) {
		p.Reboot = fmt.Sprintf("release %s is confirmed and does not run", s.Confirmed)
	}
	d, err := bundles.Diff(candidate, running)
	if err != nil {
		return Plan{}, fmt.Errorf("cannot plan the update: %w", err)
	}
	for _, it := range d.Items {
		if it.Kind != bundles.PartForm {
			p.Items = append(p.Items, it)
		}
	}
	p.Packages = d.Packages
	missing, err := Missing(candidate, have, !p.OS)
	if err != nil {
		return Plan{}, fmt.Errorf("cannot plan the update: %w", err)
	}
	p.Blobs = len(missing)
	for _, c := range missing {
		p.Import += c.Size
	}
	if s.Failed.Release.is(p.To) {
		p.FailedBefore = s.Failed.Reason
	}
	return p, nil
}

// Text is the plan for an operator.
func (p Plan) Text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("update %s from release %d to %d", p.To.Name, p.From.Release, p.To.Release)
	if p.FailedBefore != "" {
		line("tried before, and went back: %s", p.FailedBefore)
	}
	if p.OS {
		line("the OS changes: the idle slot is written")
	} else {
		line("the OS stays: both releases run from the same root")
	}
	for _, c := range p.Packages {
		line("  package %s %s (in %s)", c.Name, change(c.From, c.To), strings.Join(c.In, ", "))
	}
	for _, it := range p.Items {
		switch it.Kind {
		case bundles.PartImage:
			line("  image %s %s", it.Name, it.Change)
		case bundles.PartManifests:
			line("  manifest %s of %s %s", it.Name, it.Component, it.Change)
		}
	}
	line("to be imported: %d blobs, %.1f MiB", p.Blobs, float64(p.Import)/(1<<20))
	for _, n := range p.Then {
		line("then release %d of the same file, by itself", n)
	}
	if p.Reboot != "" && !p.OS {
		line("it takes a reboot: %s", p.Reboot)
	}
	switch {
	case p.Reboot == "":
		line("no reboot: what does not change runs on; users' ingress is closed until the release is healthy")
	case p.Downtime > 0:
		line("expected downtime: %s, as last measured here", p.Downtime.Round(time.Second))
	default:
		line("expected downtime: unknown, none was measured here yet")
	}
	return b.String()
}

func change(from, to string) string {
	switch {
	case from == "":
		return to + " added"
	case to == "":
		return from + " removed"
	case from == to:
		return to + " rebuilt"
	}
	return from + " -> " + to
}
