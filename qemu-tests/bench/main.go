// Command bench measures holdfast against the tools that do the like, and
// writes the tables into docs/performance.md: one for each part, with the
// commit and the day it was measured at. Its figures are for reading; no test
// depends on them.
//
//	go run ./qemu-tests/bench               all parts (what "make bench" does, after building)
//	go run ./qemu-tests/bench -only flash   some of them; the others' tables stay
//
// It uses the cache of whoever runs it, and some 8 GiB in the temporary
// directory. Nothing else should run meanwhile.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/erofs"
)

func main() {
	only := flag.String("only", strings.Join(parts[:], ","), "parts to measure, with commas between")
	flag.Parse()
	if err := bench(context.Background(), strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parts are what can be measured, in order.
var parts = [...]string{"root", "build", "verify", "flash", "collect", "boots"}

const results = "docs/performance.md"

func bench(ctx context.Context, only []string) error {
	for _, name := range only {
		if !slices.Contains(parts[:], name) {
			return fmt.Errorf("there is no part %q; there are %s", name, strings.Join(parts[:], ", "))
		}
	}
	program, err := filepath.Abs("bin/holdfast")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "holdfast-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := bencher{program: program, dir: dir, site: filepath.Join(dir, "bench")}
	measures := map[string]func(context.Context, *table) error{"root": b.root, "build": b.builds, "verify": b.verify, "flash": b.flashes, "collect": b.registry, "boots": boots}
	where := surroundings()
	prepared := false
	for _, name := range parts {
		if !slices.Contains(only, name) {
			continue
		}
		if !prepared && name != "boots" {
			if err := b.prepare(); err != nil {
				return err
			}
			prepared = true
		}
		var t table
		if err := measures[name](ctx, &t); err != nil {
			return err
		}
		if err := t.write(results, name, where); err != nil {
			return err
		}
	}
	return nil
}

// bencher is where things are.
type bencher struct {
	program string // holdfast
	dir     string // for all that is made here
	site    string
}

// used is what a program took.
type used struct {
	wall, cpu time.Duration
	rss       int64 // bytes, at its highest
}

// run runs a program with more environment; what it says is shown only if it
// fails.
func run(env []string, name string, args ...string) (used, string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	u := used{wall: time.Since(start)}
	if err != nil {
		return u, string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.rss = r.Maxrss << 10
	}
	return u, string(out), nil
}

func (b bencher) holdfast(env []string, args ...string) (used, string, error) {
	fmt.Fprintln(os.Stderr, "holdfast", strings.Join(args, " "))
	return run(env, b.program, append([]string{"-C", b.site}, args...)...)
}

// prepare makes a site and builds it, so that all is compiled.
func (b bencher) prepare() error {
	if _, _, err := run(nil, b.program, "init", b.site); err != nil {
		return err
	}
	for _, args := range [][]string{{"keys", "generate", "--development"}, {"lock", "--accept-scripts"}, {"collect"}, {"build"}} {
		if _, _, err := b.holdfast(nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// cache makes a cache that has what was fetched and compiled, and no result.
func (b bencher) cache(name string) (dir string, l airgap.Lock, err error) {
	from := os.Getenv("HOLDFAST_CACHE")
	if from == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", l, err
		}
		from = filepath.Join(user, "holdfast")
	}
	if l, err = airgap.ReadLock(b.site); err != nil {
		return "", l, err
	}
	dir = filepath.Join(b.dir, name)
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return "", l, err
	}
	args := []string{"-t", blobs}
	for _, p := range l.Packages {
		args = append(args, filepath.Join(from, "blobs", "sha256", p.Digest.Hex()))
	}
	if _, _, err := run(nil, "cp", args...); err != nil {
		return "", l, err
	}
	for _, d := range []string{"programs", "toolchain"} {
		if _, _, err := run(nil, "cp", "-R", filepath.Join(from, d), dir); err != nil {
			return "", l, err
		}
	}
	return dir, l, nil
}

// root makes the packages' file tree: holdfast an EROFS image, mmdebstrap a
// directory.
func (b bencher) root(ctx context.Context, t *table) error {
	dir, l, err := b.cache("root-cache")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	packages, err := l.PackagesOf(image.OSSet)
	if err != nil {
		return err
	}
	s, err := store.Open(dir)
	if err != nil {
		return err
	}
	unpack := func() (time.Duration, error) {
		start := time.Now()
		tree, err := image.Unpack(ctx, s, packages, l.Epoch, image.Dropped, nil)
		if err != nil {
			return 0, err
		}
		f, err := os.Create(filepath.Join(b.dir, "root.erofs"))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		_, err = erofs.Write(f, tree, erofs.Options{Epoch: l.Epoch})
		return time.Since(start), err
	}
	fmt.Fprintln(os.Stderr, "root from packages")
	cold, err := unpack()
	if err != nil {
		return err
	}
	warm, err := unpack()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("root of %d packages", len(packages))
	for _, v := range [][2]string{{"extract", "unpacked only"}, {"essential", "with maintainer scripts"}} {
		m := mmdebstrap(v[0], b.dir, s, packages)
		if m.took == 0 {
			t.add(what, seconds(cold), "–", m.note)
			continue
		}
		m.note = fmt.Sprintf("mmdebstrap: %s, %s, with fetching the archive's lists", m.note, v[1])
		for _, o := range []struct {
			from string
			d    time.Duration
		}{{"from .deb files", cold}, {"decompressed before", warm}} {
			t.add(what+", "+o.from, seconds(o.d), seconds(m.took), fmt.Sprintf("%.1f times as fast (aim: 10); %s", m.took.Seconds()/o.d.Seconds(), m.note))
		}
	}
	return nil
}

// builds measures build: all but fetching and compiling, then nothing, then
// one manifest.
func (b bencher) builds(_ context.Context, t *table) error {
	dir, _, err := b.cache("build-cache")
	if err != nil {
		return err
	}
	env := []string{"HOLDFAST_CACHE=" + dir}
	if err := os.RemoveAll(filepath.Join(b.site, "out")); err != nil {
		return err
	}
	u, _, err := b.holdfast(env, "build")
	if err != nil {
		return err
	}
	t.add("build, all fetched and compiled", seconds(u.wall), "–", memory(u))
	u, out, err := b.holdfast(env, "build")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "nothing changed") {
		return fmt.Errorf("a second build made something again:\n%s", out)
	}
	t.add("build, nothing changed", seconds(u.wall), "–", "aim: 2 s; "+memory(u))
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bench, namespace: default}\ndata: {a: b}\n"
	if err := os.WriteFile(filepath.Join(b.site, "manifests", "bench.yaml"), []byte(manifest), 0o644); err != nil {
		return err
	}
	if _, _, err := b.holdfast(env, "lock"); err != nil {
		return err
	}
	old, err := os.Stat(b.bundle())
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	seen := make(chan time.Duration)
	go b.watch(old, time.Now(), ended, seen)
	u, _, err = b.holdfast(env, "build")
	close(ended)
	there := <-seen
	if err != nil {
		return err
	}
	t.add("build, one manifest changed: the bundle", seconds(there), "–", "aim: 10 s")
	t.add("build, one manifest changed: all outputs", seconds(u.wall), "–", memory(u))
	return nil
}

