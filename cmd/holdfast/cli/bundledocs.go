package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/bundles/provenance"
	"holdfast.dev/holdfast/bundles/sbom"
	"holdfast.dev/holdfast/bundles/sbom/cyclonedx"
)

// documentFlags are what the commands have in common that print a document of
// a release.
type documentFlags struct {
	bundleFlags
	base, image, output string
}

func (f *documentFlags) add(c *cobra.Command) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.Flags().StringVar(&f.base, "base", "", "the bundle that FILE is a difference from")
	c.Flags().StringVar(&f.image, "image", "", "about this image of the release alone, by its name with tag")
	c.Flags().StringVarP(&f.output, "output", "o", "", "the file to write (default: standard output)")
	return f.bundleFlags.add(c)
}

// run verifies the bundle and writes the document about it.
func (f *documentFlags) run(ctx context.Context, a *app, name string, document func(*bundles.Verified) ([]byte, error)) error {
	trust, err := a.trust(f.policy, f.zone, f.min)
	if err != nil {
		return err
	}
	return a.openWhole(ctx, trust, f.base, name, func(v *bundles.Verified) error {
		doc, err := document(v)
		if err != nil {
			return err
		}
		if f.output != "" {
			return writeFile(f.output, doc)
		}
		if a.json { // one object a line
			var line bytes.Buffer
			if err := json.Compact(&line, doc); err != nil {
				return fmt.Errorf("internal error: a document is not JSON: %w", err)
			}
			line.WriteByte('\n')
			doc = line.Bytes()
		}
		_, err = a.Stdout.Write(doc)
		return err
	})
}

func (a *app) bundleSBOMCmd() *cobra.Command {
	var f documentFlags
	var format string
	c := f.add(&cobra.Command{
		Use:   "sbom FILE",
		Short: "Verify a bundle and print what it is made of, as SPDX or CycloneDX",
		Long: `Verifies the bundle and prints the bill of materials of the release, or of one of its
images. It is made from the SPDX document in the release, which its signature covers;
the same bundle gives the same bytes.`,
		Example: "  holdfast bundle sbom out/mysite-1.bundle > mysite-1.spdx.json\n  holdfast bundle sbom --format cyclonedx --image registry.k8s.io/pause:3.10.2 -o pause.cdx.json out/mysite-1.bundle",
		RunE: func(c *cobra.Command, args []string) error {
			if format != "spdx" && format != "cyclonedx" {
				return errUsage{fmt.Errorf("cannot write an SBOM as %q\nhint: --format spdx (version 2.3) or cyclonedx (version 1.6)", format)}
			}
			return f.run(c.Context(), a, args[0], func(v *bundles.Verified) ([]byte, error) { return releaseSBOM(v, f.image, format) })
		},
	})
	c.Flags().StringVar(&format, "format", "spdx", "spdx or cyclonedx")
	return c
}

func (a *app) bundleProvenanceCmd() *cobra.Command {
	var f documentFlags
	return f.add(&cobra.Command{
		Use:   "provenance FILE",
		Short: "Verify a bundle and print how it was made, as an in-toto statement",
		Long: `Verifies the bundle and prints the statement (in-toto, SLSA provenance 1) about the
release, or about one of the images that were composed for it, as it lies in the
release, after comparing what it says of its subjects with the signed release.`,
		Example: "  holdfast bundle provenance out/mysite-1.bundle\n  holdfast bundle provenance --image registry.k8s.io/pause:3.10.2 out/mysite-1.bundle",
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c.Context(), a, args[0], func(v *bundles.Verified) ([]byte, error) { return statement(v, f.image) })
		},
	})
}

// openWhole is openBundle of a bundle that may be a difference from base.
func (a *app) openWhole(ctx context.Context, trust bundles.Trust, base, name string, use func(*bundles.Verified) error) error {
	if base != "" {
		return a.withBundles(ctx, trust, base, name, true, func(v, _ *bundles.Verified) error { return use(v) })
	}
	return a.openBundle(ctx, name, trust, nil, func(_ string, v *bundles.Verified) error { return use(v) })
}

// maxSBOM bounds the SPDX document that is read whole.
const maxSBOM = 128 << 20

