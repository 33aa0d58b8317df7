package kubeadm

import (
	"context"
	"fmt"
	"path"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/expiry"
)

// Certificates are those of the control plane, kubeadm's authorities among them.
func Certificates() []string {
	return []string{"/etc/kubernetes/pki/*.crt", "/etc/kubernetes/pki/etcd/*.crt"}
}

// RenewBefore is how long before its end a boot makes a certificate of the
// control plane anew. Authorities stay: they last for ten years.
const RenewBefore = 365 * 24 * time.Hour

// Renewed reports whether a boot makes that certificate anew.
func Renewed(name string) bool {
	b := path.Base(name)
	return b != "ca.crt" && b != "front-proxy-ca.crt"
}

// renew makes all certificates anew if one ends within RenewBefore. It is a
// node that nobody logs in to.
func (n Node) renew(ctx context.Context) error {
	for name, end := range expiry.Of(n.Root, Certificates()) {
		if !Renewed(name) || end.Sub(n.Now()) > RenewBefore {
			continue
		}
		n.Say("%s ends on %s: the control plane's certificates are made anew", name, end.UTC().Format(time.DateOnly))
		if err := n.run(ctx, "certs", "renew", "all", "--config", ConfigFile); err != nil {
			return fmt.Errorf("cannot renew certificates: %w", err)
		}
		return nil
	}
	return nil
}
