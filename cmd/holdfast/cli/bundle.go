package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/signing"
)

func (a *app) bundleCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "bundle",
		Short:   "Verify, look into and make differences of releases packed for carrying",
		Example: "  holdfast bundle verify out/mysite-1.bundle",
	}
	c.AddCommand(a.bundleVerifyCmd(), a.bundleInspectCmd(), a.bundleSBOMCmd(), a.bundleProvenanceCmd(), a.bundleCreateCmd(), a.bundleDiffCmd(), a.bundleJoinCmd())
	return c
}

func (a *app) bundleVerifyCmd() *cobra.Command {
	var f bundleFlags
	var base string
	c := f.add(&cobra.Command{
		Use:   "verify FILE",
		Short: "Check every byte of a bundle, or of a raw image with its signed statement",
		Long: `Reads the file once and checks signatures, digests, form and order: a bundle in
which any byte was changed, added or left out is refused (exit code 3). Of a
difference, says what must come from its base; with --base verifies both as a whole.
Of a file that has several bundles ("bundle join"), verifies each.
A file that ends in .raw is checked against FILE.sig, the statement signed with its
release.`,
		Example: "  holdfast bundle verify out/mysite-1.bundle\n  holdfast bundle verify --base mysite-1.bundle mysite-2-since-1.bundle\n  holdfast bundle verify --trust policy.json --zone official stick/mysite-1.raw",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := a.trust(f.policy, f.zone, f.min)
			if err != nil {
				return err
			}
			if strings.HasSuffix(args[0], ".raw") {
				return a.verifyImage(c.Context(), args[0], trust)
			}
			return a.openSeries(c.Context(), trust, base, args[0], a.showVerified, a.showDifference)
		},
	})
	c.Flags().StringVar(&base, "base", "", "the bundle that FILE is a difference from")
	return c
}

func (a *app) bundleInspectCmd() *cobra.Command {
	var f bundleFlags
	var base string
	c := f.add(&cobra.Command{
		Use:     "inspect FILE",
		Short:   "Verify a bundle and list its parts",
		Long:    "Verifies a bundle and lists the parts of its release; of a file that has several\nbundles, those of each.",
		Example: "  holdfast bundle inspect --json out/mysite-1.bundle",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := a.trust(f.policy, f.zone, f.min)
			if err != nil {
				return err
			}
			return a.openSeries(c.Context(), trust, base, args[0], a.inspect, nil)
		},
	})
	c.Flags().StringVar(&base, "base", "", "the bundle that FILE is a difference from")
	return c
}

// trust is whom to believe: named, or the site's own policy and zone.
func (a *app) trust(policy, zone string, min uint64) (bundles.Trust, error) {
	t := bundles.Trust{Zone: zone, MinRelease: min}
	if policy == "" {
		policy = filepath.Join(a.dir, "trust", "policy.json")
	}
	b, err := os.ReadFile(policy)
	if err != nil {
		return t, fmt.Errorf("cannot read the trust policy: %w\nhint: name it with --trust, or the site's directory with -C", err)
	}
	if t.Policy, err = signing.ParsePolicy(b); err != nil {
		return t, fmt.Errorf("cannot use %s: %w", policy, err)
	}
	if zone == "" {
		site, err := overlays.Load(a.dir)
		if errors.Is(err, fs.ErrNotExist) {
			return t, errUsage{errors.New("no site.yaml here says which zone the release must be for\nhint: name it with --zone, or the site's directory with -C")}
		}
		if err != nil {
			return t, err
		}
		t.Zone = site.Zone
	}
	return t, nil
}

// openBundle verifies the bundle and hands it to use, while its file is open:
// the parts are read from there. A difference needs its base among bases.
func (a *app) openBundle(ctx context.Context, name string, trust bundles.Trust, bases []*bundles.Verified, use func(string, *bundles.Verified) error) error {
	return a.readBundle(name, func(f *os.File, size int64, progress bundles.Progress) error {
		v, err := bundles.OpenAt(ctx, f, size, trust, progress, bases...)
		if err != nil {
			return fmt.Errorf("cannot verify %s: %w", name, err)
		}
		return use(name, v)
	})
}

