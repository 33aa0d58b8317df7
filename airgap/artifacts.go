package airgap

import (
	"fmt"

	"holdfast.dev/holdfast/airgap/origin/maven"
	"holdfast.dev/holdfast/airgap/store"
)

// Artifact is a file of a Maven repository. Its digest is the catalog's, as
// repositories sign nothing that could be checked here.
type Artifact struct {
	Name string `json:"name"` // group:artifact:version:type
	store.Content
}

func (a Artifact) key() string { return a.Name + string(a.Digest) }

func (l Lock) artifactsValid(digest func(string, store.Content)) []error {
	var errs []error
	seen := map[string]bool{}
	for _, a := range l.Maven {
		digest(a.Name, a.Content)
		if _, err := maven.Path(a.Name); err != nil {
			errs = append(errs, err)
		}
		if seen[a.Name] {
			errs = append(errs, fmt.Errorf("artifact %s is there twice", a.Name))
		}
		seen[a.Name] = true
	}
	return errs
}

func artifactItems(l Lock) []maven.Item {
	var out []maven.Item
	for _, a := range l.Maven {
		out = append(out, maven.Item{Name: a.Name, Content: a.Content})
	}
	return out
}

// MissingArtifacts names the locked artifacts that s does not have whole.
func MissingArtifacts(l Lock, s *store.Store) []string {
	var out []string
	for _, a := range l.Maven {
		if s.Check(a.Content) != nil {
			out = append(out, a.Name)
		}
	}
	return out
}
