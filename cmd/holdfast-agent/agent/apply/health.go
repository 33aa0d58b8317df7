package apply

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// The functions below give an empty string for a workload that is rolled out,
// or what is missing.

func deploymentReason(d *appsv1.Deployment) string {
	want := replicas(d.Spec.Replicas)
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return "not looked at yet by its controller"
	case s.UpdatedReplicas < want:
		return fmt.Sprintf("%d of %d pods updated", s.UpdatedReplicas, want)
	case s.Replicas > s.UpdatedReplicas:
		return fmt.Sprintf("%d old pods left", s.Replicas-s.UpdatedReplicas)
	case s.AvailableReplicas < want:
		return fmt.Sprintf("%d of %d pods available", s.AvailableReplicas, want)
	}
	return ""
}

func statefulSetReason(d *appsv1.StatefulSet) string {
	want := replicas(d.Spec.Replicas)
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return "not looked at yet by its controller"
	case s.UpdateRevision != "" && s.CurrentRevision != s.UpdateRevision && s.UpdatedReplicas < want:
		return fmt.Sprintf("%d of %d pods updated", s.UpdatedReplicas, want)
	case s.ReadyReplicas < want:
		return fmt.Sprintf("%d of %d pods ready", s.ReadyReplicas, want)
	}
	return ""
}

func daemonSetReason(d *appsv1.DaemonSet) string {
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return "not looked at yet by its controller"
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods updated", s.UpdatedNumberScheduled, s.DesiredNumberScheduled)
	case s.NumberAvailable < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods available", s.NumberAvailable, s.DesiredNumberScheduled)
	}
	return ""
}

func jobReason(j *batchv1.Job) string {
	for _, c := range j.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return ""
		case batchv1.JobFailed:
			return "failed: " + c.Message
		}
	}
	return "not complete"
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// These alone do not say why a pod waits.
const (
	creating = "ContainerCreating"
	notReady = "running, not ready yet"
)

// saysWhy reports whether a pod's reason has its cause.
func saysWhy(reason string) bool {
	for _, state := range []string{creating, notReady, string(corev1.PodPending)} {
		if strings.HasSuffix(reason, ": "+state) {
			return false
		}
	}
	return true
}

// podsReason says that fewer than want pods are ready, or nothing. Those on
// their way out do not count.
func podsReason(pods []corev1.Pod, want int32) string {
	var ready int32
	for i := range pods {
		if p := &pods[i]; p.DeletionTimestamp == nil && podReason(p) == "" && !stoppedByReboot(p) {
			ready++
		}
	}
	if ready < want {
		return fmt.Sprintf("%d of %d pods ready", ready, want)
	}
	return ""
}

// podReason says why p is not ready, or nothing.
func podReason(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
		// Once it has a node, what kept it from one is past.
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && p.Spec.NodeName == "" {
			return fmt.Sprintf("pod %s: not scheduled: %s", p.Name, c.Message)
		}
	}
	// Who ended it, such as the kubelet of a full disk, says why.
	if p.Status.Phase == corev1.PodFailed && p.Status.Reason != "" {
		return fmt.Sprintf("pod %s: %s", p.Name, withMessage(p.Status.Reason, p.Status.Message))
	}
	all := append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...)
	for _, s := range all {
		if w := s.State.Waiting; w != nil && w.Reason != "PodInitializing" {
			message := w.Message
			// Why it ended tells more than that it is started again later.
			if t := s.LastTerminationState.Terminated; t != nil && t.Message != "" {
				message = lastLine(t.Message)
			}
			return fmt.Sprintf("pod %s: %s: %s", p.Name, s.Name, withMessage(w.Reason, message))
		}
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("pod %s: %s: exit code %d: %s", p.Name, s.Name, t.ExitCode, withMessage(t.Reason, lastLine(t.Message)))
		}
	}
	for _, s := range all {
		if s.State.Running != nil && !s.Ready {
			return fmt.Sprintf("pod %s: %s: %s", p.Name, s.Name, notReady)
		}
	}
	return fmt.Sprintf("pod %s: %s", p.Name, p.Status.Phase)
}

// stoppedByReboot reports whether the kubelet ended p, or did not take it,
// because the machine went down: others replace it, and it tells nothing.
func stoppedByReboot(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed && (p.Status.Reason == "Terminated" || p.Status.Reason == "NodeShutdown")
}

func withMessage(reason, message string) string {
	// An image pull's message can be pages long.
	const most = 300
	if len(message) > most {
		message = message[:most] + "…"
	}
	if message == "" {
		return reason
	}
	return reason + ": " + message
}

// NodeReason says why a node is not ready, or nothing.
func NodeReason(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return ""
		}
		return withMessage(c.Reason, c.Message)
	}
	return "the kubelet has not reported yet"
}

// lastLine is the last line of what a program said.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}
