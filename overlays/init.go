package overlays

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed profiles
var profileFiles embed.FS

// InitFiles are the files of a new site, by slash-separated path. The profile
// source builds everything from source and Debian packages, for the lab; the
// profile reference takes K3s and the platform from their projects.
func InitFiles(name string, profile string) (map[string][]byte, error) {
	if err := checkLabel(name); err != nil {
		return nil, fmt.Errorf("cannot name a site %q: %w", name, err)
	}
	if profile != "source" && profile != "reference" {
		return nil, fmt.Errorf("cannot find profile %q\nhint: profiles are source and reference", profile)
	}
	files := map[string][]byte{}
	for path, from := range map[string]string{
		"site.yaml": profile + "/site.yaml", ".gitignore": "source/gitignore", "manifests/README.md": "source/manifests.md",
	} {
		b, err := profileFiles.ReadFile("profiles/" + from)
		if err != nil {
			return nil, fmt.Errorf("internal error: cannot read profile: %w", err)
		}
		files[path] = []byte(strings.ReplaceAll(string(b), "@NAME@", name))
	}
	return files, nil
}
