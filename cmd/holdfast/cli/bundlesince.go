package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/overlays"
)

// bundleFlags are what the commands of "bundle" have in common.
type bundleFlags struct {
	policy, zone string
	min          uint64
}

func (f *bundleFlags) add(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&f.policy, "trust", "", "the trust policy (default: trust/policy.json of the site)")
	c.Flags().StringVar(&f.zone, "zone", "", "the zone that the release must be for (default: the site's)")
	c.Flags().Uint64Var(&f.min, "min-release", 0, "refuse a lower release number")
	return c
}

func (a *app) bundleCreateCmd() *cobra.Command {
	var f bundleFlags
	var since, base, output string
	c := f.add(&cobra.Command{
		Use:   "create --since BASE [NEW] | --base BASE DIFFERENCE",
		Short: "Make a difference from two bundles, or a whole bundle from a difference",
		Long: `With --since, writes what NEW (default: what the site was built to) has and BASE, the
bundle of an earlier release of the same site, has not. It is opened together with BASE, or on a node that has BASE's
release. With --base, writes the whole bundle again, byte by byte as it was. All
files are verified first.`,
		Example: "  holdfast bundle create --since out/mysite-1.bundle\n  holdfast bundle create --base mysite-1.bundle mysite-2-since-1.bundle",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (since == "") == (base == "") || base != "" && len(args) == 0 {
				return errUsage{errors.New("cannot create a bundle: want --since BASE [NEW], or --base BASE DIFFERENCE\nhint: --since for a difference, --base for the whole of one")}
			}
			if len(args) == 0 {
				site, err := overlays.Load(a.dir)
				if err != nil {
					return err
				}
				args = []string{filepath.Join(a.outDir(), fmt.Sprintf("%s-%d.bundle", site.Name, site.Release))}
			}
			trust, err := a.trust(f.policy, f.zone, f.min)
			if err != nil {
				return err
			}
			if since != "" {
				return a.withBundles(c.Context(), trust, since, args[0], false, func(v, b *bundles.Verified) error {
					return a.createBundle(c.Context(), v, b, args[0], output)
				})
			}
			return a.withBundles(c.Context(), trust, base, args[0], true, func(v, _ *bundles.Verified) error {
				return a.createBundle(c.Context(), v, nil, args[0], output)
			})
		},
	})
	c.Flags().StringVar(&since, "since", "", "the bundle that the site has already")
	c.Flags().StringVar(&base, "base", "", "the bundle that the difference is from")
	c.Flags().StringVarP(&output, "output", "o", "", "the file to write (default: beside NEW, named after the releases)")
	return c
}

func (a *app) bundleDiffCmd() *cobra.Command {
	var f bundleFlags
	return f.add(&cobra.Command{
		Use:   "diff BASE NEW",
		Short: "Price what a difference from BASE to NEW would carry, before making it",
		Long: `Lists what is not as it was, the dearest first, with the bytes that are carried for
it; they add up to the size of the file that "bundle create --since" makes. Packages
are named with what holds them; several in one part share its bytes. NEW may be a
difference from BASE itself.`,
		Example: "  holdfast bundle diff out/mysite-1.bundle out/mysite-2.bundle\n  holdfast bundle diff --json mysite-1.bundle mysite-2.bundle",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := a.trust(f.policy, f.zone, f.min)
			if err != nil {
				return err
			}
			return a.withBundles(c.Context(), trust, args[0], args[1], true, func(v, b *bundles.Verified) error { return a.showDiff(c.Context(), v, b) })
		},
	})
}

// withBundles verifies a base and then another bundle, which may be a
// difference from it if joined is set, and hands both to use.
func (a *app) withBundles(ctx context.Context, trust bundles.Trust, base, name string, joined bool, use func(v, base *bundles.Verified) error) error {
	older := trust
	older.MinRelease = 0 // that is about what is to be installed
	return a.openBundle(ctx, base, older, nil, func(_ string, b *bundles.Verified) error {
		// Only the release that is asked about is opened with the base: a
		// whole one opens as well.
		var bases []*bundles.Verified
		if joined {
			bases = []*bundles.Verified{b}
		}
		return a.openBundle(ctx, name, trust, bases, func(_ string, v *bundles.Verified) error { return use(v, b) })
	})
}

