package apply

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Terms are how objects are applied.
type Terms struct {
	Manager   string // owns what is applied
	Namespace string // of the inventory
	Inventory string
	Force     bool // take fields that somebody else has set; else they are an error
}

// Guest is New for a cluster of others.
func Guest(cfg *rest.Config, t Terms) (*Cluster, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	c.terms, c.far = t, true
	return c, nil
}

func (c *Cluster) applyOptions() metav1.ApplyOptions {
	return metav1.ApplyOptions{FieldManager: c.terms.Manager, Force: c.terms.Force}
}

// Of is what serves objects of a kind. Where nothing does, the error is one that
// meta.IsNoMatchError knows.
func (c *Cluster) Of(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	return c.resource(gvk, namespace)
}

// Get reads an object into the typed value out.
func (c *Cluster) Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, out any) error {
	return c.get(ctx, gvk, namespace, name, out)
}

// Plural gives the resource of a kind, and whether it is in namespaces.
func (c *Cluster) Plural(gvk schema.GroupVersionKind) (schema.GroupVersionResource, bool, error) {
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return schema.GroupVersionResource{}, false, err
	}
	return m.Resource, m.Scope.Name() == "namespace", nil
}

// Change is what applying an object does to it.
type Change string

const (
	Created   Change = "create"
	Changed   Change = "change"
	Unchanged Change = "unchanged"
)

// Try has the API server say what applying o would do, without doing it. The
// error wraps the server's.
func (c *Cluster) Try(ctx context.Context, o *unstructured.Unstructured) (Change, error) {
	fail := func(err error) (Change, error) { return "", fmt.Errorf("cannot apply %s: %w", objectName(o), err) }
	r, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return fail(err)
	}
	was, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fail(err)
	}
	there := err == nil
	options := c.applyOptions()
	options.DryRun = []string{metav1.DryRunAll}
	is, err := r.Apply(ctx, o.GetName(), o, options)
	if err != nil {
		return fail(err)
	}
	switch {
	case !there:
		return Created, nil
	case reflect.DeepEqual(content(was), content(is)):
		return Unchanged, nil
	}
	return Changed, nil
}

// content is o without what the server counts and remembers of each write.
func content(o *unstructured.Unstructured) map[string]any {
	out := maps.Clone(o.Object)
	meta, _ := out["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	for _, k := range []string{"managedFields", "resourceVersion", "generation"} {
		delete(meta, k)
	}
	out["metadata"] = meta
	return out
}

// Line is how an inventory and messages name o.
func Line(o *unstructured.Unstructured) string {
	return inventoryLine(o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName())
}
