package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/image"
)

func (a *app) lockCmd() *cobra.Command {
	var update []string
	var check, upstream, accept bool
	c := &cobra.Command{
		Use:   "lock",
		Short: "Pin every input of the site by digest, in site.lock",
		Long: `Writes site.lock, which names every package, image, chart, recipe and file that
the release is made from. What it pins already stays where it is, unless --update names
it; packages that the archives no longer have move with every update of packages.

--check writes nothing: it says whether site and lock agree, without a network;
with --upstream also whether all is still to be had, and what is newer.`,
		Example: `  holdfast lock
  holdfast lock --update systemd --update libc6
  holdfast lock --update registry.example/team/app:1.4
  holdfast lock --update gone
  holdfast lock --update all
  holdfast lock --check --upstream`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if upstream && !check {
				return errUsage{errors.New("--upstream goes with --check")}
			}
			if check && len(update) > 0 {
				return errUsage{errors.New("--update does not go with --check")}
			}
			if check {
				return a.checkLock(c.Context(), upstream)
			}
			return a.lock(c.Context(), update, accept)
		},
	}
	c.Flags().StringArrayVar(&update, "update", nil, "an input to move to what is there now: a package or an image by its name, a chart as \"chart/NAME\", \"gone\" (only what is no longer to be had), \"debian\", \"images\", \"charts\", \"k3s\" (its release files), or \"all\"")
	c.Flags().BoolVar(&check, "check", false, "only say whether site.yaml and site.lock agree")
	c.Flags().BoolVar(&upstream, "upstream", false, "with --check: ask archives and registries too")
	c.Flags().BoolVar(&accept, "accept-scripts", false, "accept maintainer scripts that nobody has reviewed; the lock records it")
	return c
}

func (a *app) lock(ctx context.Context, update []string, accept bool) error {
	in, err := a.load()
	if err != nil {
		return err
	}
	previous, err := airgap.ReadLock(a.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s, err := a.cache()
	if err != nil {
		return err
	}
	network, err := a.lockNetwork(in.site)
	if err != nil {
		return err
	}
	done := a.step("lock")
	l, err := airgap.Resolve(ctx, in.request, previous, network, s, airgap.Options{
		Update:  update,
		Verdict: image.Verdict,
		Notice:  a.notice,
		Fetched: a.progress("fetching packages"),
		Taken:   a.progress("taking images"),
		Pinned:  a.counter("resolving images"),
	})
	if unreached := (*net.OpError)(nil); errors.As(err, &unreached) {
		return fmt.Errorf("%w\nhint: is there a network? \"mirrors\" of site.yaml names other places to fetch from", err)
	}
	if err != nil {
		return err
	}
	if unknown := l.UnreviewedScripts(); len(unknown) > 0 && accept {
		l = l.AcceptScripts()
		a.notice(fmt.Sprintf("accepted %d maintainer scripts that nobody has reviewed; %s says which", len(unknown), airgap.LockName))
	}
	for _, d := range previous.Changes(l) {
		a.notice(d)
	}
	if err := l.Write(a.dir); err != nil {
		return err
	}
	done(summary(l))
	if unknown := l.UnreviewedScripts(); len(unknown) > 0 {
		return fmt.Errorf("%s is written, but %d maintainer scripts in it are new or changed, and nobody has looked at what they would do:\n  %s\nhint: look at them, and run \"holdfast lock --accept-scripts\"; build refuses them until then",
			airgap.LockName, len(unknown), strings.Join(unknown, "\n  "))
	}
	return nil
}

// notice tells what the user should know, on standard error.
func (a *app) notice(s string) {
	if a.json {
		a.event(map[string]any{"event": "notice", "message": s})
		return
	}
	fmt.Fprintf(a.Stderr, "note: %s\n", s)
}

func (a *app) checkLock(ctx context.Context, upstream bool) error {
	in, err := a.load()
	if err != nil {
		return err
	}
	l, err := airgap.ReadLock(a.dir)
	if err != nil {
		return err
	}
	if err := in.request.Fits(l); err != nil && !upstream {
		return err
	} else if err != nil {
		a.notice(err.Error())
	}
	if upstream {
		net, err := a.lockNetwork(in.site)
		if err != nil {
			return err
		}
		s, err := a.cache()
		if err != nil {
			return err
		}
		newer, gone, err := airgap.Upstream(ctx, in.request, l, net, s)
		if err != nil {
			return err
		}
		for _, n := range newer {
			a.notice(n)
		}
		if len(gone) > 0 {
			return fmt.Errorf("the archives and registries no longer have %d of the locked inputs:\n  %s\nhint: \"holdfast lock --update gone\" moves these alone, \"holdfast lock --update all\" everything", len(gone), strings.Join(gone, "\n  "))
		}
	}
	if a.json {
		a.event(map[string]any{"event": "lock", "ok": true, "packages": len(l.Packages), "images": len(l.Images)})
	} else {
		a.printf("%s fits: %s\n", airgap.LockName, summary(l))
	}
	return nil
}

// summary counts what a lock holds.
func summary(l airgap.Lock) string {
	s := fmt.Sprintf("%d packages, %d recipes, %d components", len(l.Packages), len(l.Recipes), len(l.Components))
	if n := len(l.Images); n > 0 {
		s += fmt.Sprintf(", %d images", n)
	}
	if n := len(l.Charts); n > 0 {
		s += fmt.Sprintf(", %d charts", n)
	}
	return s
}
