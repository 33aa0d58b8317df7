package airgap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"holdfast.dev/holdfast/airgap/origin/debian"
	"holdfast.dev/holdfast/airgap/origin/gomod"
	"holdfast.dev/holdfast/airgap/origin/maven"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/gobuild"
)

// moduleSpace is what the module cache and the toolchain of a recipe take, in
// bytes, where nothing is there yet: measured on the largest, kubernetes, with
// a margin. What the archives will take is not known before they are fetched.
const moduleSpace = 1 << 30

// unpacked is how many times its size a package takes once decompressed, about.
const unpacked = 4

// toolchainSpace is the archive and the unpacked tree of the Go toolchain.
const toolchainSpace = 400 << 20

// Need is the space that a step takes, and what is free.
type Need struct {
	Missing, Free int64 // bytes
	Items         int   // packages to fetch
	Images        int   // images of which something is to be fetched
	Charts        int
}

// CollectNeeds says what Collect would fetch and the space that this takes. It
// takes modules for whole whose archives are there.
func CollectNeeds(l Lock, recipes []gobuild.Recipe, s *store.Store) (Need, error) {
	n := missing(l, s)
	n.Missing += unpacked * n.Missing
	seen := map[store.Digest]bool{}
	for _, im := range l.Images {
		if bytes := imageMissing(im, s, seen); bytes > 0 {
			n.Missing += bytes
			n.Images++
			if im.File != (store.Content{}) && s.Check(im.File) != nil {
				n.Missing += im.File.Size
			}
		}
	}
	_, err := gomod.Toolchain(l.Toolchain.Version, l.Toolchain.H1, s.Dir())
	if err != nil {
		n.Missing += toolchainSpace
	}
	for _, r := range recipes {
		if err != nil || !gomod.Present(r, s.Dir()) {
			n.Missing += moduleSpace
		}
	}
	free, err := FreeSpace(s.Dir())
	n.Free = free
	return n, err
}

// missing counts the packages that s lacks.
func missing(l Lock, s *store.Store) Need {
	var n Need
	for _, p := range l.Packages {
		if s.Check(p.Content) != nil {
			n.Missing += p.Size
			n.Items++
		}
	}
	for _, c := range l.Charts {
		if s.Check(c.Content) != nil {
			n.Missing += c.Size
			n.Charts++
		}
	}
	for _, a := range l.Maven {
		if s.Check(a.Content) != nil {
			n.Missing += a.Size
			n.Items++
		}
	}
	for _, f := range l.Engine.Files {
		if s.Check(f.Content) != nil {
			n.Missing += f.Size
			n.Items++
		}
	}
	return n
}

// roomFor refuses to fetch packages that the store's disk cannot hold.
func roomFor(l Lock, s *store.Store) error {
	n := missing(l, s)
	free, err := FreeSpace(s.Dir())
	if err != nil {
		return err
	}
	if n.Missing > free {
		return fmt.Errorf("its packages take %d bytes more, %d are free in %s\nhint: make room there, or set HOLDFAST_CACHE to a larger disk", n.Missing, free, s.Dir())
	}
	return nil
}

// FreeSpace is the number of bytes that an ordinary user may still write.
func FreeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot find the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Collected is where the inputs lie.
type Collected struct {
	GoRoot string // the locked toolchain
}

// Progress is what Collect tells while it works; each may be nil.
type Progress struct {
	Packages, Images func(done, total int64, name string) // bytes
	Recipe           func(done, total int, name string)   // whose modules are had
}

// Collect brings every input of r that l pins into s: packages, images and
// charts by digest, the toolchain and the modules by their h1 hashes. What is there,
// whole, is not fetched again; what it fetched before an error stays. All that
// could not be had is told together.
func Collect(ctx context.Context, r Request, l Lock, net Network, s *store.Store, log *slog.Logger, progress Progress) (Collected, error) {
	err := debian.Fetch(ctx, net.Debian, s, items(l), progress.Packages)
	ierr := r.collectImages(ctx, l, net, s, progress.Images)
	eerr := r.collectEngine(ctx, l, net, s, progress.Images)
	goroot, _, terr := gomod.FetchToolchain(ctx, net.Go, l.Toolchain.Version, l.Toolchain.H1, s.Dir())
	merr := maven.Fetch(ctx, net.Maven, s, artifactItems(l), progress.Packages)
	cerr := fetchCharts(ctx, r.Charts, l, net, s, progress.Packages)
	if err := errors.Join(err, ierr, eerr, cerr, merr, terr); err != nil {
		return Collected{}, fmt.Errorf("cannot collect: %w", err)
	}
	var errs []error
	checks := gomod.NewChecks(s.Dir(), s.Rehash)
	recipes := r.Recipes
	for i, r := range recipes {
		if progress.Recipe != nil {
			progress.Recipe(i, len(recipes), r.Name)
		}
		if gomod.Offline(ctx, goroot, r, s.Dir(), checks) == nil {
			continue
		}
		errs = append(errs, gomod.FetchModules(ctx, goroot, net.Go, r, s.Dir(), checks, log))
	}
	if err := errors.Join(errs...); err != nil {
		return Collected{}, fmt.Errorf("cannot collect: %w", err)
	}
	return Collected{GoRoot: goroot}, nil
}
