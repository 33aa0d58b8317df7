package onto

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/apply"
)

// look is what the cluster says of itself. What the user may not see is in denied.
type look struct {
	version  string
	own      bool // a holdfast installed it
	was      Record
	nodes    []corev1.Node
	classes  []storagev1.StorageClass
	forward  *appsv1.DaemonSet             // of a registry that is there
	claim    *corev1.PersistentVolumeClaim // of its store
	defaults string                        // the default class
	denied   []error
}

// Registry is the registry in the cluster.
type Registry struct {
	There bool   `json:"there"`
	Port  int    `json:"port"`
	Image string `json:"image"` // that its pods are started with
	GiB   int64  `json:"gib"`
}

// Record is what the cluster has of a site.
type Record struct {
	Release  uint64   `json:"release"`
	Index    string   `json:"index"`
	Zone     string   `json:"zone"`
	Healthy  bool     `json:"healthy"` // and cleared up
	Bypassed []string `json:"bypassed,omitempty"`
}

func (p Plan) recordName() string { return "release-" + p.site }

// record has the cluster remember which release it has. One that was healthy
// before stays so while it is applied once more.
func (p Plan) record(ctx context.Context, healthy bool) error {
	if p.Was.Healthy && p.Was.Release == p.Release.Release && p.Was.Index == string(p.Index.Digest) {
		healthy = true
	}
	b, err := json.Marshal(Record{p.Release.Release, string(p.Index.Digest), p.Release.Zone, healthy, p.Bypassed})
	if err != nil {
		return err
	}
	err = p.cluster.Apply(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": Namespace, "name": p.recordName()},
		"data": map[string]any{"record": string(b)},
	}})
	if err != nil {
		return fmt.Errorf("cannot record the release: %w", err)
	}
	return nil
}

// look fails where the cluster does not answer.
func (p Plan) look(ctx context.Context) (look, error) {
	var l look
	d, err := discovery.NewDiscoveryClientForConfig(p.options.Cluster)
	if err != nil {
		return l, err
	}
	v, err := d.ServerVersion()
	if err != nil {
		return l, err
	}
	l.version = v.GitVersion
	get := func(gvk schema.GroupVersionKind, namespace, name string, out any) bool {
		err := p.cluster.Get(ctx, gvk, namespace, name, out)
		if err != nil && !apierrors.IsNotFound(err) {
			l.denied = append(l.denied, fmt.Errorf("cannot look at %s %s/%s: %w", gvk.Kind, namespace, name, err))
		}
		return err == nil
	}
	l.nodes = list[corev1.Node](ctx, &l, p.cluster, corev1.SchemeGroupVersion.WithKind("Node"))
	l.classes = list[storagev1.StorageClass](ctx, &l, p.cluster, storagev1.SchemeGroupVersion.WithKind("StorageClass"))
	for _, c := range l.classes {
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			l.defaults = c.Name
		}
	}
	var m, agents corev1.ConfigMap
	if get(configMaps, Namespace, p.recordName(), &m) {
		if err := json.Unmarshal([]byte(m.Data["record"]), &l.was); err != nil {
			return l, fmt.Errorf("cannot read which release of %s is there: ConfigMap %s/%s: %w", p.site, Namespace, p.recordName(), err)
		}
	}
	l.own = get(configMaps, apply.InventoryNamespace, apply.InventoryName, &agents)
	var ds appsv1.DaemonSet
	if get(appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Namespace, "forward", &ds) {
		l.forward = &ds
	}
	var claim corev1.PersistentVolumeClaim
	if get(claims, Namespace, "registry", &claim) {
		l.claim = &claim
	}
	return l, ctx.Err()
}

func list[T any](ctx context.Context, l *look, c *apply.Cluster, gvk schema.GroupVersionKind) (out []T) {
	r, err := c.Of(gvk, "")
	var us *unstructured.UnstructuredList
	if err == nil {
		us, err = r.List(ctx, metav1.ListOptions{})
	}
	if err == nil {
		out = make([]T, len(us.Items))
		for i, u := range us.Items {
			err = errors.Join(err, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out[i]))
		}
	}
	if err != nil {
		l.denied = append(l.denied, fmt.Errorf("cannot list objects of kind %s: %w", gvk.Kind, err))
	}
	return out
}

