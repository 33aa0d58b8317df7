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

// DropEarly removes the certificates that cert-manager issued while the clock
// was ahead: it looks at their end alone, and makes anew what is gone. It says
// which, as "namespace/name begins on DATE".
func (c *Cluster) DropEarly(ctx context.Context, now time.Time) ([]string, error) {
	l, err := c.dyn.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).
		List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeTLS)})
	if err != nil {
		return nil, fmt.Errorf("cannot look at certificates: %w", err)
	}
	var out []string
	var errs []error
	for _, o := range l.Items {
		var s corev1.Secret
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s); err != nil || s.Annotations[certificateName] == "" {
			continue
		}
		cert, ok := expiry.First(s.Data[corev1.TLSCertKey])
		if !ok || !cert.NotBefore.After(now) {
			continue
		}
		if err := c.Delete(ctx, inventoryLine("v1", "Secret", s.Namespace, s.Name)); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, fmt.Sprintf("%s/%s begins on %s", s.Namespace, s.Name, cert.NotBefore.UTC().Format(time.DateOnly)))
	}
	return out, errors.Join(errs...)
}