// releaseSBOM is the document about a release, or about one of its images.
func releaseSBOM(v *bundles.Verified, image, format string) ([]byte, error) {
	stored, err := storedSBOM(v)
	if err != nil || image == "" && format == "spdx" {
		return stored, err
	}
	d, err := sbom.Parse(bytes.NewReader(stored))
	if err != nil {
		return nil, err
	}
	if image != "" {
		im, err := imageOf(v, image)
		if err != nil {
			return nil, err
		}
		if d, err = d.Image(im.Name); err != nil {
			return nil, err
		}
		if got := d.Element(d.Root).SHA256; got != im.Manifest.Digest.Hex() {
			return nil, fmt.Errorf("cannot trust the SBOM of image %s: %w: it is of sha256:%s, the release has %s", im.Name, bundles.ErrRefused, got, im.Manifest.Digest)
		}
	}
	var doc bytes.Buffer
	if format == "cyclonedx" {
		err = cyclonedx.Write(&doc, d)
	} else {
		err = d.Write(&doc)
	}
	return doc.Bytes(), err
}

func storedSBOM(v *bundles.Verified) ([]byte, error) {
	f, ok := v.File(bundles.PartSBOM, bundles.SBOMJSON)
	if !ok {
		return nil, errors.New("cannot read the SBOM: the release has none")
	}
	if f.Content.Size > maxSBOM {
		return nil, fmt.Errorf("cannot read %s: %d bytes, more than the %d allowed", f.Title, f.Content.Size, maxSBOM)
	}
	r, err := v.OpenBlob(f.Content)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// imageOf finds an image of a release by its name, with or without its digest.
func imageOf(v *bundles.Verified, name string) (bundles.Image, error) {
	var names []string
	for _, im := range v.Images() {
		if name == im.Name || name == im.Name+"@"+string(im.Manifest.Digest) {
			return im, nil
		}
		names = append(names, im.Name)
	}
	if len(names) == 0 {
		return bundles.Image{}, fmt.Errorf("cannot find image %s: the release has no images", name)
	}
	slices.Sort(names)
	return bundles.Image{}, fmt.Errorf("cannot find image %s in the release\nhint: it has %s", name, strings.Join(names, ", "))
}

// statement is the provenance of a release, or of one of its images, as it is
// stored. What it says of its subjects must be so.
func statement(v *bundles.Verified, image string) ([]byte, error) {
	title, want := bundles.ProvenanceJSON, releaseSubjects(v)
	if image != "" {
		im, err := imageOf(v, image)
		if err != nil {
			return nil, err
		}
		title, want = statementTitle(im.Name), imageSubjects([]bundles.Image{im})
	}
	f, ok := v.File(bundles.PartProvenance, title)
	if !ok {
		return nil, fmt.Errorf("cannot find a statement about image %s: it was not composed for this release\nhint: without --image, the release's statement has it among its dependencies", image)
	}
	b, err := v.ReadBlob(f.Content)
	if err != nil {
		return nil, err
	}
	s, err := provenance.Read(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: the release was made by holdfast %s; older ones wrote no statements", err, v.Facts().Version)
	}
	if err := sameSubjects(s.Subject, want); err != nil {
		return nil, fmt.Errorf("cannot trust %s: %w: %w", title, bundles.ErrRefused, err)
	}
	return b, nil
}

// sameSubjects tells where a statement's subjects are not what the release
// has under their names.
func sameSubjects(got, want []provenance.Resource) error {
	var errs []error
	digests := map[string]map[string]string{}
	for _, w := range want {
		digests[w.Name] = w.Digest
	}
	for _, g := range got {
		d, ok := digests[g.Name]
		delete(digests, g.Name)
		if !ok {
			errs = append(errs, fmt.Errorf("its subject %s is not in the release", g.Name))
		} else if !maps.Equal(d, g.Digest) {
			errs = append(errs, fmt.Errorf("its subject %s has sha256:%s, the release sha256:%s", g.Name, g.Digest["sha256"], d["sha256"]))
		}
	}
	for _, w := range want {
		if _, missing := digests[w.Name]; missing {
			errs = append(errs, fmt.Errorf("it says nothing of %s", w.Name))
		}
	}
	return errors.Join(errs...)
}
