// Package cli is holdfast's command line: one file a command, and the only
// place that prints, exits, or asks the clock and the environment.
package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/cmd/holdfast/onto"
	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/signing"
)

// Exit codes.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitRefused = 3 // by verification or policy
)

// Host is what a command takes from outside.
type Host struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Rand           io.Reader
}

// System is the real host.
func System() Host {
	return Host{os.Stdin, os.Stdout, os.Stderr, os.Getenv, time.Now, rand.Reader}
}

// app is what every command has at hand.
type app struct {
	Host
	dir    string // the site's directory
	json   bool
	rehash bool

	release int64  // in place of the number in the site file, if not 0
	out     string // in place of the site's own, if not empty
}

// errUsage marks wrong usage.
type errUsage struct{ error }

// Run executes a command line and returns its exit code.
func Run(ctx context.Context, h Host, args []string) int {
	a := &app{Host: h}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(h.Stdin)
	root.SetOut(h.Stdout)
	root.SetErr(h.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitDone
	}
	if a.json {
		a.event(map[string]any{"event": "error", "error": err.Error()})
	} else {
		fmt.Fprintf(h.Stderr, "holdfast: error: %s\n", strings.TrimSpace(err.Error()))
	}
	var usage errUsage
	switch {
	case errors.As(err, &usage):
		return ExitUsage
	case refused(err):
		return ExitRefused
	}
	return ExitFailed
}

func refused(err error) bool {
	for _, target := range []error{backup.ErrRefused, bundles.ErrRefused, onto.ErrRefused, signing.ErrUntrusted, deb.ErrUntrusted, deb.ErrExpired, store.ErrMismatch, errPolicy} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// errPolicy is wrapped by refusals of the site's own rules.
var errPolicy = errors.New("refused by policy")

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Builds sovereign sites: one signed release over OS, Kubernetes and platform",
		Long: `holdfast makes, from one site.yaml, one signed release: a bootable OS image,
Kubernetes and the platform on it, packed so that a site with no way out is
installed, updated and proven from that release alone.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by verification or policy.`,
		Example: `  holdfast init mysite && cd mysite
  holdfast keys generate
  holdfast lock && holdfast check && holdfast collect && holdfast build
  holdfast bundle verify out/mysite-1.bundle
  holdfast lab up --wait`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVarP(&a.dir, "dir", "C", ".", "the site's directory")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON object or event a line")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return errUsage{fmt.Errorf("%w\nhint: %s --help", err, c.CommandPath())}
	})
	// "holdfast -C DIR lab kubectl …" hands everything behind kubectl on.
	root.TraverseChildren = true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(a.initCmd(), a.schemaCmd(), a.keysCmd(), a.lockCmd(), a.checkCmd(), a.collectCmd(),
		a.buildCmd(), a.bundleCmd(), a.applyCmd(), a.flashCmd(), a.labCmd(), a.backupCmd(), a.cacheCmd(), a.versionCmd())
	usageArgs(root)
	return root
}

// usageArgs makes wrong arguments wrong usage, for c and all below it.
func usageArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return errUsage{fmt.Errorf("%w\nhint: %s --help", err, c.CommandPath())}
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				hint := c.CommandPath() + " --help"
				c.SuggestionsMinimumDistance = 2
				if near := c.SuggestionsFor(args[0]); len(near) > 0 {
					hint = fmt.Sprintf("did you mean %q", near[0])
				}
				return errUsage{fmt.Errorf("unknown command %q\nhint: %s", args[0], hint)}
			}
			return nil
		}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	for _, s := range c.Commands() {
		usageArgs(s)
	}
}
