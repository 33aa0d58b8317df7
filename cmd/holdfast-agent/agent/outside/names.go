package outside

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// PodsDir is where the kubelet keeps a directory for each pod's logs.
const PodsDir = "/var/log/pods"

// PodsByUID reads the pods of a node, also those that use its own network, from
// the names in PodsDir: NAMESPACE_NAME_UID.
func PodsByUID(dir string) (map[string]string, error) {
	es, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the pods' names: %w", err)
	}
	out := map[string]string{}
	for _, e := range es {
		if p := strings.Split(e.Name(), "_"); len(p) == 3 {
			out[p[2]] = p[0] + "/" + p[1]
		}
	}
	return out, nil
}
