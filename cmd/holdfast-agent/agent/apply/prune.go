package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kept kinds are never pruned: they are data, or what they hold goes with them.
var kept = []string{"Namespace", "PersistentVolume", "PersistentVolumeClaim", "Secret", "StorageClass", "CustomResourceDefinition"}

// Prune removes what earlier releases applied and this one has no more, and
// says what that was. Volumes, claims, secrets, namespaces and definitions
// stay. It is for a release that is confirmed: before, the way back needs them.
func (r *Reconciler) Prune(ctx context.Context) (removed []string, err error) {
	old, err := r.target.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	left := map[string][]string{}
	var errs []error
	surplus := r.surplus(old)
	for _, component := range slices.Sorted(maps.Keys(old)) {
		for _, line := range old[component] {
			if !slices.Contains(surplus, line) {
				left[component] = append(left[component], line)
				continue
			}
			if err := r.target.Delete(ctx, line); err != nil {
				errs = append(errs, err)
				left[component] = append(left[component], line)
				continue
			}
			removed = append(removed, line)
		}
	}
	if len(removed) > 0 {
		errs = append(errs, r.target.SetInventory(ctx, left))
	}
	return removed, errors.Join(errs...)
}

// Surplus is what Prune would remove.
func (r *Reconciler) Surplus(ctx context.Context) ([]string, error) {
	old, err := r.target.Inventory(ctx)
	return r.surplus(old), err
}

// surplus are the lines of an inventory that this release has no more.
func (r *Reconciler) surplus(old map[string][]string) (out []string) {
	now := map[string]bool{}
	for _, lines := range r.objects() {
		for _, l := range lines {
			now[identity(l)] = true
		}
	}
	for _, component := range slices.Sorted(maps.Keys(old)) {
		for _, line := range old[component] {
			if f := strings.Fields(line); len(f) == 4 && !now[identity(line)] && !slices.Contains(kept, f[1]) {
				out = append(out, line)
			}
		}
	}
	return out
}

// identity is an inventory line without the version of its kind: an object is
// the same in all of them.
func identity(line string) string {
	api, rest, _ := strings.Cut(line, " ")
	group, _, ok := strings.Cut(api, "/")
	if !ok {
		group = "" // the core group has none
	}
	return group + " " + rest
}

// Inventory reads the inventory; there being none is an empty one.
func (c *Cluster) Inventory(ctx context.Context) (map[string][]string, error) {
	var m corev1.ConfigMap
	err := c.get(ctx, corev1.SchemeGroupVersion.WithKind("ConfigMap"), c.terms.Namespace, c.terms.Inventory, &m)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("cannot read the inventory: %w", err)
	}
	out := map[string][]string{}
	for k, v := range m.Data {
		out[k] = strings.FieldsFunc(v, func(r rune) bool { return r == '\n' })
	}
	return out, nil
}

// Delete removes the object of an inventory line, in the background. One that
// is gone, or of a kind that no longer exists, is no error.
func (c *Cluster) Delete(ctx context.Context, line string) error {
	f := strings.Fields(line)
	if len(f) != 4 {
		return fmt.Errorf("cannot remove %q: no line of an inventory", line)
	}
	gv, err := schema.ParseGroupVersion(f[0])
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", line, err)
	}
	r, err := c.resource(gv.WithKind(f[1]), strings.TrimPrefix(f[2], "-"))
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err == nil {
		background := metav1.DeletePropagationBackground
		err = r.Delete(ctx, f[3], metav1.DeleteOptions{PropagationPolicy: &background})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot remove %s: %w", line, err)
	}
	return nil
}
