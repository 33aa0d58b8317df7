package kubeadm

import (
	"fmt"

	"sigs.k8s.io/yaml"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

// FromSite begins the names of people and groups that the site's sign-on
// vouches for, so that none of them is one of the cluster's own.
const FromSite = "id:"

// SignIn is the API server's file on whose tokens it accepts: the issuer's, at
// an address whose certificate authority, PEM, vouches for. The API server asks
// the issuer for its keys again and again until it answers.
func SignIn(s node.SignIn, authority string) ([]byte, error) {
	b, err := yaml.Marshal(m{
		"apiVersion": "apiserver.config.k8s.io/v1",
		"kind":       "AuthenticationConfiguration",
		"jwt": []m{{
			"issuer": m{"url": s.Issuer, "audiences": []string{s.Audience}, "certificateAuthority": authority},
			"claimMappings": m{
				"username": m{"claim": "preferred_username", "prefix": FromSite},
				"groups":   m{"claim": "groups", "prefix": FromSite},
				"uid":      m{"claim": "sub"},
			},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write whose tokens the API accepts: %w", err)
	}
	return b, nil
}
