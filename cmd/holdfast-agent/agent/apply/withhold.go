package apply

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// When is the annotation of an object that is not there all the time: with
// Confirmed a release on trial does without it; see whenDump.
const (
	When      = "holdfast.dev/when"
	Confirmed = "confirmed"
)

func whenConfirmed(o *unstructured.Unstructured) bool { return o.GetAnnotations()[When] == Confirmed }

// Withhold removes what is only for a confirmed release, which the release
// before may have left, and keeps it from being applied until Release. It may be
// called again.
func (r *Reconciler) Withhold(ctx context.Context) error {
	r.withheld = true
	var errs []error
	for _, p := range r.parts {
		for _, o := range p.Objects {
			if !whenConfirmed(o) {
				continue
			}
			line := inventoryLine(o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName())
			if err := r.target.Delete(ctx, line); err != nil {
				errs = append(errs, fmt.Errorf("cannot withhold it from a release on trial: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// Release has the next Tick apply what Withhold kept back, and reports whether
// there was anything.
func (r *Reconciler) Release() bool {
	if !r.withheld {
		return false
	}
	r.withheld = false
	var any bool
	for _, p := range r.parts {
		for _, o := range p.Objects {
			if whenConfirmed(o) {
				any, p.Applied, p.Healthy = true, false, false
				p.delay, p.next = 0, r.now()
			}
		}
	}
	return any
}
