package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The inventory is a ConfigMap: for each component the objects that were ever
// applied for it and not pruned since, one a line, as
// "apiVersion kind namespace name" with "-" for no namespace.
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
		_, err = r.Create(ctx, namespaceObject(name), metav1.CreateOptions{FieldManager: FieldManager})
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
	if err := c.EnsureNamespace(ctx, InventoryNamespace); err != nil {
		return err
	}
	var old corev1.ConfigMap
	err := c.get(ctx, corev1.SchemeGroupVersion.WithKind("ConfigMap"), InventoryNamespace, InventoryName, &old)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot read the inventory: %w", err)
	}
	data := map[string]any{}
	for k, v := range mergeInventory(old.Data, objects) {
		data[k] = v
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"namespace": InventoryNamespace, "name": InventoryName},
		"data":     data,
	}}
	if err := c.Apply(ctx, o); err != nil {
		return fmt.Errorf("cannot save the inventory: %w", err)
	}
	return nil
}

func mergeInventory(old map[string]string, objects map[string][]string) map[string]string {
	out := map[string]string{}
	for k, v := range old {
		out[k] = v
	}
	for k, list := range objects {
		all := slices.Clone(list)
		if out[k] != "" {
			all = append(all, strings.Split(out[k], "\n")...)
		}
		slices.Sort(all)
		out[k] = strings.Join(slices.Compact(all), "\n")
	}
	return out
}
