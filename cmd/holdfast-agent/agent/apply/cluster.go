package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// FieldManager owns what the agent applies.
const FieldManager = "holdfast"

// Cluster is the node's API server.
type Cluster struct {
	// Address is the node's, and what an applied Service of type LoadBalancer is
	// reached at; empty, those are left alone.
	Address string

	terms  Terms
	far    bool // its pods are not reached from here
	rest   rest.Interface
	dyn    dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper

	warnings warnings
}

// Connect reads a kubeconfig; it does not talk to the server yet.
func Connect(kubeconfig string) (*Cluster, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read kubeconfig: %w", err)
	}
	return New(cfg)
}

// New is Connect with a configuration that is read already.
func New(cfg *rest.Config) (*Cluster, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst, cfg.Timeout = 50, 100, 30*time.Second
	// A deprecated field in a manifest is the builder's business.
	cfg.WarningHandler = rest.NoWarnings{}
	disc, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot use the API server: %w", err)
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot use the API server: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disc))
	own := Terms{Manager: FieldManager, Namespace: InventoryNamespace, Inventory: InventoryName, Force: true}
	return &Cluster{terms: own, rest: disc.RESTClient(), dyn: dyn, mapper: mapper}, nil
}

// Roles is the API server's check that the roles of its version are there. It
// is its last one, by far; those of the boot before are in the datastore.
const Roles = "poststarthook/rbac/bootstrap-roles"

// Readyz gives an error that names what the API server is waiting for, without
// the checks in except.
func (c *Cluster) Readyz(ctx context.Context, except ...string) error {
	req := c.rest.Get().AbsPath("/readyz").Param("verbose", "")
	for _, name := range except {
		req = req.Param("exclude", name)
	}
	b, err := req.DoRaw(ctx)
	if err == nil {
		return nil
	}
	if failed := failedChecks(string(b)); failed != "" {
		return fmt.Errorf("the API server is not ready: %s", failed)
	}
	return fmt.Errorf("the API server does not answer: %w", err)
}

// NodeReady reports whether the node is, with its reason, and its kubelet's
// version. bootID is of the kernel that runs: what a kubelet said in an earlier
// boot does not count; empty, it does.
func (c *Cluster) NodeReady(ctx context.Context, name, bootID string) (reason, version string, err error) {
	var n corev1.Node
	if err := c.get(ctx, schema.GroupVersionKind{Version: "v1", Kind: "Node"}, "", name, &n); err != nil {
		return "", "", err
	}
	if id := n.Status.NodeInfo.BootID; bootID != "" && id != bootID {
		return "the kubelet has not reported since the reboot", n.Status.NodeInfo.KubeletVersion, nil
	}
	return NodeReason(&n), n.Status.NodeInfo.KubeletVersion, nil
}

// Apply applies one object and waits until what follows can rely on it: a
// namespace for being active, a definition for being served.
func (c *Cluster) Apply(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if err == nil {
		_, err = r.Apply(ctx, o.GetName(), o, c.applyOptions())
	}
	if err == nil {
		switch {
		case o.GetKind() == "Namespace" && o.GroupVersionKind().Group == "":
			err = wait(ctx, r, o.GetName(), namespaceActive)
		case o.GetKind() == "CustomResourceDefinition":
			err = wait(ctx, r, o.GetName(), crdEstablished)
			c.mapper.Reset()
		case c.Address != "" && isLoadBalancer(o):
			_, err = r.ApplyStatus(ctx, o.GetName(), reachedAt(o, c.Address), c.applyOptions())
		}
	}
	if err != nil {
		return fmt.Errorf("cannot apply %s: %w", objectName(o), err)
	}
	return nil
}

func isLoadBalancer(o *unstructured.Unstructured) bool {
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
	return o.GroupVersionKind() == corev1.SchemeGroupVersion.WithKind("Service") && kind == string(corev1.ServiceTypeLoadBalancer)
}

// reachedAt is the status of a service that kube-proxy answers for at address.
func reachedAt(o *unstructured.Unstructured, address string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(),
		"metadata": map[string]any{"name": o.GetName(), "namespace": o.GetNamespace()},
		"status": map[string]any{"loadBalancer": map[string]any{
			"ingress": []any{map[string]any{"ip": address, "ipMode": string(corev1.LoadBalancerIPModeVIP)}},
		}},
	}}
}

func objectName(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return o.GetKind() + " " + ns + "/" + o.GetName()
	}
	return o.GetKind() + " " + o.GetName()
}

