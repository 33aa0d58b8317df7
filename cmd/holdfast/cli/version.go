package cli

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap/store"
)

// Version is set by the linker.
var Version = "0.1.0-dev"

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print holdfast's version",
		Example: "  holdfast version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				a.event(map[string]any{"version": Version, "go": runtime.Version()})
			} else {
				a.printf("holdfast %s (%s)\n", Version, runtime.Version())
			}
			return nil
		},
	}
}

// identity is the digest of the running program: results that another build of
// holdfast left in the cache are not taken for its own.
func identity() (store.Digest, error) {
	name, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find this program: %w", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("cannot read this program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("cannot read this program: %w", err)
	}
	return store.SHA256(h.Sum(nil)), nil
}
