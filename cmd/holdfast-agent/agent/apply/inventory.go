package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The inventory is a ConfigMap: for each component the objects that were ever
// applied for it and not pruned since, one a line, as
// "apiVersion kind namespace name" with "-" for no namespace. The agent's has this
// name.
const (
	InventoryNamespace = "holdfast-system"
	InventoryName      = "holdfast-inventory"
)

func inventoryLine(apiVersion, kind, namespace, name string) string {
	if namespace == "" {
		namespace = "-"
	}
	return strings.Join([]string{apiVersion, kind, namespace, name}, " ")
}

// EnsureNamespace makes a namespace that is not there; one that is there is
// left as it is, with the labels that its own component gives it.
func (c *Cluster) EnsureNamespace(ctx context.Context, name string) error {
	r, err := c.resource(corev1.SchemeGroupVersion.WithKind("Namespace"), "")
	if err != nil {
		return fmt.Errorf("cannot create namespace %s: %w", name, err)
	}
	_, err = r.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = r.Create(ctx, namespaceObject(name), metav1.CreateOptions{FieldManager: c.terms.Manager})
	}
	if err == nil {
		err = wait(ctx, r, name, namespaceActive)
	}
	if err != nil {
		return fmt.Errorf("cannot create namespace %s: %w", name, err)
	}
	return nil
}

// SaveInventory adds objects, by component, to the inventory.
func (c *Cluster) SaveInventory(ctx context.Context, objects map[string][]string) error {
	if err := c.EnsureNamespace(ctx, c.terms.Namespace); err != nil {
		return err
	}
	old, err := c.Inventory(ctx)
	if err != nil {
		return err
	}
	return c.SetInventory(ctx, mergeInventory(old, objects))
}

// SetInventory replaces the inventory.
func (c *Cluster) SetInventory(ctx context.Context, objects map[string][]string) error {
	data := map[string]any{}
	for k, lines := range objects {
		data[k] = strings.Join(lines, "\n")
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"namespace": c.terms.Namespace, "name": c.terms.Inventory},
		"data":     data,
	}}
	if err := c.Apply(ctx, o); err != nil {
		return fmt.Errorf("cannot save the inventory: %w", err)
	}
	return nil
}

func mergeInventory(old, objects map[string][]string) map[string][]string {
	out := maps.Clone(old)
	for k, list := range objects {
		all := slices.Concat(list, out[k])
		slices.Sort(all)
		out[k] = slices.Compact(all)
	}
	return out
}
