package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles"
)

func (a *app) bundleJoinCmd() *cobra.Command {
	var f bundleFlags
	var since, output string
	c := f.add(&cobra.Command{
		Use:   "join [--since BASE] FIRST NEXT...",
		Short: "Put several releases into one file, to be taken one after the other",
		Long: `Writes releases of one site, from the oldest to the newest, into one file: the
first whole, or with --since as the difference from a release that the site has, each
other as the difference from the one before. A node that takes the file goes through
all that are newer than its own, each once the one before is confirmed: so a site that
is several minor versions of Kubernetes behind is brought forward from one file.
Bundles may be differences from one named before them.`,
		Example: "  holdfast bundle join mysite-5.bundle mysite-6.bundle mysite-7.bundle\n  holdfast bundle join --since mysite-4.bundle -o forward.bundle mysite-5.bundle mysite-6.bundle",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := a.trust(f.policy, f.zone, f.min)
			if err != nil {
				return err
			}
			names := args
			if since != "" {
				names = append([]string{since}, args...)
			}
			return a.openAll(c.Context(), trust, names, nil, func(vs []*bundles.Verified) error {
				var base *bundles.Verified
				if since != "" {
					base, vs = vs[0], vs[1:]
				}
				return a.joinBundles(c.Context(), vs, base, names, output)
			})
		},
	})
	c.Flags().StringVar(&since, "since", "", "the bundle that the site has already")
	c.Flags().StringVarP(&output, "output", "o", "", "the file to write (default: beside the last, named after the releases)")
	return c
}

// openAll opens bundles, each with those before it as bases; the lowest number
// that trust has is about the last.
func (a *app) openAll(ctx context.Context, trust bundles.Trust, names []string, before []*bundles.Verified, use func([]*bundles.Verified) error) error {
	if len(names) == 0 {
		return use(before)
	}
	t := trust
	if len(names) > 1 {
		t.MinRelease = 0
	}
	return a.openBundle(ctx, names[0], t, before, func(_ string, v *bundles.Verified) error {
		return a.openAll(ctx, trust, names[1:], append(before, v), use)
	})
}

func (a *app) joinBundles(ctx context.Context, vs []*bundles.Verified, base *bundles.Verified, names []string, output string) error {
	first, last := vs[0].Facts(), vs[len(vs)-1].Facts()
	if output == "" {
		output = fmt.Sprintf("%s-%d-to-%d", last.Name, first.Release, last.Release)
		if base != nil {
			output += fmt.Sprintf("-since-%d", base.Facts().Release)
		}
		output = filepath.Join(filepath.Dir(names[len(names)-1]), output+".bundle")
	}
	n, err := a.writeBundle(output, names, func(w io.Writer, progress bundles.Progress) error {
		return bundles.PackSeries(ctx, w, vs, base, progress)
	})
	if err != nil {
		return err
	}
	var releases []uint64
	for _, v := range vs {
		releases = append(releases, v.Facts().Release)
	}
	if a.json {
		e := map[string]any{"event": "joined", "file": output, "size": n, "releases": releases}
		if base != nil {
			e["since"] = bundles.Since{Release: base.Facts().Release, Index: base.Index()}
		}
		a.event(e)
		return nil
	}
	list := strings.Join(strings.Fields(strings.Trim(fmt.Sprint(releases), "[]")), ", ")
	a.printf("%s: releases %s of %s, %s\n", output, list, last.Name, size(n))
	if base != nil {
		a.printf("  it opens only together with release %d, %s\n", base.Facts().Release, base.Index().Digest)
	}
	return nil
}

// openSeries verifies the bundles of a file, the first of which may be a
// difference from base, and hands each to use. A difference alone for which no
// base is named goes to part, if there is one.
func (a *app) openSeries(ctx context.Context, trust bundles.Trust, base, name string, use func(string, *bundles.Verified) error, part func(string, *bundles.DifferenceError) error) error {
	if base != "" {
		older := trust
		older.MinRelease = 0 // that is about what is to be installed
		return a.openBundle(ctx, base, older, nil, func(_ string, b *bundles.Verified) error {
			return a.openSeriesWith(ctx, trust, []*bundles.Verified{b}, name, use, nil)
		})
	}
	return a.openSeriesWith(ctx, trust, nil, name, use, part)
}

func (a *app) openSeriesWith(ctx context.Context, trust bundles.Trust, bases []*bundles.Verified, name string, use func(string, *bundles.Verified) error, part func(string, *bundles.DifferenceError) error) error {
	return a.readBundle(name, func(f *os.File, size int64, progress bundles.Progress) error {
		vs, err := bundles.OpenSeries(ctx, f, size, trust, progress, bases...)
		var d *bundles.DifferenceError
		if part != nil && errors.As(err, &d) {
			return part(name, d)
		}
		if err != nil {
			return fmt.Errorf("cannot verify %s: %w", name, err)
		}
		for _, v := range vs {
			if err := use(name, v); err != nil {
				return err
			}
		}
		return nil
	})
}
