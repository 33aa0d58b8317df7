package cli

import (
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles/catalog"
	"holdfast.dev/holdfast/overlays"
)

// Commands is the tree of all commands.
func Commands(h Host) *cobra.Command { return (&app{Host: h}).root() }

// VarMin is what flash wants behind an image.
const VarMin = varMin

// OwnNames is what load says of components beside parts of k3s.
func OwnNames(k overlays.Kubernetes, components []catalog.Component) error {
	return ownNames(k, components)
}

// EngineComponents are the names of what the site's engine brings itself, and of
// what the agent watches of that.
func EngineComponents(k overlays.Kubernetes) (brought, watched []string) {
	for _, c := range addonComponents(k) {
		watched = append(watched, c.Name)
	}
	return provided(k), watched
}
