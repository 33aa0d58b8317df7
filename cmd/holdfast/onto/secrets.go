package onto

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
)

// secret returns what a component's secret holds. It is kept nowhere but in the
// cluster: what is there is never changed, what it lacks is made.
func (p Plan) secret(ctx context.Context, s node.Secret) (map[string]string, error) {
	if s.From != nil {
		all, there, err := p.values(ctx, s.From.Namespace, s.From.Name)
		if err == nil && !there {
			err = fmt.Errorf("cannot take secret %s/%s from %s/%s: it is not there", s.Namespace, s.Name, s.From.Namespace, s.From.Name)
		}
		if err != nil {
			return nil, err
		}
		return secrets.Part(s, all)
	}
	have, _, err := p.values(ctx, s.Namespace, s.Name)
	if err != nil {
		return nil, err
	}
	_, err = secrets.Complete(have, s, p.options.Random)
	return have, err
}

func (p Plan) values(ctx context.Context, namespace, name string) (map[string]string, bool, error) {
	var s corev1.Secret
	err := p.cluster.Get(ctx, corev1.SchemeGroupVersion.WithKind("Secret"), namespace, name, &s)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, false, fmt.Errorf("cannot read secret %s/%s: %w", namespace, name, err)
	}
	out := map[string]string{}
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out, err == nil, nil
}