// metadata lists objects of our namespace that have a label, without what is in them.
func (p Plan) metadata(ctx context.Context, r schema.GroupVersionResource, label string) ([]metav1.PartialObjectMetadata, error) {
	c, err := metadata.NewForConfig(p.options.Cluster)
	if err != nil {
		return nil, err
	}
	l, err := c.Resource(r).Namespace(Namespace).List(ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

func toUnstructured(o any) (*unstructured.Unstructured, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u, nil
	}
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	return &unstructured.Unstructured{Object: m}, err
}

// chooseRegistry decides where containerd finds the registry, and what its pods
// are started with.
func (p *Plan) chooseRegistry(l look) error {
	errs := l.denied
	p.Registry = Registry{Port: cmp.Or(p.options.Port, DefaultPort), There: l.forward != nil}
	was := ""
	if l.forward != nil {
		port, err := strconv.Atoi(l.forward.Annotations["holdfast.dev/port"])
		if err == nil {
			if p.options.Port != 0 && p.options.Port != port {
				errs = append(errs, fmt.Errorf("the registry that is there listens on port %d, not %d, and what was applied says so\nhint: leave --port away", port, p.options.Port))
			}
			p.Registry.Port = port
		}
		if cs := l.forward.Spec.Template.Spec.Containers; len(cs) > 0 {
			was = cs[0].Image
		}
	}
	var fit []corev1.Node
	for _, n := range l.nodes {
		if n.Status.NodeInfo.OperatingSystem == "linux" && n.Status.NodeInfo.Architecture == "amd64" {
			fit = append(fit, n)
		}
	}
	if len(fit) == 0 && len(l.denied) == 0 {
		errs = append(errs, errors.New("no node of the cluster is Linux on amd64, for which all images of a release are\nhint: add such a node"))
	}
	var err error
	if p.Registry.Image, err = startImage(fit, p.options.Image, was); err != nil && len(fit) > 0 {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// startImage is an image that each node has: the one that is asked for, that
// was taken before, or the smallest; its content does not matter. A name by
// digest goes before one by tag.
func startImage(nodes []corev1.Node, asked, was string) (string, error) {
	type image struct {
		size int64
		on   int
	}
	all := map[string]image{}
	for _, n := range nodes {
		on := map[string]int64{}
		for _, im := range n.Status.Images {
			for _, name := range im.Names {
				// What was brought is pulled by what is to be started.
				if !strings.HasPrefix(name, "127.0.0.1:") && !strings.Contains(name, "<none>") {
					on[name] = im.SizeBytes
				}
			}
		}
		for name, size := range on {
			all[name] = image{size, all[name].on + 1}
		}
	}
	var names []string
	for name, im := range all {
		if im.on == len(nodes) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		byTag := func(s string) int {
			if strings.Contains(s, "@sha256:") {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(all[a].size, all[b].size), cmp.Compare(byTag(a), byTag(b)), strings.Compare(a, b))
	})
	if asked != "" {
		if !slices.Contains(names, asked) {
			return "", fmt.Errorf("the image %s is not on every node\nhint: \"kubectl get nodes -o jsonpath={.items[*].status.images}\" lists what they have; on all are: %s", asked, strings.Join(names, ", "))
		}
		return asked, nil
	}
	if was != "" && slices.Contains(names, was) {
		return was, nil
	}
	if len(names) == 0 {
		return "", fmt.Errorf("the %d nodes have no image in common that the registry's pods could be started with\nhint: bring one there, such as the cluster's pause image", len(nodes))
	}
	return names[0], nil
}

// storage refuses claims that no class of the cluster serves, the registry's own
// among them.
func (p *Plan) storage(l look) error {
	classes := map[string]bool{}
	for _, c := range l.classes {
		classes[c.Name] = true
	}
	p.objects(func(_ apply.Component, o *unstructured.Unstructured) {
		if o.GetKind() == "StorageClass" {
			classes[o.GetName()] = true
		}
	})
	need := map[string]string{} // class to who asks first
	ask := func(spec map[string]any, who string) {
		class, _, _ := unstructured.NestedString(spec, "storageClassName")
		volume, _, _ := unstructured.NestedString(spec, "volumeName")
		if _, ok := need[class]; !ok && volume == "" {
			need[class] = who
		}
	}
	p.objects(func(_ apply.Component, o *unstructured.Unstructured) {
		spec, _, _ := unstructured.NestedMap(o.Object, "spec")
		if o.GetKind() == "PersistentVolumeClaim" {
			ask(spec, apply.Line(o))
		}
		templates, _, _ := unstructured.NestedSlice(spec, "volumeClaimTemplates")
		for _, t := range templates {
			if m, ok := t.(map[string]any); ok {
				spec, _, _ := unstructured.NestedMap(m, "spec")
				ask(spec, apply.Line(o))
			}
		}
	})
	// Twice what a release has: the next one comes before this one goes.
	const giB = 1 << 30
	p.Registry.GiB = cmp.Or(p.options.StorageGiB, max(10, 2*(p.payload.size()/giB+1)))
	if l.claim == nil {
		need[p.options.StorageClass] = "the registry"
	}
	if len(l.classes) == 0 && len(l.denied) > 0 {
		return nil // they could not be listed, which is told already
	}
	var errs []error
	for _, class := range slices.Sorted(maps.Keys(need)) {
		switch {
		case class == "" && l.defaults == "":
			errs = append(errs, fmt.Errorf("%s asks for a volume of the default class, and the cluster has none\nhint: make a StorageClass the default; for the registry, --storage-class names one", need[class]))
		case class != "" && !classes[class]:
			errs = append(errs, fmt.Errorf("%s asks for a volume of the class %s, and the cluster has none of that name\nhint: it has %s", need[class], class, cmp.Or(strings.Join(slices.Sorted(maps.Keys(classes)), ", "), "no classes")))
		}
	}
	return errors.Join(errs...)
}
