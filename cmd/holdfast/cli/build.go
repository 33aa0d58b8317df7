package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/origin/gomod"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast/agentbin"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/gobuild"
	"holdfast.dev/holdfast/image/sandbox"
	"holdfast.dev/holdfast/signing"
)

func (a *app) buildCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "build",
		Short: "Build, sign and pack the release that site.yaml and site.lock name",
		Long: `Makes out/NAME-RELEASE.raw, .qcow2, .bundle and .json from locked inputs alone: no
network, no root, no container engine. The same inputs and keys give the same
bytes. What did not change is not made again.`,
		Example: "  holdfast build\n  holdfast -C sites/harbour build --json",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.build(c.Context()) },
	}
	c.Flags().BoolVar(&a.rehash, "rehash", false, "read every input again instead of trusting size, times and inode")
	return c
}

// build is the whole way from locked inputs to outputs.
func (a *app) build(ctx context.Context) error {
	in, err := a.load()
	if err != nil {
		return err
	}
	l, err := a.fittingLock(in)
	if err != nil {
		return err
	}
	if in, err = a.render(in, l); err != nil {
		return err
	}
	if err := a.closed(in, l); err != nil {
		return err
	}
	s, err := a.cache()
	if err != nil {
		return err
	}
	if err := collected(l, s); err != nil {
		return err
	}
	keys, err := a.signingKeys(in)
	if err != nil {
		return err
	}
	b := builder{app: a, in: in, lock: l, store: s, keys: keys}
	if b.identity, err = identity(); err != nil {
		return err
	}
	if b.agent, err = agentbin.Agent(); err != nil {
		return err
	}
	if err := errors.Join(b.needSpace(), b.needSteps()); err != nil {
		return err
	}
	programs, err := b.compile(ctx)
	if err != nil {
		return err
	}
	plan, err := image.MakePlan(b.in.site, b.lock, b.in.programs)
	if err != nil {
		return err
	}
	os, err := b.assemble(ctx, plan, programs)
	if err != nil {
		return err
	}
	boot, err := b.signBoot(plan, os)
	if err != nil {
		return err
	}
	images, err := b.images(ctx, programs)
	if err != nil {
		return err
	}
	rel, err := b.compose(ctx, os, boot, images, programs)
	if err != nil {
		return err
	}
	sigs, err := b.signRelease(rel)
	if err != nil {
		return err
	}
	return b.outputs(ctx, os, boot, images, rel, sigs)
}

// collected names what the store lacks of the lock, but for packages and modules:
// those who unpack and compile them do.
func collected(l airgap.Lock, s *store.Store) error {
	var errs []error
	for _, k := range []struct {
		what    string
		missing []string
	}{
		{"images whole", airgap.MissingImages(l, s)},
		{fmt.Sprintf("files of %s %s", l.Engine.Name, l.Engine.Version), airgap.MissingEngine(l, s)},
		{"artifacts of Maven whole", airgap.MissingArtifacts(l, s)},
	} {
		if len(k.missing) > 0 {
			errs = append(errs, fmt.Errorf("cannot build: the store does not have these %s:\n  %s\nhint: run \"holdfast collect\"", k.what, strings.Join(k.missing, "\n  ")))
		}
	}
	return errors.Join(errs...)
}

// builder is what the steps of one build share; they do not change it.
type builder struct {
	*app
	in       inputs
	lock     airgap.Lock
	store    *store.Store
	keys     siteKeys
	identity store.Digest
	agent    []byte // the program that goes into the root
}

func (a *app) fittingLock(in inputs) (airgap.Lock, error) {
	l, err := airgap.ReadLock(a.dir)
	if err != nil {
		return airgap.Lock{}, err
	}
	if err := in.request.Fits(l); err != nil {
		return airgap.Lock{}, err
	}
	if unknown := l.UnreviewedScripts(); len(unknown) > 0 {
		return airgap.Lock{}, fmt.Errorf("cannot build: %w: nobody has looked at these maintainer scripts:\n  %s\nhint: \"holdfast lock --accept-scripts\" takes them as they are, and records it",
			errPolicy, strings.Join(unknown, "\n  "))
	}
	return l, nil
}

// outDir is where outputs go, below the site's directory.
func (a *app) outDir() string { return cmp.Or(a.out, filepath.Join(a.dir, "out")) }

// needSteps refuses to start what could not run the steps of images.
func (b builder) needSteps() error {
	for _, c := range b.in.components {
		for _, im := range c.Images {
			if how := b.made(c, im); how.as == nil || len(how.as.Steps) == 0 {
				continue
			}
			if err := sandbox.Check(); err != nil {
				return fmt.Errorf("cannot make image %s, of which a program runs while it is made: %w", im.Name, err)
			}
			return nil
		}
	}
	return nil
}

