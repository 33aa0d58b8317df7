package gomod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/gobuild"
)

// ErrMissing is wrapped by errors about modules that the cache lacks.
var ErrMissing = errors.New("not in the module cache")

// ModCache is the module cache below a cache directory.
func ModCache(cacheDir string) string { return filepath.Join(cacheDir, "gomod") }

// FetchModules fetches what recipe requires into ModCache(cacheDir) with the
// toolchain at goroot, which checks every module against the recipe's go.sum.
// It goes on where an earlier run stopped, and fetches again what is damaged.
// An error names each module that could not be had.
func FetchModules(ctx context.Context, goroot string, proxy Proxy, recipe gobuild.Recipe, cacheDir string, checks *Checks, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot fetch the modules of %s: %w", recipe.Name, err)
	}
	if err := recipe.Check(); err != nil {
		return err
	}
	needed, err := required(recipe)
	if err != nil {
		return fail(err)
	}
	if len(needed) == 0 {
		return nil
	}
	cache := ModCache(cacheDir)
	if err := removeDamaged(ctx, cache, needed, checks, log); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return fail(err)
	}
	for i := range attempts {
		if i > 0 {
			select {
			case <-ctx.Done():
				return fail(ctx.Err())
			case <-time.After(time.Duration(2*i) * time.Second):
			}
			log.Warn("trying again", "recipe", recipe.Name, "error", err)
		}
		if err = download(ctx, goroot, proxy, recipe, cacheDir, len(needed), log); err == nil || ctx.Err() != nil {
			break
		}
		// Other bytes than those in go.sum, and a file that no proxy has, are
		// the same at the next try.
		if errors.Is(err, store.ErrMismatch) || errors.Is(err, ErrNotFound) {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// download runs go mod download once.
func download(ctx context.Context, goroot string, proxy Proxy, recipe gobuild.Recipe, cacheDir string, total int, log *slog.Logger) error {
	src, env, err := workspace(goroot, recipe, cacheDir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Dir(src))
	// Here go.sum decides alone: what it lacks is not asked of a sum database but
	// is an error, below. Writable directories can be removed when damaged.
	env = append(env, proxy.Env...)
	env = append(env, "GOPROXY="+proxy.URLs, "GOSUMDB=off", "GOFLAGS=-mod=readonly -modcacherw")
	var stdout bytes.Buffer
	stderr := &fetched{log: log, recipe: recipe.Name, total: total}
	cmd := exec.CommandContext(ctx, filepath.Join(goroot, "bin", "go"), "mod", "download", "-x", "-json")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = src, env, &stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := downloadErrors(&stdout); err != nil {
		return err
	}
	if runErr != nil {
		said := strings.Join(stderr.said, "\n")
		if known := classify(said); known != nil {
			runErr = known
		}
		return fmt.Errorf("%w:\n%s", runErr, said)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(src, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if !bytes.Equal(b, recipe.Files[name]) {
			return fmt.Errorf("%s is not complete: go mod download changed it\nhint: complete it with \"go mod tidy\" in the recipe", name)
		}
	}
	return nil
}

// downloadErrors reads what go mod download -json says of each module.
func downloadErrors(r io.Reader) error {
	var errs []error
	dec := json.NewDecoder(r)
	for {
		var m struct{ Path, Version, Error string }
		if err := dec.Decode(&m); err != nil {
			if !errors.Is(err, io.EOF) {
				errs = append(errs, fmt.Errorf("cannot read what go mod download says: %w", err))
			}
			return errors.Join(errs...)
		}
		if m.Error == "" {
			continue
		}
		if known := classify(m.Error); known != nil {
			errs = append(errs, fmt.Errorf("%s@%s: %w: %s", m.Path, m.Version, known, m.Error))
		} else {
			errs = append(errs, fmt.Errorf("%s@%s: %s", m.Path, m.Version, m.Error))
		}
	}
}

// classify knows the failures that another try does not mend.
func classify(said string) error {
	switch {
	case strings.Contains(said, "checksum mismatch"):
		return store.ErrMismatch
	case strings.Contains(said, ": 404 Not Found"), strings.Contains(said, ": 410 Gone"):
		return ErrNotFound
	}
	return nil
}

// fetched counts the archives that the go command fetches, and keeps what it
// complains about.
type fetched struct {
	log      *slog.Logger
	recipe   string
	total    int
	n        int
	line     []byte
	reported time.Time
	said     []string
}

func (f *fetched) Write(b []byte) (int, error) {
	f.line = append(f.line, b...)
	for {
		i := bytes.IndexByte(f.line, '\n')
		if i < 0 {
			return len(b), nil
		}
		line := string(f.line[:i])
		f.line = f.line[i+1:]
		if strings.HasPrefix(line, "# get ") {
			if strings.Contains(line, ".zip: 200") {
				f.n++
			}
			if now := time.Now(); now.Sub(f.reported) >= 2*time.Second {
				f.reported = now
				f.log.Info("fetching modules", "recipe", f.recipe, "archives", f.n, "of", f.total)
			}
		} else if len(f.said) < 100 && !strings.HasPrefix(line, "go: downloading ") {
			f.said = append(f.said, line)
		}
	}
}

// Offline reports whether the programs of recipe can be built from
// ModCache(cacheDir) alone: every module that it requires is there, archive
// and unpacked files are those of go.sum, and the toolchain at goroot finds
// every package without a network. The error names all that are missing or
// damaged. What checks remembers is not read again.
func Offline(ctx context.Context, goroot string, recipe gobuild.Recipe, cacheDir string, checks *Checks) error {
	if err := recipe.Check(); err != nil {
		return err
	}
	needed, err := required(recipe)
	if err != nil {
		return fmt.Errorf("cannot check the modules of %s: %w", recipe.Name, err)
	}
	var errs []error
	for _, m := range needed {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, checks.module(ModCache(cacheDir), m))
	}
	err = errors.Join(errs...)
	if err == nil {
		err = checks.packages(ctx, goroot, recipe, cacheDir)
	}
	if err != nil {
		return fmt.Errorf("cannot build %s offline: %w\nhint: run \"holdfast collect\" where the network or a mirror can be reached", recipe.Name, err)
	}
	return nil
}

// listPackages loads every package that the programs import.
func listPackages(ctx context.Context, goroot string, recipe gobuild.Recipe, cacheDir string) error {
	src, env, err := workspace(goroot, recipe, cacheDir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Dir(src))
	byTags := map[string][]string{}
	for _, p := range recipe.Programs {
		byTags[p.Tags] = append(byTags[p.Tags], p.Package)
	}
	var errs []error
	for tags, packages := range byTags {
		args := append([]string{"list", "-deps", "-tags=" + tags, "-f={{.Name}}", "--"}, packages...)
		cmd := exec.CommandContext(ctx, filepath.Join(goroot, "bin", "go"), args...)
		cmd.Dir, cmd.Env = src, env
		if _, err := cmd.Output(); err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%w:\n%s", ErrMissing, strings.TrimSpace(string(exit.Stderr)))
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// wanted is a module that a recipe requires, after replacement.
type wanted struct {
	module.Version
	h1 string // of its archive, from go.sum
}

func (w wanted) String() string { return w.Path + "@" + w.Version.Version }

// required lists the modules of go.mod with their hashes from go.sum. Those that
// a directory of the recipe replaces are there already.
func required(recipe gobuild.Recipe) ([]wanted, error) {
	mf, err := modfile.Parse("go.mod", recipe.Files["go.mod"], nil)
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(recipe.Files["go.sum"])) {
		if f := strings.Fields(line); len(f) == 3 {
			sums[f[0]+"@"+f[1]] = f[2]
		}
	}
	var out []wanted
	var errs []error
	for _, req := range mf.Require {
		v := req.Mod
		for _, r := range mf.Replace {
			if r.Old.Path == v.Path && (r.Old.Version == "" || r.Old.Version == v.Version) {
				v = r.New
			}
		}
		if v.Version == "" { // a directory
			dir := filepath.ToSlash(filepath.Clean(v.Path))
			if _, ok := recipe.Files[dir+"/go.mod"]; !ok || !filepath.IsLocal(dir) {
				errs = append(errs, fmt.Errorf("go.mod replaces %s by a directory, %s, which is no module of the recipe", req.Mod.Path, v.Path))
			}
			continue
		}
		w := wanted{v, sums[v.Path+"@"+v.Version]}
		if w.h1 == "" {
			errs = append(errs, fmt.Errorf("go.sum lacks %s\nhint: complete it with \"go mod tidy\" in the recipe", w))
			continue
		}
		out = append(out, w)
	}
	return out, errors.Join(errs...)
}

// places are the files of a module in a cache.
func (w wanted) places(cache string) (archive, tree string, err error) {
	p, err := module.EscapePath(w.Path)
	if err != nil {
		return "", "", err
	}
	v, err := module.EscapeVersion(w.Version.Version)
	if err != nil {
		return "", "", err
	}
	return filepath.Join(cache, "cache", "download", p, "@v", v+".zip"), filepath.Join(cache, p+"@"+v), nil
}

// verify checks one module; its error wraps ErrMissing or store.ErrMismatch.
func verify(cache string, w wanted) error {
	archive, tree, err := w.places(cache)
	if err != nil {
		return err
	}
	if _, err := os.Stat(archive); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", w, ErrMissing)
	}
	if got, err := dirhash.HashZip(archive, dirhash.Hash1); err != nil || got != w.h1 {
		return fmt.Errorf("%s: %w: its archive is not that of go.sum", w, store.ErrMismatch)
	}
	if _, err := os.Stat(tree); errors.Is(err, os.ErrNotExist) {
		return nil // the go command unpacks it
	}
	if got, err := dirhash.HashDir(tree, w.String(), dirhash.Hash1); err != nil || got != w.h1 {
		return fmt.Errorf("%s: %w: its unpacked files are not those of go.sum", w, store.ErrMismatch)
	}
	return nil
}

// removeDamaged takes out of the cache what the go command would trust though
// it is not what go.sum says.
func removeDamaged(ctx context.Context, cache string, needed []wanted, checks *Checks, log *slog.Logger) error {
	for _, w := range needed {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := checks.module(cache, w)
		if !errors.Is(err, store.ErrMismatch) {
			continue
		}
		log.Warn("fetching again", "reason", err)
		archive, tree, err := w.places(cache)
		if err != nil {
			return err
		}
		for _, name := range []string{archive, strings.TrimSuffix(archive, ".zip") + ".ziphash", tree} {
			if err := removeTree(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeTree removes directories too that a go command made read-only.
func removeTree(name string) error {
	err := filepath.WalkDir(name, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(name))
}
