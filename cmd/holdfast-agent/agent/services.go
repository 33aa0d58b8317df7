package agent

import (
	"fmt"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/kubeadm"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// authorityFile is the certificate of the authority that the site's services
// have theirs from.
const authorityFile = "/run/holdfast/authority.crt"

// serviceFiles gives what engines read of the site's services, by path.
func (a *agent) serviceFiles(s node.Services) (map[string][]byte, error) {
	if s.Authority == nil {
		return nil, nil
	}
	secret, err := a.secret(node.Secret{
		Name: s.Authority.Name, Namespace: s.Authority.Namespace,
		From: &node.From{Name: s.Authority.Name, Namespace: s.Authority.Namespace, Keys: []string{s.Authority.Key}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot find the site's authority: %w", err)
	}
	authority := secret[s.Authority.Key]
	files := map[string][]byte{authorityFile: []byte(authority)}
	if s.SignIn != nil {
		if files[kubeadm.SignInFile], err = kubeadm.SignIn(*s.SignIn, authority); err != nil {
			return nil, err
		}
	}
	return files, nil
}
