package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// Values of When for Jobs that run at one moment alone: before an update leaves
// the release, and when it came back.
const (
	whenDump    = "dump"
	whenRestore = "restore"
)

func atMoment(o *unstructured.Unstructured) bool {
	w := o.GetAnnotations()[When]
	return w == whenDump || w == whenRestore
}

func (c Component) jobs(when string) (out []*unstructured.Unstructured) {
	for _, o := range c.Objects {
		if o.GetAnnotations()[When] == when {
			out = append(out, o)
		}
	}
	return out
}

// Dumped are the components whose data are kept before an update.
func (r *Reconciler) Dumped() (out []string) {
	for _, p := range r.parts {
		if len(p.jobs(whenDump)) > 0 {
			out = append(out, p.Health.Name)
		}
	}
	return out
}

const dumpLook = 2 * time.Second

// Dump keeps a component's data as they are. It may run beside Tick.
func (r *Reconciler) Dump(ctx context.Context, component string, sleep func(context.Context, time.Duration) error) error {
	i := slices.IndexFunc(r.parts, func(p *part) bool { return p.Health.Name == component })
	if i < 0 {
		return fmt.Errorf("there is no component %s", component)
	}
	jobs := r.parts[i].jobs(whenDump)
	err := r.again(ctx, jobs)
	for err == nil {
		var waits string
		if waits, err = r.unended(ctx, jobs); err != nil || waits == "" {
			break
		}
		if slept := sleep(ctx, dumpLook); slept != nil {
			err = fmt.Errorf("%s: %w", waits, slept)
		}
	}
	// Also where it failed: nobody waits for it any more.
	return errors.Join(err, r.remove(context.WithoutCancel(ctx), jobs))
}

// PutBack has Tick put the data of these components back before it applies them;
// done is called when those of one are.
func (r *Reconciler) PutBack(components []string, done func(component string) error) {
	r.back, r.backDone = slices.Clone(components), done
}

// putBack ends what runs on the data that are there, and puts back what was kept.
func (r *Reconciler) putBack(ctx context.Context, p *part) (waits string, err error) {
	jobs := p.jobs(whenRestore)
	if !p.puttingBack {
		var workloads []*unstructured.Unstructured
		for _, o := range p.Objects {
			if slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}, o.GetKind()) {
				workloads = append(workloads, o)
			}
		}
		if err := errors.Join(r.remove(ctx, workloads), r.again(ctx, jobs)); err != nil {
			return "", err
		}
		p.puttingBack = true
	}
	if waits, err = r.unended(ctx, jobs); waits != "" || err != nil {
		return waits, err
	}
	if err := errors.Join(r.remove(ctx, jobs), r.backDone(p.Health.Name)); err != nil {
		return "", err
	}
	p.puttingBack = false
	r.back = slices.DeleteFunc(r.back, func(name string) bool { return name == p.Health.Name })
	return "", nil
}

// again starts Jobs, also where they ran before.
func (r *Reconciler) again(ctx context.Context, jobs []*unstructured.Unstructured) error {
	if err := r.remove(ctx, jobs); err != nil {
		return err
	}
	for _, o := range jobs {
		if err := r.target.Apply(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) remove(ctx context.Context, objects []*unstructured.Unstructured) error {
	var errs []error
	for _, o := range objects {
		errs = append(errs, r.target.Delete(ctx, inventoryLine(o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName())))
	}
	return errors.Join(errs...)
}

// unended says which of the Jobs has not ended, and why; "" if all have.
func (r *Reconciler) unended(ctx context.Context, jobs []*unstructured.Unstructured) (string, error) {
	for _, o := range jobs {
		reason, err := r.target.Unready(ctx, node.Ready{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()})
		if err != nil {
			return "", err
		}
		if reason != "" {
			return fmt.Sprintf("waits for %s/%s: %s", o.GetNamespace(), o.GetName(), reason), nil
		}
	}
	return "", nil
}
