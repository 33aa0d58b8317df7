package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Target is the cluster that components are applied to; *Cluster is one.
type Target interface {
	EnsureNamespace(ctx context.Context, name string) error
	Apply(ctx context.Context, o *unstructured.Unstructured) error
	Unready(ctx context.Context, r node.Ready) (string, error)
	SaveInventory(ctx context.Context, objects map[string][]string) error

	// For Prune.
	Inventory(ctx context.Context) (map[string][]string, error)
	SetInventory(ctx context.Context, objects map[string][]string) error
	Delete(ctx context.Context, line string) error
}

// Component is one system of the platform with its manifests in order.
type Component struct {
	node.Component
	Objects []*unstructured.Unstructured
}

// isFirst reports whether o is a Job that the others wait for.
func (c Component) isFirst(o *unstructured.Unstructured) bool {
	return slices.ContainsFunc(c.First, func(r node.Ready) bool {
		return r.Kind == o.GetKind() && r.Namespace == o.GetNamespace() && r.Name == o.GetName()
	})
}

// withoutPods reports whether c's manifests want no pods of r.
func (c Component) withoutPods(r node.Ready) bool {
	return slices.ContainsFunc(c.Objects, func(o *unstructured.Unstructured) bool {
		n, found, _ := unstructured.NestedFloat64(o.Object, "spec", "replicas")
		return found && n == 0 && r.Kind == o.GetKind() && r.Namespace == o.GetNamespace() && r.Name == o.GetName()
	})
}

// Health is how a component is.
type Health struct {
	Name    string
	Applied bool
	Healthy bool
	Reason  string // why it is not healthy
}

// Reconciler applies components in the order of their needs, and tries again,
// ever more slowly, what fails. It never gives up: a site has nobody to ask.
type Reconciler struct {
	target  Target
	secrets func(s node.Secret) (map[string]string, error)
	now     func() time.Time

	began     time.Time
	inventory bool     // is saved
	withheld  bool     // what is for a confirmed release
	back      []string // components whose data are put back first
	backDone  func(component string) error
	parts     []*part
}

type part struct {
	Component
	Health
	next        time.Time // not tried again before
	delay       time.Duration
	looked      time.Time     // its health is from then
	since       time.Time     // it is as it is since then, or since it was last applied
	again       time.Duration // how long it may be unhealthy until it is applied anew
	puttingBack bool
}

const (
	firstDelay = 2 * time.Second
	mostDelay  = time.Minute
	// Nothing is looked at again before: looks at everything are a good part of
	// what a slow API server can do.
	lookAgain        = 19 * time.Second
	lookAgainWaiting = 4 * time.Second // while it is not healthy
	// What is still not healthy is applied anew, ever less often, with what it
	// needs: something of either may have been changed or removed.
	applyAgain = 3 * time.Minute
	// How long a component leaves the processors to another one that starts. A
	// start that takes longer has failed, or the machine is too slow to wait.
	patience = 30 * time.Minute
)

// NewReconciler takes components in dependency order. secrets returns the
// values of a secret that is kept on the node.
func NewReconciler(t Target, cs []Component, secrets func(node.Secret) (map[string]string, error), now func() time.Time) *Reconciler {
	r := &Reconciler{target: t, secrets: secrets, now: now}
	for _, c := range cs {
		r.parts = append(r.parts, &part{Component: c, again: applyAgain, Health: Health{Name: c.Component.Name, Reason: "not applied yet"}})
	}
	return r
}

// Tick applies what can be applied now, and returns how all components are.
func (r *Reconciler) Tick(ctx context.Context) []Health {
	if !r.inventory {
		if err := r.saveInventory(ctx); err != nil {
			// Without it an object could be applied that nothing remembers.
			for _, p := range r.parts {
				p.Reason = err.Error()
			}
			return r.health()
		}
		r.inventory, r.began = true, r.now()
	}
	due := r.due()
	for _, p := range r.parts {
		r.tick(ctx, p, due[p.Health.Name])
	}
	return r.health()
}

// due are the components to be applied anew.
func (r *Reconciler) due() map[string]bool {
	out := map[string]bool{}
	for _, p := range r.parts {
		if p.Healthy || !p.Applied || r.now().Sub(p.since) < p.again {
			continue
		}
		out[p.Health.Name] = true
		for _, n := range r.parts {
			stands := slices.Contains(p.Needs, n.Health.Name) || slices.Contains(p.Uses, n.Health.Name)
			if stands && r.now().Sub(n.since) >= applyAgain {
				out[n.Health.Name] = true
			}
		}
	}
	return out
}

