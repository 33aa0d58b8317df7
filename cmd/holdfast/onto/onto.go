// Package onto applies a release to a cluster that holdfast did not install:
// its manifests and images, without an operating system.
//
//	verified release ─ MakePlan ─► Plan      asks the cluster, changes nothing; all refusals at once
//	                    Plan.Apply ─► Result  registry ─► blobs ─► objects, in order ─► healthy ─► pruned
//
// Everything goes through the API server that a kubeconfig names. All of it can
// be interrupted at any place, and done again: what is there is left as it is.
package onto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Namespace has the registry and the inventories.
const Namespace = "holdfast-applied"

// Manager owns the fields that are applied.
const Manager = "holdfast-apply"

// DefaultPort is where containerd on each node finds the registry, at 127.0.0.1.
// Nodes of holdfast know it, as node.BroughtRegistry.
const DefaultPort = 5002

// ErrRefused is wrapped by what MakePlan finds against a release or a cluster.
var ErrRefused = errors.New("refused")

// Options say what is applied where.
type Options struct {
	Release *bundles.Verified
	Cluster *rest.Config

	LeaveOut     []string // components that are not applied, knowingly
	AllowOlder   bool     // than what is there
	TakeOver     bool     // fields that others have set
	Image        string   // for the registry's pods, of those on every node; "" chooses
	Port         int      // 0 is that of a registry that is there, or DefaultPort
	StorageClass string   // of the registry's volume; "" is the cluster's default
	StorageGiB   int64    // of it; 0 goes by the release

	Program []byte // holdfast-registry
	Random  io.Reader
	Now     func() time.Time
	Sleep   func(context.Context, time.Duration) error
	Report  Report
}

// Report is told what goes on; each function may be nil.
type Report struct {
	Step   func(name string) (done func(note string))
	Bytes  func(done, total int64, item string)
	Health func(component string, healthy bool, reason string)
	Wait   func(reason string) // what is waited for, when it changes
}

// Plan is what applying a release would do.
type Plan struct {
	Release  bundles.Facts `json:"release"`
	Index    store.Content `json:"index"`
	Was      Record        `json:"was,omitzero"` // of the site, in the cluster
	Server   string        `json:"server"`
	Version  string        `json:"version"` // of Kubernetes
	Own      bool          `json:"installedByHoldfast,omitempty"`
	Registry Registry      `json:"registry"`
	LeftOut  []LeftOut     `json:"leftOut,omitempty"`
	Objects  []Object      `json:"objects"`
	Remove   []string      `json:"remove,omitempty"` // once all is healthy
	Images   []Image       `json:"images"`
	Bypassed []string      `json:"bypassed,omitempty"` // flags that the operator gave

	options    Options
	site       string
	cluster    *apply.Cluster
	components []apply.Component
	payload    payload
}

// Object is what becomes of an object.
type Object struct {
	Component string       `json:"component"`
	Object    string       `json:"object"` // as in the inventory
	Change    apply.Change `json:"change"`
	Unasked   string       `json:"unasked,omitempty"` // why the API server could not be asked
}

// Image is an image of the release, and what the cluster calls it.
type Image struct {
	Name string `json:"name"`
	Ref  string `json:"ref"`
}

// LeftOut is a component that is not applied.
type LeftOut struct {
	Component string `json:"component"`
	Reason    string `json:"reason"`
}

// Result is what Apply did.
type Result struct {
	Sent    int64    `json:"sent"` // bytes of blobs
	Removed []string `json:"removed,omitempty"`
}

// MakePlan looks at the cluster. What it refuses wraps ErrRefused, all reasons
// joined; another error means that the cluster could not be asked.
func MakePlan(ctx context.Context, o Options) (Plan, error) {
	f := o.Release.Facts()
	p := Plan{Release: f, Index: o.Release.Index(), Server: serverOf(o.Cluster), options: o, site: f.Name}
	c, err := apply.Guest(o.Cluster, apply.Terms{Manager: Manager, Namespace: Namespace, Inventory: "inventory-" + f.Name, Force: o.TakeOver})
	if err != nil {
		return p, err
	}
	p.cluster = c
	look, err := p.look(ctx)
	if err != nil {
		return p, fmt.Errorf("cannot ask the cluster at %s: %w\nhint: is the kubeconfig of this cluster, is the server up, and does it know the user?", p.Server, err)
	}
	p.Version, p.Was, p.Own = look.version, look.was, look.own

	var refusals []error
	refuse := func(err error) {
		if err != nil {
			refusals = append(refusals, err)
		}
	}
	refuse(p.older())
	refuse(p.chooseRegistry(look))
	refuse(p.chooseComponents(look))
	refuse(p.readImages())
	refuse(p.storage(look))
	refuse(p.kinds(ctx))
	refuse(p.rights(ctx))
	if len(refusals) == 0 { // else each of these would fail for what is told already
		refuse(p.tryAll(ctx, look))
	}
	if err := errors.Join(refusals...); err != nil {
		return p, fmt.Errorf("%w: release %d of %s cannot be applied to the cluster at %s:\n%w", ErrRefused, f.Release, f.Name, p.Server, err)
	}
	for flag, given := range map[string]bool{"--leave-out": len(o.LeaveOut) > 0, "--allow-older": o.AllowOlder, "--take-over": o.TakeOver} {
		if given {
			p.Bypassed = append(p.Bypassed, flag)
		}
	}
	slices.Sort(p.Bypassed)
	p.Remove, err = p.reconciler(ctx).Surplus(ctx)
	return p, err
}

