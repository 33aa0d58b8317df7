package kubeadm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/secrets"
)

const pkiDir = "/etc/kubernetes/pki"

// authorities makes kubeadm's three, which it takes where they are there
// already. Its own begin when they are made: a node whose clock was ahead at its
// first boot would have none once the clock is right.
func (n Node) authorities() error {
	for file, name := range map[string]string{"ca": "kubernetes", "front-proxy-ca": "front-proxy-ca", "etcd/ca": "etcd-ca"} {
		key, certificate, err := secrets.Pair(node.Pair{Authority: true, CommonName: name})
		if err != nil {
			return fmt.Errorf("cannot make the authority %s: %w", name, err)
		}
		base := n.path(filepath.Join(pkiDir, file))
		err = errors.Join(os.MkdirAll(filepath.Dir(base), 0o755),
			atomicfile.Write(base+".key", []byte(key), 0o600), atomicfile.Write(base+".crt", []byte(certificate), 0o644))
		if err != nil {
			return fmt.Errorf("cannot make the authority %s: %w", name, err)
		}
	}
	return nil
}
