package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/expiry"
)

// certificateName is where cert-manager writes whose certificate a Secret holds.
const certificateName = "cert-manager.io/certificate-name"

// stepBack is how far a time server may set a clock back without consequences.
const stepBack = 5 * time.Minute

// Certificates says when those in Secrets end, by "namespace/name", and removes
// those that cert-manager issued while the clock was ahead: it looks at their end
// alone, and makes anew what is gone. dropped says which, as "namespace/name
// begins on DATE".
func (c *Cluster) Certificates(ctx context.Context, now time.Time) (ends map[string]time.Time, dropped []string, err error) {
	l, err := c.dyn.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).
		List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeTLS)})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot look at certificates: %w", err)
	}
	ends = map[string]time.Time{}
	var errs []error
	for _, o := range l.Items {
		var s corev1.Secret
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s) != nil {
			continue
		}
		cert, ok := expiry.First(s.Data[corev1.TLSCertKey])
		if !ok {
			continue
		}
		name := s.Namespace + "/" + s.Name
		if s.Annotations[certificateName] == "" || !cert.NotBefore.After(now.Add(stepBack)) {
			ends[name] = cert.NotAfter
			continue
		}
		if err := c.Delete(ctx, inventoryLine("v1", "Secret", s.Namespace, s.Name)); err != nil {
			errs = append(errs, err)
			continue
		}
		dropped = append(dropped, fmt.Sprintf("%s begins on %s", name, cert.NotBefore.UTC().Format(time.DateOnly)))
	}
	return ends, dropped, errors.Join(errs...)
}
