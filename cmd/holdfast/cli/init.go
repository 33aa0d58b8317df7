package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/overlays"
)

func (a *app) initCmd() *cobra.Command {
	var profile, name string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a new site: a commented site.yaml that locks and builds unchanged",
		Example: `  holdfast init mysite
  holdfast init --name harbour --profile source sites/harbour`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := args[0]
			if name == "" {
				abs, err := filepath.Abs(dir)
				if err != nil {
					return fmt.Errorf("cannot init %s: %w", dir, err)
				}
				name = strings.ToLower(filepath.Base(abs))
			}
			files, err := overlays.InitFiles(name, profile)
			if err != nil {
				return fmt.Errorf("cannot init %s: %w", dir, err)
			}
			return a.writeNew(dir, files)
		},
	}
	c.Flags().StringVar(&profile, "profile", "source", "source: from package registries alone; reference: K3s and upstream images")
	c.Flags().StringVar(&name, "name", "", "the site's name (default: the directory's)")
	return c
}

// writeNew writes files that must not be there yet: all of them or none.
func (a *app) writeNew(dir string, files map[string][]byte) error {
	var names []string
	var there []error
	for n := range files {
		names = append(names, n)
		if _, err := os.Lstat(filepath.Join(dir, n)); err == nil {
			there = append(there, fmt.Errorf("cannot init %s: %s is there already\nhint: choose a new directory", dir, n))
		}
	}
	if len(there) > 0 {
		return errors.Join(there...)
	}
	slices.Sort(names)
	for _, n := range names {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return fmt.Errorf("cannot init %s: %w", dir, err)
		}
		if err := os.WriteFile(p, files[n], 0o644); err != nil {
			return fmt.Errorf("cannot init %s: %w", dir, err)
		}
		if a.json {
			a.event(map[string]any{"event": "written", "file": p})
		} else {
			a.printf("%s\n", p)
		}
	}
	return nil
}

func (a *app) schemaCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of site.yaml",
		Example: "  holdfast schema > site.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := overlays.Schema()
			if err != nil {
				return err
			}
			if a.json {
				a.event(json.RawMessage(b)) // on one line
				return nil
			}
			a.printf("%s\n", strings.TrimSpace(string(b)))
			return nil
		},
	}
}