func (b bencher) bundle() string { return filepath.Join(b.site, "out", "bench-1.bundle") }

// watch tells when the bundle became another file than old.
func (b bencher) watch(old os.FileInfo, start time.Time, ended <-chan struct{}, seen chan<- time.Duration) {
	var at time.Duration
	for {
		if fi, err := os.Stat(b.bundle()); err == nil && at == 0 && !os.SameFile(fi, old) {
			at = time.Since(start)
		}
		select {
		case <-ended:
			if at == 0 {
				at = time.Since(start)
			}
			seen <- at
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// verify compares CPU time on the same file, the best of three in turn.
// sha256sum of Debian 12 does without the processor's instructions for it;
// openssl uses them.
func (b bencher) verify(_ context.Context, t *table) error {
	fi, err := os.Stat(b.bundle())
	if err != nil {
		return err
	}
	commands := [][]string{
		{b.program, "-C", b.site, "bundle", "verify", b.bundle()},
		{"sha256sum", b.bundle()},
		{"openssl", "dgst", "-sha256", b.bundle()},
	}
	best := make([]used, len(commands))
	for range 3 {
		for i, c := range commands {
			u, _, err := run(nil, c[0], c[1:]...)
			if err != nil {
				return err
			}
			if best[i].cpu == 0 || u.cpu < best[i].cpu {
				best[i] = u
			}
		}
	}
	rate := func(u used) string {
		return fmt.Sprintf("%.0f MB per CPU second", float64(fi.Size())/1e6/u.cpu.Seconds())
	}
	for i := 1; i < len(commands); i++ {
		t.add(fmt.Sprintf("bundle verify of %d MB, and %s", fi.Size()/1e6, commands[i][0]), rate(best[0]), rate(best[i]),
			fmt.Sprintf("%.0f%% (aim: 90%%); %s", 100*best[i].cpu.Seconds()/best[0].cpu.Seconds(), memory(best[0])))
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func memory(u used) string { return fmt.Sprintf("peak memory %d MiB (aim: 300)", u.rss>>20) }