func (a *app) createBundle(ctx context.Context, v, base *bundles.Verified, beside, output string) error {
	f := v.Facts()
	if output == "" {
		name := fmt.Sprintf("%s-%d.bundle", f.Name, f.Release)
		if base != nil {
			name = fmt.Sprintf("%s-%d-since-%d.bundle", f.Name, f.Release, base.Facts().Release)
		}
		output = filepath.Join(filepath.Dir(beside), name)
	}
	n, err := a.writeBundle(output, []string{beside}, func(w io.Writer, progress bundles.Progress) error {
		return bundles.PackSince(ctx, w, v, base, progress)
	})
	if err != nil {
		return err
	}
	if a.json {
		e := map[string]any{"event": "created", "file": output, "size": n, "facts": f, "index": v.Index()}
		if base != nil {
			e["since"] = bundles.Since{Release: base.Facts().Release, Index: base.Index()}
		}
		a.event(e)
		return nil
	}
	if base == nil {
		a.printf("%s: release %d of %s, whole, %s\n", output, f.Release, f.Name, size(n))
		return nil
	}
	a.printf("%s: release %d of %s since release %d, %s\n  it opens only together with release %d, %s\n", output, f.Release, f.Name,
		base.Facts().Release, size(n), base.Facts().Release, base.Index().Digest)
	return nil
}

// writeBundle writes a file that is there whole or not at all, and is none of
// those that are read; it returns its size.
func (a *app) writeBundle(output string, read []string, write func(io.Writer, bundles.Progress) error) (int64, error) {
	if here, err := os.Stat(output); err == nil {
		for _, name := range read {
			if from, err := os.Stat(name); err == nil && os.SameFile(here, from) {
				return 0, errUsage{fmt.Errorf("cannot write %s: it is the bundle that is read\nhint: name another file with -o", output)}
			}
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(output), ".bundle-*")
	if err != nil {
		return 0, fmt.Errorf("cannot write bundle: %w", err)
	}
	defer os.Remove(tmp.Name())
	w := bufio.NewWriterSize(tmp, 1<<20)
	report := a.progress("compare and pack")
	if err = write(w, func(done, total int64) { report(done, total, filepath.Base(output)) }); err == nil {
		err = errors.Join(w.Flush(), tmp.Chmod(0o644), tmp.Sync())
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w\nhint: make room there, or name a file elsewhere with -o", err)
	}
	if err != nil {
		return 0, errors.Join(err, tmp.Close())
	}
	fi, err := tmp.Stat()
	if err = errors.Join(err, tmp.Close()); err != nil {
		return 0, fmt.Errorf("cannot write bundle: %w", err)
	}
	if err := os.Rename(tmp.Name(), output); err != nil {
		return 0, fmt.Errorf("cannot write bundle: %w", err)
	}
	return fi.Size(), nil
}

// showDifference reports a difference that was verified without its base.
func (a *app) showDifference(name string, d *bundles.DifferenceError) error {
	var by []string
	development := false
	for _, k := range d.Accepted.Keys {
		by = append(by, k.Name)
		development = development || k.Development
	}
	if a.json {
		a.event(map[string]any{"event": "verified", "file": name, "facts": d.Facts, "index": d.Index, "signedBy": by, "development": development,
			"since": d.Since, "missing": d.Missing, "whole": false})
		return nil
	}
	a.printf("verified as far as it goes: %s\n  a difference to release %d of %s for zone %s, %s\n  signed by %s\n  %d blobs of %s must come from %s\n  --base FILE verifies the whole\n",
		name, d.Facts.Release, d.Facts.Name, d.Facts.Zone, d.Index.Digest, strings.Join(by, ", "), len(d.Missing), size(d.MissingSize()), d.Since)
	if development {
		a.printf("  a development key was counted: not for use outside zone official\n")
	}
	return nil
}

func (a *app) showDiff(ctx context.Context, v, base *bundles.Verified) error {
	report := a.progress("compare")
	d, err := bundles.DiffPacked(ctx, v, base, func(done, total int64) { report(done, total, "with the base") })
	if err != nil {
		return err
	}
	if a.json {
		a.event(d)
		return nil
	}
	a.printf("release %d of %s since release %d: %s to carry, of %s\n\n", d.Facts.Release, d.Facts.Name, d.Since.Release, size(d.Size), size(d.Whole))
	for _, it := range d.Items {
		name := it.Name
		if it.Kind == bundles.PartManifests {
			name = it.Component + " " + name
		}
		if it.Patch {
			name += " (as a patch)"
		}
		if it.From != "" {
			name += " (was " + it.From + ")"
		}
		a.printf("%10s  %-10s %-8s %s\n", size(it.Bytes), it.Kind, it.Change, name)
	}
	a.printf("\n%d packages; those of one part share its bytes\n", len(d.Packages))
	for _, p := range d.Packages {
		what := p.From + " → " + p.To
		switch {
		case p.From == p.To:
			what = p.To + ", made again"
		case p.From == "":
			what = p.To + ", added"
		case p.To == "":
			what = p.From + ", removed"
		}
		a.printf("%10s  %s %s: in %s\n", size(p.Bytes), p.Name, what, strings.Join(p.In, ", "))
	}
	return nil
}
