package kubeadm

import (
	"context"
	"fmt"
	"os"
	"path"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/expiry"
)

// Certificates are those of the control plane, kubeadm's authorities among them.
func Certificates() []string {
	return []string{"/etc/kubernetes/pki/*.crt", "/etc/kubernetes/pki/etcd/*.crt"}
}

// RenewBefore is how long before its end a boot makes a certificate of the
// control plane anew. Authorities stay.
const RenewBefore = 365 * 24 * time.Hour

// Renewed reports whether a boot makes that certificate anew.
func Renewed(name string) bool {
	b := path.Base(name)
	return b != "ca.crt" && b != "front-proxy-ca.crt"
}

// What the kubelet reaches the API with: the certificate, which it renews by
// itself as long as it is good, and the file that names it.
const (
	kubeletKey    = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	kubeletAccess = "/etc/kubernetes/kubelet.conf"
)

// renew makes all certificates anew if one ends within RenewBefore, or is not
// good yet, as after a clock that was ahead. It is a node that nobody logs in to.
func (n Node) renew(ctx context.Context) error {
	now, why, kubelet := n.Now(), "", false
	for name, c := range expiry.Certificates(n.Root, append(Certificates(), kubeletKey)) {
		bad := ""
		switch {
		case c.NotBefore.After(now):
			bad = fmt.Sprintf("%s begins on %s", name, c.NotBefore.UTC().Format(time.DateOnly))
		case name == kubeletKey && c.NotAfter.Before(now),
			name != kubeletKey && Renewed(name) && c.NotAfter.Sub(now) <= RenewBefore:
			bad = fmt.Sprintf("%s ends on %s", name, c.NotAfter.UTC().Format(time.DateOnly))
		}
		if bad != "" {
			why, kubelet = bad, kubelet || name == kubeletKey
		}
	}
	if why != "" {
		n.Say("%s: the control plane's certificates are made anew", why)
		if err := n.run(ctx, "certs", "renew", "all", "--config", ConfigFile); err != nil {
			return fmt.Errorf("cannot renew certificates: %w", err)
		}
	}
	if kubelet {
		for _, name := range []string{kubeletKey, kubeletAccess} {
			if err := os.RemoveAll(n.path(name)); err != nil {
				return fmt.Errorf("cannot renew the kubelet's certificate: %w", err)
			}
		}
	}
	// kubeadm leaves the kubelet's to the kubelet, and makes one where none is.
	if _, err := os.Stat(n.path(kubeletAccess)); err == nil {
		return nil
	}
	return n.phases(ctx, "kubeconfig kubelet")
}
