package overlays

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed profiles/source
var profileFiles embed.FS

// InitFiles are the files of a new site, by slash-separated path. The profile
// source builds everything from source and Debian packages, for the lab.
func InitFiles(name string, profile string) (map[string][]byte, error) {
	if err := checkLabel(name); err != nil {
		return nil, fmt.Errorf("cannot name a site %q: %w", name, err)
	}
	switch profile {
	case "source":
	case "reference":
		return nil, fmt.Errorf("cannot make the profile reference: it comes with the upstream origin\nhint: use the profile source")
	default:
		return nil, fmt.Errorf("cannot find profile %q\nhint: profiles are source and reference", profile)
	}
	files := map[string][]byte{}
	for path, from := range map[string]string{
		"site.yaml": "site.yaml", ".gitignore": "gitignore", "manifests/README.md": "manifests.md",
	} {
		b, err := profileFiles.ReadFile("profiles/source/" + from)
		if err != nil {
			return nil, fmt.Errorf("internal error: cannot read profile: %w", err)
		}
		files[path] = []byte(strings.ReplaceAll(string(b), "@NAME@", name))
	}
	return files, nil
}