// resource finds what serves gvk; one unknown so far may be new.
func (c *Cluster) resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		m, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		return c.dyn.Resource(m.Resource).Namespace(namespace), nil
	}
	return c.dyn.Resource(m.Resource), nil
}

// get reads an object into the typed value out.
func (c *Cluster) get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, out any) error {
	r, err := c.resource(gvk, namespace)
	if err != nil {
		return err
	}
	u, err := r.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out)
}

// wait polls for as long as an operator would believe it still works.
func wait(ctx context.Context, r dynamic.ResourceInterface, name string, done func(*unstructured.Unstructured) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		u, err := r.Get(ctx, name, metav1.GetOptions{})
		if err == nil && done(u) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("it does not become usable"), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func namespaceActive(u *unstructured.Unstructured) bool {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	return phase == string(corev1.NamespaceActive)
}

func crdEstablished(u *unstructured.Unstructured) bool {
	conds, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conds {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return true
		}
	}
	return false
}

// Unready says what keeps a workload from being rolled out: the reason of its
// first pod that is not ready, or its own. Empty means that it is.
func (c *Cluster) Unready(ctx context.Context, r node.Ready) (string, error) {
	reason, want, sel, err := c.workload(ctx, r)
	if apierrors.IsNotFound(err) {
		return fmt.Sprintf("%s %s: not there", r.Kind, r.Name), nil
	}
	if err != nil {
		return "", err
	}
	if want == 0 && (r.Kind == "Deployment" || r.Kind == "StatefulSet") {
		return fmt.Sprintf("%s %s: scaled to 0 pods", r.Kind, r.Name), nil
	}
	pods, err := c.pods(ctx, r.Namespace, sel)
	if err != nil {
		return "", err
	}
	// After a reboot the workload's own status is of the boot before, until its
	// controller runs: its pods have to agree.
	if reason == "" {
		if reason = podsReason(pods, want); reason == "" {
			return "", nil
		}
	}
	// What those that ended say is of the past, where there are others.
	slices.SortStableFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(ended(a), ended(b)) })
	for i := range pods {
		if stoppedByReboot(&pods[i]) {
			continue
		}
		if reason := c.pendingReason(ctx, &pods[i]); reason != "" {
			return reason, nil
		}
	}
	return fmt.Sprintf("%s %s: %s", r.Kind, r.Name, reason), nil
}

// ended is 1 for a pod that will not run any more, else 0.
func ended(p corev1.Pod) int {
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return 1
	}
	return 0
}

// workload says what its status lacks, and how many pods have to be ready; a
// job, which leaves none, wants 0.
func (c *Cluster) workload(ctx context.Context, r node.Ready) (reason string, want int32, sel *metav1.LabelSelector, err error) {
	apps := func(kind string) schema.GroupVersionKind { return appsv1.SchemeGroupVersion.WithKind(kind) }
	switch r.Kind {
	case "Deployment":
		var d appsv1.Deployment
		err = c.get(ctx, apps(r.Kind), r.Namespace, r.Name, &d)
		return deploymentReason(&d), replicas(d.Spec.Replicas), d.Spec.Selector, err
	case "StatefulSet":
		var d appsv1.StatefulSet
		err = c.get(ctx, apps(r.Kind), r.Namespace, r.Name, &d)
		return statefulSetReason(&d), replicas(d.Spec.Replicas), d.Spec.Selector, err
	case "DaemonSet":
		var d appsv1.DaemonSet
		err = c.get(ctx, apps(r.Kind), r.Namespace, r.Name, &d)
		return daemonSetReason(&d), d.Status.DesiredNumberScheduled, d.Spec.Selector, err
	case "Job":
		var j batchv1.Job
		err = c.get(ctx, batchv1.SchemeGroupVersion.WithKind(r.Kind), r.Namespace, r.Name, &j)
		return jobReason(&j), 0, j.Spec.Selector, err
	}
	return "", 0, nil, fmt.Errorf("cannot tell whether a %s is ready: want Deployment, StatefulSet, DaemonSet or Job", r.Kind)
}

func (c *Cluster) pods(ctx context.Context, namespace string, sel *metav1.LabelSelector) ([]corev1.Pod, error) {
	s, err := metav1.LabelSelectorAsSelector(sel)
	if err != nil || s.Empty() {
		return nil, err
	}
	r, err := c.resource(corev1.SchemeGroupVersion.WithKind("Pod"), namespace)
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx, metav1.ListOptions{LabelSelector: s.String()})
	if err != nil {
		return nil, err
	}
	out := make([]corev1.Pod, len(l.Items))
	for i, u := range l.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
