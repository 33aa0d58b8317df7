package cli

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/image"
)

func (a *app) collectCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "collect",
		Short: "Bring every locked input into the store; after it, nothing needs a network",
		Long: `Fetches what site.lock names and the store lacks, several at a time, each checked
against its digest. It can be interrupted and goes on where it was. The store is
shared by all sites: $HOLDFAST_CACHE, or holdfast in the user's cache directory.`,
		Example: "  holdfast collect\n  holdfast collect --rehash",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.collect(c.Context()) },
	}
	c.Flags().BoolVar(&a.rehash, "rehash", false, "read everything in the store again, whatever it was found to be before")
	return c
}

func (a *app) collect(ctx context.Context) error {
	in, err := a.load()
	if err != nil {
		return err
	}
	l, err := airgap.ReadLock(a.dir)
	if err != nil {
		return err
	}
	if err := in.request.Fits(l); err != nil {
		return err
	}
	s, err := a.cache()
	if err != nil {
		return err
	}
	need, err := airgap.CollectNeeds(l, in.recipes, s)
	if err != nil {
		return err
	}
	if a.json {
		a.event(map[string]any{"event": "space", "needed": need.Missing, "free": need.Free, "dir": s.Dir()})
	} else {
		images := ""
		if len(l.Images) > 0 {
			images = fmt.Sprintf(", %d images", need.Images)
		}
		if len(l.Charts) > 0 {
			images += fmt.Sprintf(", %d charts", need.Charts)
		}
		a.printf("to fetch: %d packages%s; about %s needed, %s free in %s\n", need.Items, images, size(need.Missing), size(need.Free), s.Dir())
	}
	if need.Missing > need.Free {
		return fmt.Errorf("cannot collect: %s needed, %s free in %s\nhint: make room there, or set HOLDFAST_CACHE to a larger disk", size(need.Missing), size(need.Free), s.Dir())
	}
	net, err := a.network(in.site)
	if err != nil {
		return err
	}
	done := a.step("collect")
	progress := airgap.Progress{Packages: a.progress("fetching packages"), Images: a.progress("fetching images"), Recipe: a.counter("modules of")}
	if _, err := airgap.Collect(ctx, in.request, l, net, s, slog.New(slog.DiscardHandler), progress); err != nil {
		return err
	}
	report := a.counter("decompressing")
	if err := image.Prepare(ctx, s, l.Packages, func(n, total int) { report(n, total, "packages") }); err != nil {
		return err
	}
	note := fmt.Sprintf("%d packages, modules of %d recipes", len(l.Packages), len(in.recipes))
	if n := len(l.Images); n > 0 {
		note += fmt.Sprintf(", %d images", n)
	}
	if n := len(l.Charts); n > 0 {
		note += fmt.Sprintf(", %d charts", n)
	}
	done(note)
	return nil
}
