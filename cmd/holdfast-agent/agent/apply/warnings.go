package apply

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/probe"
)

const (
	// platformLabel is that of the platform's namespaces.
	platformLabel = "holdfast.dev/platform"
	// warnsLabel is that of pods which tell what will go wrong; its value is the
	// port at which they do.
	warnsLabel = "holdfast.dev/warns"
)

// Warnings are what the platform's pods warn of, each after the name of its
// namespace. Those that could be asked are told also with an error.
func (c *Cluster) Warnings(ctx context.Context) ([]string, error) {
	namespaces, err := c.dyn.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).
		List(ctx, metav1.ListOptions{LabelSelector: platformLabel})
	if err != nil {
		return nil, fmt.Errorf("cannot look for warnings: %w", err)
	}
	ours := map[string]bool{}
	for _, o := range namespaces.Items {
		ours[o.GetName()] = true
	}
	pods, err := c.dyn.Resource(corev1.SchemeGroupVersion.WithResource("pods")).
		List(ctx, metav1.ListOptions{LabelSelector: warnsLabel})
	if err != nil {
		return nil, fmt.Errorf("cannot look for warnings: %w", err)
	}
	out := []string{}
	var errs []error
	for _, o := range pods.Items {
		var p corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &p) != nil ||
			!ours[p.Namespace] || p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" {
			continue
		}
		lines, err := probe.Warnings(ctx, p.Status.PodIP, p.Labels[warnsLabel])
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot ask pod %s/%s: %w", p.Namespace, p.Name, err))
		}
		for _, l := range lines {
			out = append(out, p.Namespace+": "+l)
		}
	}
	return out, errors.Join(errs...)
}