// readBundle hands an open file to read, with its size and what shows how much
// of it was read.
func (a *app) readBundle(name string, read func(f *os.File, size int64, progress bundles.Progress) error) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read bundle: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot read bundle: %w", err)
	}
	report := a.progress("verify")
	return read(f, fi.Size(), func(done, _ int64) { report(done, fi.Size(), filepath.Base(name)) })
}

func (a *app) showVerified(name string, v *bundles.Verified) error {
	f := v.Facts()
	var by []string
	development := false
	for _, k := range v.Accepted().Keys {
		by = append(by, k.Name)
		development = development || k.Development
	}
	if a.json {
		e := map[string]any{"event": "verified", "file": name, "facts": f, "index": v.Index(), "signedBy": by, "development": development, "whole": true}
		if since, ok := v.Since(); ok {
			e["since"] = since
		}
		a.event(e)
		return nil
	}
	a.printf("verified: %s\n  release %d of %s for zone %s, %s\n  signed by %s\n", name, f.Release, f.Name, f.Zone, v.Index().Digest, strings.Join(by, ", "))
	if since, ok := v.Since(); ok {
		a.printf("  a difference from %s, verified with it\n", since)
	}
	if development {
		a.printf("  a development key was counted: not for use outside zone official\n")
	}
	return nil
}

// verifyImage checks a raw image against its signed statement.
func (a *app) verifyImage(ctx context.Context, name string, trust bundles.Trust) error {
	b, err := os.ReadFile(name + ".sig")
	if err != nil {
		return fmt.Errorf("cannot read the image's statement: %w\nhint: it is made beside the image, and travels with it", err)
	}
	st, _, err := signing.VerifyStatement(trust.Policy, trust.Zone, b)
	if err != nil {
		return fmt.Errorf("cannot verify %s: %w", name, err)
	}
	if err := checkSize(name, st); err != nil {
		return fmt.Errorf("cannot verify %s: %w", name, err)
	}
	report := a.progress("verify")
	if _, err := readImage(ctx, name, st, func(n, total int64) { report(n, total, filepath.Base(name)) }); err != nil {
		return err
	}
	if st.Release < trust.MinRelease {
		return fmt.Errorf("cannot verify %s: %w: release %d is lower than %d", name, bundles.ErrRefused, st.Release, trust.MinRelease)
	}
	if a.json {
		a.event(map[string]any{"event": "verified", "file": name, "statement": st})
	} else {
		a.printf("verified: %s\n  image of release %d of %s for zone %s, %s\n", name, st.Release, st.Name, st.Zone, st.Digest)
	}
	return nil
}

func (a *app) inspect(_ string, v *bundles.Verified) error {
	s, err := bundles.Inspect(v)
	if err != nil {
		return err
	}
	if a.json {
		a.event(s)
		return nil
	}
	a.printf("release %d of %s, zone %s, made by holdfast %s\nindex %s\nroot hash %s\n%d images, %d packages and modules, %d blobs, %s\n\n",
		s.Facts.Release, s.Facts.Name, s.Facts.Zone, s.Facts.Version, s.Index.Digest, s.Facts.RootHash, s.Images, s.Packages, s.Blobs, size(s.Size))
	for _, p := range s.Parts {
		name := p.Name
		if name == "" {
			name = p.Component
		}
		a.printf("%-10s %-60s %10s  %.19s…\n", p.Part, name, size(p.Size), p.Manifest.Digest)
		for _, f := range p.Files {
			a.printf("%10s   %-58s %10s  %.19s…\n", "", f.Title, size(f.Content.Size), f.Content.Digest)
		}
	}
	return nil
}