func (r *Reconciler) tick(ctx context.Context, p *part, due bool) {
	missing := r.unhealthy(p.Needs)
	switch {
	case p.Applied && (!due || len(missing) > 0):
		// Its health alone is of interest.
	case len(missing) > 0:
		p.Reason = "waits for " + strings.Join(missing, ", ")
		return
	case r.now().Before(p.next):
		return
	default:
		if missing := r.unapplied(p.After); len(missing) > 0 {
			p.Reason = "comes after " + strings.Join(missing, ", ")
			return
		}
		if first := r.unhealthy(p.Yields); !p.Applied && len(first) > 0 && r.now().Sub(r.began) < patience {
			p.Reason = "lets " + strings.Join(first, ", ") + " start first"
			return
		}
		waits, err := r.apply(ctx, p)
		if err == nil && waits != "" {
			p.Healthy, p.Reason = false, waits
			return
		}
		if err != nil {
			p.delay = min(max(2*p.delay, firstDelay), mostDelay)
			p.next, p.Healthy, p.Reason = r.now().Add(p.delay), false, err.Error()
			return
		}
		if p.Applied && !p.Healthy {
			p.again *= 2
		}
		p.Applied, p.since, p.looked, p.delay = true, r.now(), time.Time{}, 0
	}
	again := lookAgain
	if !p.Healthy {
		again = lookAgainWaiting
	}
	if !p.looked.IsZero() && r.now().Sub(p.looked) < again {
		return
	}
	p.looked = r.now()
	p.Reason = r.unready(ctx, p)
	if healthy := p.Reason == ""; healthy != p.Healthy {
		p.Healthy, p.since, p.again = healthy, r.now(), applyAgain
	}
	if !p.Healthy && len(missing) > 0 {
		p.Reason = fmt.Sprintf("needs %s, which is not healthy; %s", strings.Join(missing, ", "), p.Reason)
	}
}

// unready says what of p is not ready, or nothing. What the release itself has
// without pods is as it should be.
func (r *Reconciler) unready(ctx context.Context, p *part) string {
	for _, w := range p.Ready {
		if p.withoutPods(w) {
			continue
		}
		reason, err := r.target.Unready(ctx, w)
		if err != nil {
			return fmt.Sprintf("cannot look at %s %s: %v", w.Kind, w.Name, err)
		}
		if reason != "" {
			return reason
		}
	}
	return ""
}

// apply makes namespaces and secrets before what refers to them, and says what
// it waits for before it applies the rest. An object that is refused does not
// keep the others back; all faults are joined.
func (r *Reconciler) apply(ctx context.Context, p *part) (waits string, err error) {
	isNamespace := func(o *unstructured.Unstructured) bool { return o.GetKind() == "Namespace" }
	var declared []string
	for _, o := range p.Objects {
		if isNamespace(o) {
			if err := r.target.Apply(ctx, o); err != nil {
				return "", err
			}
			declared = append(declared, o.GetName())
		}
	}
	want := map[string]bool{p.Namespace: p.Namespace != ""}
	for _, s := range p.Secrets {
		want[s.Namespace] = true
	}
	for _, ns := range slices.Sorted(maps.Keys(want)) {
		if !want[ns] || slices.Contains(declared, ns) {
			continue
		}
		if err := r.target.EnsureNamespace(ctx, ns); err != nil {
			return "", err
		}
	}
	for _, s := range p.Secrets {
		values, err := r.secrets(s)
		if err != nil {
			return "", err
		}
		o, err := secretObject(s.Namespace, s.Name, values)
		if err != nil {
			return "", err
		}
		if err := r.target.Apply(ctx, o); err != nil {
			return "", err
		}
	}
	var errs []error
	for _, o := range p.Objects {
		if p.isFirst(o) {
			errs = append(errs, r.target.Apply(ctx, o))
		}
	}
	for _, f := range p.First {
		reason, err := r.target.Unready(ctx, f)
		errs = append(errs, err)
		if reason != "" && waits == "" {
			waits = fmt.Sprintf("waits for %s/%s: %s", f.Namespace, f.Name, reason)
		}
	}
	if waits != "" {
		return waits, errors.Join(errs...)
	}
	if slices.Contains(r.back, p.Health.Name) {
		waits, err := r.putBack(ctx, p)
		if waits != "" || err != nil {
			return waits, errors.Join(append(errs, err)...)
		}
	}
	for _, o := range p.Objects {
		if !isNamespace(o) && !p.isFirst(o) && !atMoment(o) && !(r.withheld && whenConfirmed(o)) {
			errs = append(errs, r.target.Apply(ctx, o))
		}
	}
	return "", errors.Join(errs...)
}

func (r *Reconciler) unhealthy(names []string) []string {
	return r.without(names, func(h Health) bool { return h.Healthy })
}

func (r *Reconciler) unapplied(names []string) []string {
	return r.without(names, func(h Health) bool { return h.Applied })
}

// without are those of names for which ok does not hold.
func (r *Reconciler) without(names []string, ok func(Health) bool) []string {
	var out []string
	for _, p := range r.parts {
		if slices.Contains(names, p.Health.Name) && !ok(p.Health) {
			out = append(out, p.Health.Name)
		}
	}
	return out
}

func (r *Reconciler) health() []Health {
	out := make([]Health, len(r.parts))
	for i, p := range r.parts {
		out[i] = p.Health
	}
	return out
}

func (r *Reconciler) saveInventory(ctx context.Context) error {
	return r.target.SaveInventory(ctx, r.objects())
}

// objects are the inventory lines of this release, by component.
func (r *Reconciler) objects() map[string][]string {
	objects := map[string][]string{}
	for _, p := range r.parts {
		var list []string
		for _, s := range p.Secrets {
			list = append(list, inventoryLine("v1", "Secret", s.Namespace, s.Name))
		}
		for _, o := range p.Objects {
			if atMoment(o) {
				continue
			}
			list = append(list, inventoryLine(o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName()))
		}
		objects[p.Health.Name] = list
	}
	return objects
}
