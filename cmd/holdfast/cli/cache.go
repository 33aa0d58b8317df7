package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap/store"
)

func (a *app) cacheCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "cache",
		Short:   "Look after the store that all sites of this user share",
		Example: "  holdfast cache prune --dry-run",
	}
	var older string
	var dry bool
	prune := &cobra.Command{
		Use:   "prune",
		Short: "Remove what killed runs left and, with --older-than, what is no longer used",
		Long: `Removes the unfinished work of runs that were killed, and broken transfers that
nobody resumed for a week. With --older-than it also removes packages, parts,
results, programs and the compiler's entries that were not used for so long;
"holdfast collect" brings back what a lock names, which needs the mirrors. Modules
and toolchains stay. It refuses while another holdfast works there.`,
		Example: "  holdfast cache prune\n  holdfast cache prune --older-than 30d --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			age, err := parseAge(older)
			if err != nil {
				return err
			}
			return a.prune(age, dry)
		},
	}
	prune.Flags().StringVar(&older, "older-than", "", "also what was not used for so long, such as 30d or 12h")
	prune.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	c.AddCommand(prune)
	return c
}

// parseAge reads a duration that may be in days; "" is none.
func parseAge(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, errUsage{fmt.Errorf("cannot use --older-than %q\nhint: a number and its unit, such as 30d or 12h", s)}
	}
	return d, nil
}

func (a *app) prune(age time.Duration, dry bool) error {
	s, err := a.cache()
	if err != nil {
		return err
	}
	got, err := s.Prune(store.PruneOptions{Now: a.Now(), OlderThan: age, DryRun: dry})
	if err != nil {
		return err
	}
	total := got.Leftovers.Bytes + got.Partial.Bytes + got.Unused.Bytes
	if a.json {
		a.event(map[string]any{"event": "pruned", "dir": s.Dir(), "dryRun": dry, "bytes": total, "pruned": got})
		return nil
	}
	for _, x := range []struct {
		what string
		store.Count
	}{{"of killed runs", got.Leftovers}, {"broken transfers", got.Partial}, {"not used", got.Unused}} {
		a.printf("%6d %-18s %10s\n", x.Entries, x.what, size(x.Bytes))
	}
	done := "freed"
	if dry {
		done = "would be free"
	}
	a.printf("%s %s in %s\n", size(total), done, s.Dir())
	return nil
}
