// Package boot_test builds sites as a user does, boots them in the lab, and
// looks at them as an operator would. It needs QEMU, the packages' mirrors
// (or a filled cache) and, from cold caches, half an hour.
package boot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast/cli"
)

// shiftVar makes this test's own program holdfast, with a clock that is that
// many seconds off; versionVar is which version it says to be.
const (
	shiftVar   = "HOLDFAST_TEST_CLOCK_SHIFT"
	versionVar = "HOLDFAST_TEST_VERSION"
)

func TestMain(m *testing.M) {
	if s := os.Getenv(shiftVar); s != "" {
		shift, err := strconv.Atoi(s)
		if err != nil {
			panic(err)
		}
		if n, err := strconv.Atoi(os.Getenv("HOLDFAST_TEST_UMASK")); err == nil {
			syscall.Umask(n)
		}
		h := cli.System()
		h.Now = func() time.Time { return time.Now().Add(time.Duration(shift) * time.Second) }
		cli.Version = os.Getenv(versionVar)
		os.Exit(cli.Run(context.Background(), h, os.Args[1:]))
	}
	code := m.Run()
	if dir, err := work(); err == nil && code != 0 {
		fmt.Fprintln(os.Stderr, "kept for a look:", dir)
	} else if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

var program = sync.OnceValues(func() (string, error) {
	if name := os.Getenv("HOLDFAST_BIN"); name != "" {
		return filepath.Abs(name)
	}
	cmd := exec.Command("make", "--no-print-directory", "-C", "../..", "build")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", err
	}
	return filepath.Abs("../../bin/holdfast")
})

// holdfast is the program's file.
func holdfast(t *testing.T) string {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal("cannot build holdfast: ", err)
	}
	return name
}

// cacheDir is the cache of whoever runs this test, as holdfast finds it.
func cacheDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "holdfast")
}

// say runs a program and returns what it printed.
func say(cmd *exec.Cmd) (printed, error) {
	var stdout, both bytes.Buffer
	var mu sync.Mutex
	lock := func(w ...io.Writer) io.Writer { return &locked{&mu, io.MultiWriter(w...)} }
	cmd.Stdout, cmd.Stderr = lock(&stdout, &both), lock(&both)
	err := cmd.Run()
	return printed{stdout.String(), both.String()}, err
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// run is holdfast in a site's directory; it must succeed.
func run(t *testing.T, site string, args ...string) printed {
	t.Helper()
	p, err := try(t, site, args...)
	if err != nil {
		t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, p.both)
	}
	return p
}

func try(t *testing.T, site string, args ...string) (printed, error) {
	t.Helper()
	return say(exec.Command(holdfast(t), append([]string{"-C", site}, args...)...))
}

var work = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-boot-*")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
})

// openDir is a new directory that other users may enter. What is in it stays
// until all tests have passed.
func openDir(t *testing.T, name string) string {
	t.Helper()
	base, err := work()
	must(t, err)
	dir := filepath.Join(base, name)
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

// builtSite is a site that was built with the cache of whoever runs this: the
// README's, if that test came before, as one build takes a minute.
func builtSite(t *testing.T) string {
	t.Helper()
	if readmeSite == "" {
		dir := filepath.Join(openDir(t, "site"), "boot")
		newSite(t, dir)
		run(t, dir, "build")
		readmeSite = dir
	}
	return readmeSite
}

var readmeSite string // once it is built

// newSite makes a site that is locked and collected.
func newSite(t *testing.T, dir string) {
	t.Helper()
	run(t, ".", "init", "--name", "boot", dir)
	run(t, dir, "keys", "generate", "--development")
	lockSite(t, dir)
	run(t, dir, "collect")
}

// lockSite locks a site, whatever maintainer scripts the mirror has today.
func lockSite(t *testing.T, dir string) {
	t.Helper()
	if p, err := try(t, dir, "lock"); err != nil {
		if !strings.Contains(p.both, "maintainer scripts") {
			t.Fatalf("holdfast lock: %v\n%s", err, p.both)
		}
		t.Logf("the mirror has maintainer scripts that nobody reviewed; taken as they are:\n%s", p.both)
		run(t, dir, "lock", "--accept-scripts")
	}
}

// result is what OUT/NAME-RELEASE.json says.
func result(t *testing.T, site string) (cli.Result, string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(site, "out", "*.json"))
	if err != nil || len(names) != 1 {
		t.Fatalf("cannot find the release in %s: %q, %v", site, names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	var r cli.Result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r, strings.TrimSuffix(names[0], ".json")
}

// copyInputs makes another site of the same inputs and keys.
func copyInputs(t *testing.T, to, from string) {
	t.Helper()
	must(t, os.MkdirAll(to, 0o755))
	for _, n := range []string{"site.yaml", "site.lock", "keys", "trust", "manifests"} {
		if _, err := os.Stat(filepath.Join(from, n)); err == nil {
			tool(t, "cp", "-R", filepath.Join(from, n), to)
		}
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
