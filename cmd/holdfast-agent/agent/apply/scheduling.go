package apply

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// selectedNode is written onto a claim by the scheduler when it has chosen a
// node for the claim's pod, and waits for the volume.
const selectedNode = "volume.kubernetes.io/selected-node"

// unscheduledReason says why p has no node, where the scheduler's own words are
// of an earlier state, or do not name the taints that keep it away; else nothing.
// Those words are written when a try fails, and stay until the pod has its node:
// while the scheduler waits for a volume to be made on the node that it has
// chosen, and after a taint is gone until its next try.
func unscheduledReason(p *corev1.Pod, claims []corev1.PersistentVolumeClaim, nodes []corev1.Node) string {
	said := ""
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			said = c.Message
		}
	}
	if said == "" || p.Spec.NodeName != "" {
		return ""
	}
	for _, c := range claims {
		if node := c.Annotations[selectedNode]; node != "" && c.Status.Phase != corev1.ClaimBound {
			return fmt.Sprintf("pod %s: waits for the volume of %s to be made on %s", p.Name, c.Name, node)
		}
	}
	if !strings.Contains(said, "untolerated taint") || len(nodes) == 0 {
		return ""
	}
	var keep []string
	for _, n := range nodes {
		if taints := repelling(n, p); len(taints) > 0 {
			keep = append(keep, fmt.Sprintf("%s has %s", n.Name, strings.Join(taints, ", ")))
		}
	}
	switch len(keep) {
	case 0:
		return fmt.Sprintf("pod %s: not scheduled yet: the node's taint is gone, and the scheduler tries again", p.Name)
	case len(nodes):
		return fmt.Sprintf("pod %s: not scheduled: %s", p.Name, strings.Join(keep, "; "))
	}
	return "" // other nodes have other reasons
}

// repelling are the taints of n that keep p from it.
func repelling(n corev1.Node, p *corev1.Pod) []string {
	var out []string
	for _, t := range n.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule &&
			!slices.ContainsFunc(p.Spec.Tolerations, func(tol corev1.Toleration) bool { return tolerates(tol, t) }) {
			out = append(out, t.Key)
		}
	}
	return out
}

// tolerates goes by the key, the value and the effect, of which an empty one
// matches any; operators that compare numbers count as no toleration.
func tolerates(tol corev1.Toleration, t corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	switch tol.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return tol.Key != "" && tol.Value == t.Value
	}
	return false
}

// pendingReason is podReason, with what the scheduler said held against how
// nodes and volumes are now; where they cannot be read its words are all there
// is.
func (c *Cluster) pendingReason(ctx context.Context, p *corev1.Pod) string {
	reason := podReason(p)
	if reason == "" {
		return ""
	}
	if p.Spec.NodeName != "" || p.Status.Phase != corev1.PodPending {
		if !saysWhy(reason) {
			if said := c.warnings.of(ctx, c, p, time.Now()); said != "" {
				reason += ": " + said
			}
		}
		return reason
	}
	var claims []corev1.PersistentVolumeClaim
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		var claim corev1.PersistentVolumeClaim
		if err := c.get(ctx, corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), p.Namespace, v.PersistentVolumeClaim.ClaimName, &claim); err == nil {
			claims = append(claims, claim)
		}
	}
	nodes, _ := c.nodes(ctx)
	return cmp.Or(unscheduledReason(p, claims, nodes), reason)
}

func (c *Cluster) nodes(ctx context.Context) ([]corev1.Node, error) {
	r, err := c.resource(corev1.SchemeGroupVersion.WithKind("Node"), "")
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := make([]corev1.Node, len(l.Items))
	for i, u := range l.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
