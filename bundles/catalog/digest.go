package catalog

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// Digest is over all files of a component's folder that count for an origin,
// names and content: for source, nothing of what its project publishes.
func Digest(name, origin string) (store.Digest, error) { return digest(embedded, name, origin) }

func digest(fsys fs.FS, name, origin string) (store.Digest, error) {
	h := sha256.New()
	dir := path.Join("components", name)
	err := fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		source := origin != "upstream"
		if err != nil || d.IsDir() || source && strings.HasPrefix(p, dir+"/upstream/") {
			return err
		}
		b, err := fs.ReadFile(fsys, p)
		if source && p == dir+"/component.yaml" {
			b = withoutUpstream(b)
		}
		fmt.Fprintf(h, "%s %d\n", p, len(b))
		h.Write(b)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read component %s: %w", name, err)
	}
	return store.SHA256(h.Sum(nil)), nil
}
