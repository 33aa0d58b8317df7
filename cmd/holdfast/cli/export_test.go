package cli

import "github.com/spf13/cobra"

// Commands is the tree of all commands.
func Commands(h Host) *cobra.Command { return (&app{Host: h}).root() }

// VarMin is what flash wants behind an image.
const VarMin = varMin
