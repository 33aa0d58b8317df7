package catalog

import (
	"crypto/sha256"
	"fmt"
	"io/fs"

	"holdfast.dev/holdfast/airgap/store"
)

// Digest is over all files of a component's folder, names and content.
func Digest(name string) (store.Digest, error) {
	h := sha256.New()
	err := fs.WalkDir(embedded, "components/"+name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := embedded.ReadFile(p)
		fmt.Fprintf(h, "%s %d\n", p, len(b))
		h.Write(b)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read component %s: %w", name, err)
	}
	return store.SHA256(h.Sum(nil)), nil
}