// needSpace refuses to start what the disk cannot hold. The figure is an
// estimate: unpacked packages, compiled programs with the compiler's cache, and
// three outputs of the size of both.
func (b builder) needSpace() error {
	if _, err := os.Stat(filepath.Join(b.outDir(), b.outName()+".json")); err == nil {
		return nil // an earlier build got through; what changes is a fraction
	}
	var debs int64
	for _, p := range b.lock.Packages {
		debs += p.Size
	}
	var images int64
	for _, im := range b.lock.Images {
		images += im.Bytes
	}
	cacheNeed := 5*debs + int64(len(b.in.recipes))*(600<<20)
	outNeed := 3 * (4*debs + int64(len(b.in.recipes))*(150<<20) + images)
	if err := os.MkdirAll(b.outDir(), 0o755); err != nil {
		return fmt.Errorf("cannot build: %w", err)
	}
	var errs []error
	for _, p := range []struct {
		dir  string
		need int64
		hint string
	}{{b.store.Dir(), cacheNeed, "make room there, or set HOLDFAST_CACHE to a larger disk"}, {b.outDir(), outNeed, "make room there"}} {
		free, err := airgap.FreeSpace(p.dir)
		if err != nil {
			return err
		}
		if !b.json {
			b.printf("space: about %s needed, %s free in %s\n", size(p.need), size(free), p.dir)
		}
		if p.need > free {
			errs = append(errs, fmt.Errorf("cannot build: %s needed in %s, %s free\nhint: %s", size(p.need), p.dir, size(free), p.hint))
		}
	}
	return errors.Join(errs...)
}

func (b builder) outName() string {
	return fmt.Sprintf("%s-%d", b.in.site.Name, b.in.site.Release)
}

// compile builds every recipe; the result is by RECIPE/PROGRAM, in the store.
func (b builder) compile(ctx context.Context) (map[string]store.Content, error) {
	done := b.step("compile")
	report := b.counter("compile")
	programs := b.released()
	for i, r := range b.in.recipes {
		report(i, len(b.in.recipes), r.Name)
		out, err := b.compileRecipe(ctx, r)
		if err != nil {
			return nil, err
		}
		for name, c := range out {
			programs[r.Name+"/"+name] = c
		}
	}
	done(fmt.Sprintf("%d programs of %d recipes", len(programs), len(b.in.recipes)))
	return programs, nil
}

// programsKey names what compiling r gives. A compiler that is called in another
// way gives other bytes.
func programsKey(r gobuild.Recipe, l airgap.Lock) (store.Digest, error) {
	result, err := r.Key(l.Toolchain.H1, l.Epoch)
	if err != nil {
		return "", err
	}
	return store.Key("programs", result, l.Toolchain)
}

func (b builder) compileRecipe(ctx context.Context, r gobuild.Recipe) (map[string]store.Content, error) {
	key, err := programsKey(r, b.lock)
	if err != nil {
		return nil, err
	}
	var out map[string]store.Content
	if b.store.Recall(key, &out) && b.whole(out) {
		return out, nil
	}
	goroot, err := gomod.Toolchain(b.lock.Toolchain.Version, b.lock.Toolchain.H1, b.store.Dir())
	if err != nil {
		return nil, err
	}
	files, err := gobuild.Build(ctx, r, gobuild.Inputs{
		GoRoot:     goroot,
		Toolchain:  b.lock.Toolchain.H1,
		ModCache:   gomod.ModCache(b.store.Dir()),
		BuildCache: filepath.Join(b.store.Dir(), "gobuild"),
		OutDir:     filepath.Join(b.store.Dir(), "programs"),
		Epoch:      b.lock.Epoch,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	out = map[string]store.Content{}
	for name, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("cannot keep %s: %w", name, err)
		}
		c, err := b.store.Write(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("cannot keep %s: %w", name, err)
		}
		out[name] = c
	}
	return out, b.store.Remember(key, out)
}

// whole reports whether the store has all of cs.
func (b builder) whole(cs map[string]store.Content) bool {
	for _, c := range cs {
		if b.store.Check(c) != nil {
			return false
		}
	}
	return true
}

func (b builder) assemble(ctx context.Context, plan image.Plan, programs map[string]store.Content) (image.OS, error) {
	policy, err := os.ReadFile(filepath.Join(b.dir, "trust", "policy.json"))
	if err != nil {
		return image.OS{}, fmt.Errorf("cannot read the trust policy: %w", err)
	}
	dbCert, err := os.ReadFile(filepath.Join(b.dir, "trust", "db.crt"))
	if err != nil {
		return image.OS{}, fmt.Errorf("cannot read the Secure Boot certificate: %w", err)
	}
	done := b.step("assemble OS")
	report := b.counter("assemble")
	o, err := image.Assemble(ctx, plan, image.Inputs{
		Store: b.store, Programs: programs, Agent: b.agent, Policy: policy, DBCert: dbCert,
		Identity: b.identity, Version: Version,
		Progress: func(step string, n, total int) { report(n, total, step) },
	})
	if err != nil {
		return image.OS{}, err
	}
	done(fmt.Sprintf("root %s, kernel %s, root hash %.16s…", size(o.Root.Raw.Size), o.KernelVersion, o.RootHash))
	return o, nil
}

// signRelease is the second pass: one signature over the index, which covers
// everything else.
func (b builder) signRelease(rel bundles.Release) ([]signing.Signature, error) {
	ref := b.in.site.Name + ":" + fmt.Sprint(b.in.site.Release)
	sig, err := signing.Sign(string(rel.Index.Digest), ref, b.keys.release, nil)
	if err != nil {
		return nil, err
	}
	sigs := []signing.Signature{sig}
	if _, err := signing.Verify(b.keys.policy, b.in.site.Zone, string(rel.Index.Digest), sigs); err != nil {
		return nil, fmt.Errorf("%w\nhint: keys/release.key is not, or not alone, what trust/policy.json trusts for zone %s", err, b.in.site.Zone)
	}
	return sigs, nil
}
