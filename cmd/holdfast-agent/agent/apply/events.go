package apply

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/probe"
)

const (
	askAgain  = 30 * time.Second // for events of the same pod
	eventsAge = 5 * time.Minute  // an older warning says nothing of now
)

// warnings are the last that were said of pods that are not ready.
type warnings struct {
	mu   sync.Mutex
	pods map[string]warning // by UID
}

type warning struct {
	asked time.Time
	text  string
}

// of says what p answers to its readiness probe, or what the kubelet and others
// last warned of it, such as a secret that is missing; else nothing.
func (w *warnings) of(ctx context.Context, c *Cluster, p *corev1.Pod, now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	uid := string(p.UID)
	if had, ok := w.pods[uid]; ok && now.Sub(had.asked) < askAgain {
		return had.text
	}
	for uid, had := range w.pods {
		if now.Sub(had.asked) > eventsAge {
			delete(w.pods, uid)
		}
	}
	text := ""
	if !c.far {
		text = probe.Refusal(ctx, p)
	}
	if text == "" {
		text = lastWarning(c.events(ctx, p), now)
	}
	if w.pods == nil {
		w.pods = map[string]warning{}
	}
	w.pods[uid] = warning{now, text}
	return text
}

// events are the warnings of p; where they cannot be read, none.
func (c *Cluster) events(ctx context.Context, p *corev1.Pod) []corev1.Event {
	r, err := c.resource(corev1.SchemeGroupVersion.WithKind("Event"), p.Namespace)
	if err != nil {
		return nil
	}
	l, err := r.List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.uid=" + string(p.UID), Limit: 100})
	if err != nil {
		return nil
	}
	out := make([]corev1.Event, len(l.Items))
	for i, u := range l.Items {
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out[i]) != nil {
			return nil
		}
	}
	return out
}

// lastWarning is the newest one's text, on one line. Events are of a pod that has
// a node: what kept it from one is past.
func lastWarning(events []corev1.Event, now time.Time) string {
	var last time.Time
	text := ""
	for _, e := range events {
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.EventTime.Time
		}
		if s := e.Series; s != nil {
			at = s.LastObservedTime.Time
		}
		if e.Reason != "FailedScheduling" && at.After(last) && now.Sub(at) < eventsAge {
			last, text = at, withMessage(e.Reason, strings.Join(strings.Fields(e.Message), " "))
		}
	}
	return text
}
