package gobuild

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// ErrMissingModule is wrapped by errors about a module that the cache lacks.
var ErrMissingModule = errors.New("a module is not in the cache")

// The symbol table and the build ID hold nothing that a node needs; the ID
// would differ with the toolchain's place.
const alwaysLDFlags = "-s -w -buildid="

// Nor is anything made that the linker would leave out: describing programs to a
// debugger is a sixth of the compiler's time.
const alwaysGCFlags = "all=-dwarf=false"

// Inputs are the places that a build reads and writes.
type Inputs struct {
	GoRoot     string // the toolchain; it is run from here
	Toolchain  string // the toolchain's h1 hash; empty to hash its programs
	ModCache   string // as GOMODCACHE, filled by collect
	BuildCache string // as GOCACHE; it may be removed at any time
	OutDir     string // results, one directory for each recipe and toolchain
	Epoch      int64  // seconds; what BuildDate stands for
}

// Build compiles the programs of r and returns where each lies, by name. A
// result that is there already, whole, is used again. An error wrapping
// [ErrMissingModule] means that the module cache is not complete; nothing is
// left in OutDir after any error.
func Build(ctx context.Context, r Recipe, in Inputs, log *slog.Logger) (map[string]string, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	in, err := in.absolute()
	if err != nil {
		return nil, err
	}
	if in.Toolchain == "" {
		if in.Toolchain, err = hashToolchain(in.GoRoot); err != nil {
			return nil, fmt.Errorf("cannot build %s: %w", r.Name, err)
		}
	}
	key, err := r.Key(in.Toolchain, in.Epoch)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(in.OutDir, key)
	if paths, err := load(dir, r); err == nil {
		log.Info("compiled before", "recipe", r.Name, "programs", len(paths))
		return paths, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		log.Warn("compiling again", "recipe", r.Name, "reason", err)
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("cannot build %s: %w", r.Name, err)
		}
	}
	for _, d := range []string{in.OutDir, in.BuildCache} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("cannot build %s: %w", r.Name, err)
		}
	}
	work, err := os.MkdirTemp(in.OutDir, ".build-*")
	if err != nil {
		return nil, fmt.Errorf("cannot build %s: %w", r.Name, err)
	}
	defer os.RemoveAll(work)
	start := time.Now()
	if err := compile(ctx, r, in, work, log); err != nil {
		return nil, fmt.Errorf("cannot build %s: %w", r.Name, err)
	}
	if err := save(filepath.Join(work, "out"), dir, r, in.Toolchain); err != nil {
		return nil, fmt.Errorf("cannot build %s: %w", r.Name, err)
	}
	log.Info("compiled", "recipe", r.Name, "programs", len(r.Programs), "took", time.Since(start).Round(time.Millisecond))
	return load(dir, r)
}

func (in Inputs) absolute() (Inputs, error) {
	var errs []error
	for _, p := range []*string{&in.GoRoot, &in.ModCache, &in.BuildCache, &in.OutDir} {
		if *p == "" {
			return in, errors.New("internal error: a build needs GoRoot, ModCache, BuildCache and OutDir")
		}
		abs, err := filepath.Abs(*p)
		errs = append(errs, err)
		*p = abs
	}
	return in, errors.Join(errs...)
}