// serverOf is the address of the API server, without what a URL may hide.
func serverOf(c *rest.Config) string {
	u, err := url.Parse(c.Host)
	if err != nil || u.Host == "" {
		return c.Host
	}
	return u.Scheme + "://" + u.Host
}

// older refuses a release that is not above the one that is there.
func (p *Plan) older() error {
	was := p.Was
	if p.options.AllowOlder || was.Release == 0 {
		return nil
	}
	const hint = "hint: build it with a higher number; --allow-older applies it all the same"
	switch {
	case p.Release.Release < was.Release:
		return fmt.Errorf("the cluster has release %d of %s, this is release %d\n%s", was.Release, p.site, p.Release.Release, hint)
	case p.Release.Release == was.Release && string(p.Index.Digest) != was.Index:
		return fmt.Errorf("the cluster has another release %d of %s, %s\n%s", was.Release, p.site, was.Index, hint)
	case p.Release.Zone != was.Zone:
		return fmt.Errorf("the cluster has %s for zone %s, this is for zone %s\nhint: one zone's site does not take another's place; --allow-older applies it all the same", p.site, was.Zone, p.Release.Zone)
	}
	return nil
}

// Apply does what the plan says, and waits until the release is healthy. With an
// error, what is done stays, and the next run goes on from there.
func (p Plan) Apply(ctx context.Context) (Result, error) {
	var r Result
	f := p.Release
	err := p.step("registry", func() (string, error) { return p.bring(ctx) })
	if err != nil {
		return r, err
	}
	err = p.step("images", func() (note string, err error) {
		r.Sent, err = p.push(ctx)
		return fmt.Sprintf("%d images, %d bytes were missing", len(p.Images), r.Sent), err
	})
	if err != nil {
		return r, err
	}
	rec := p.reconciler(ctx)
	err = p.step("objects", func() (string, error) {
		if err := p.record(ctx, false); err != nil {
			return "", err
		}
		if err := p.untilHealthy(ctx, rec); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d components healthy", len(p.components)), nil
	})
	if err != nil {
		return r, fmt.Errorf("release %d of %s is not healthy: %w\nhint: what it replaces is still there; see to the cause and run the same command again", f.Release, f.Name, err)
	}
	err = p.step("clear away", func() (note string, err error) {
		if r.Removed, err = rec.Prune(ctx); err != nil {
			return "", err
		}
		if err := errors.Join(p.settle(ctx), p.sweepPrograms(ctx)); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d objects removed", len(r.Removed)), p.record(ctx, true)
	})
	return r, err
}

func (p Plan) step(name string, do func() (string, error)) error {
	done := func(string) {}
	if p.options.Report.Step != nil {
		done = p.options.Report.Step(name)
	}
	note, err := do()
	if err == nil {
		done(note)
	}
	return err
}

func (p Plan) reconciler(ctx context.Context) *apply.Reconciler {
	return apply.NewReconciler(p.cluster, p.components, func(s node.Secret) (map[string]string, error) { return p.secret(ctx, s) }, p.options.Now)
}

// lookEvery is how often components are looked at while one is not healthy.
const lookEvery = 2 * time.Second

func (p Plan) untilHealthy(ctx context.Context, rec *apply.Reconciler) error {
	said := map[string]apply.Health{}
	for {
		all, waits := rec.Tick(ctx), []string{}
		for _, h := range all {
			if !h.Healthy {
				waits = append(waits, "component "+h.Name+": "+h.Reason)
			}
			if ctx.Err() == nil && said[h.Name] != h && p.options.Report.Health != nil {
				said[h.Name] = h
				p.options.Report.Health(h.Name, h.Healthy, h.Reason)
			}
		}
		if len(waits) == 0 {
			return nil
		}
		if err := p.options.Sleep(ctx, lookEvery); err != nil {
			return fmt.Errorf("%w: %s", err, strings.Join(waits, "; "))
		}
	}
}