// compile leaves the programs in work/out, under their names.
func compile(ctx context.Context, r Recipe, in Inputs, work string, log *slog.Logger) error {
	src := filepath.Join(work, "src")
	if err := WriteFiles(src, r.Files); err != nil {
		return err
	}
	for _, d := range []string{"out", "home", "tmp"} {
		if err := os.Mkdir(filepath.Join(work, d), 0o755); err != nil {
			return err
		}
	}
	// The go command's telemetry is a process of its own, which would write here
	// while the directory is removed. Its mode is a file, not a variable.
	mode := filepath.Join(work, "home", ".config", "go", "telemetry", "mode")
	if err := os.MkdirAll(filepath.Dir(mode), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(mode, []byte("off"), 0o644); err != nil {
		return err
	}
	for _, group := range groups(r.Programs) {
		out := filepath.Join(work, "out") + string(filepath.Separator)
		if len(group) == 1 {
			out += group[0].Name
		}
		// -v names each package as it is compiled: that is the progress.
		args := []string{"build", "-v", "-trimpath", "-buildvcs=false", "-gcflags=" + alwaysGCFlags,
			"-tags=" + group[0].Tags, "-ldflags=" + ldflags(group[0], in.Epoch), "-o", out, "--"}
		for _, p := range group {
			args = append(args, p.Package)
		}
		if err := run(ctx, in, work, args, &progress{log: log, recipe: r.Name}); err != nil {
			return err
		}
		for _, p := range group {
			name := filepath.Join(work, "out", p.Name)
			if _, err := buildinfo.ReadFile(name); err != nil {
				return fmt.Errorf("package %s made no program %s: %w", p.Package, p.Name, err)
			}
			// Not left to the umask.
			if err := os.Chmod(name, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

func ldflags(p Program, epoch int64) string {
	date := time.Unix(epoch, 0).UTC().Format(time.RFC3339)
	return strings.TrimSpace(alwaysLDFlags + " " + strings.ReplaceAll(p.LDFlags, BuildDate, date))
}

// groups puts together what one go command can build: the same flags, and
// names that the command would give by itself. One command compiles what
// programs share once, and links several at a time.
func groups(programs []Program) [][]Program {
	var out [][]Program
	at := map[[2]string]int{}
	for _, p := range programs {
		flags := [2]string{p.LDFlags, p.Tags}
		i, ok := at[flags]
		switch {
		case defaultName(p.Package) != p.Name:
			out = append(out, []Program{p})
		case ok:
			out[i] = append(out[i], p)
		default:
			at[flags] = len(out)
			out = append(out, []Program{p})
		}
	}
	return out
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// defaultName is the name that go build gives a program in a directory; it is
// empty where that depends on more than the import path.
func defaultName(pkg string) string {
	base := path.Base(pkg)
	if majorVersion.MatchString(base) {
		base = path.Base(path.Dir(pkg))
	}
	if base == "." || base == ".." {
		return ""
	}
	return base
}

// Env is the whole environment of a go command that may not reach a network:
// none of the host's settings count. home is a directory for it alone.
func (in Inputs) Env(home string) []string {
	return []string{
		"PATH=" + filepath.Join(in.GoRoot, "bin"),
		"HOME=" + home,
		"TMPDIR=" + home,
		"LANG=C",
		"TZ=UTC",
		"GOROOT=" + in.GoRoot,
		"GOPATH=" + filepath.Join(home, "go"),
		"GOMODCACHE=" + in.ModCache,
		"GOCACHE=" + in.BuildCache,
		"GOENV=off",
		"GOWORK=off",
		"GOPROXY=off",
		"GOSUMDB=off",
		"GOVCS=*:off",
		"GOTOOLCHAIN=local",
		"GOFLAGS=-mod=readonly",
		"CGO_ENABLED=0",
		"GOOS=linux",
		"GOARCH=amd64",
		"GOAMD64=v1",
	}
}

func run(ctx context.Context, in Inputs, work string, args []string, p *progress) error {
	cmd := exec.CommandContext(ctx, filepath.Join(in.GoRoot, "bin", "go"), args...)
	cmd.Dir = filepath.Join(work, "src")
	cmd.Env = in.Env(filepath.Join(work, "home"))
	cmd.Stderr = p
	cmd.Stdout = p
	// An interrupt lets the go command stop its compilers.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return explain(err, p.tail())
	}
	return nil
}

// explain makes one error of what the go command said.
func explain(err error, said string) error {
	said = strings.TrimSpace(said)
	for _, sign := range []string{"module lookup disabled by GOPROXY=off", "no required module provides package",
		"missing go.sum entry", "updates to go.mod needed", "cannot find module providing package"} {
		if !strings.Contains(said, sign) {
			continue
		}
		if sign == "module lookup disabled by GOPROXY=off" {
			said = strings.ReplaceAll(said, "go: downloading ", "missing: ")
			return fmt.Errorf("%w:\n%s\nhint: run \"holdfast collect\" where the network or a mirror can be reached", ErrMissingModule, said)
		}
		return fmt.Errorf("go.mod or go.sum of the recipe is not complete:\n%s\nhint: complete them with \"go mod tidy\" in the recipe", said)
	}
	if said == "" {
		return err
	}
	return fmt.Errorf("%w:\n%s", err, said)
}

// WriteFiles writes files below dir, which must not exist.
func WriteFiles(dir string, files map[string][]byte) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, data := range files {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
