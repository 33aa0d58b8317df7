package boot_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/cmd/holdfast/agentbin"
	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// TestReproducible builds one site twice: here and now, and by another user
// in another directory, with another clock, umask, language and cache.
func TestReproducible(t *testing.T) {
	longtest.Begin(t, "cp")
	site := builtSite(t)
	sameAgent(t)
	one, base := result(t, site)

	other := openDir(t, "elsewhere-with-a-longer-name")
	copyInputs(t, other, site)
	cache := openDir(t, "elsewhere-cache")
	copyCache(t, cache, site)
	for _, small := range []string{"pause-*", "postgres-start-*"} { // are compiled again
		names, err := filepath.Glob(filepath.Join(cache, "programs", small))
		must(t, err)
		for _, n := range names {
			must(t, os.RemoveAll(n))
		}
	}
	self := filepath.Join(openDir(t, "bin"), "holdfast") // go test's own directory is closed to others
	exe, err := os.Executable()
	must(t, err)
	tool(t, "cp", exe, self)
	cmd := exec.Command(self, "-C", other, "build")
	const days = 24 * 60 * 60
	cmd.Env = []string{
		fmt.Sprint(shiftVar, "=", 1000*days), versionVar + "=" + one.Version, "HOLDFAST_TEST_UMASK=63", // 077
		"HOLDFAST_CACHE=" + cache, "PATH=/usr/bin:/bin", "HOME=/nonexistent",
		"LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8", "TZ=Pacific/Kiritimati", "SOURCE_DATE_EPOCH=1",
	}
	if os.Getuid() == 0 {
		const nobody, nogroup = 65534, 65534
		tool(t, "chown", "-R", "65534:65534", other, cache)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nogroup}}
	} else {
		t.Log("not root: the second build is by the same user")
	}
	if p, err := say(cmd); err != nil {
		t.Fatalf("the second build: %v\n%s", err, p.both)
	}
	two, otherBase := result(t, other)
	if one.RootHash != two.RootHash {
		t.Errorf("root hashes %s and %s", one.RootHash, two.RootHash)
	}
	sameFiles(t, base, otherBase)
}

// sameAgent makes sure that this test's program puts the same agent into
// images as the holdfast that it compares itself with.
func sameAgent(t *testing.T) {
	t.Helper()
	holdfast(t)
	mine, err := agentbin.Agent()
	must(t, err)
	built, err := os.ReadFile("../../cmd/holdfast/agentbin/bin/holdfast-agent")
	must(t, err)
	if !bytes.Equal(mine, built) {
		t.Fatal("this test was compiled before the agent was: run \"make build\" and try again")
	}
}

// copyCache gives a new cache what was fetched and compiled, and none of what
// was made from it.
func copyCache(t *testing.T, to, site string) {
	t.Helper()
	from := cacheDir(t)
	l, err := airgap.ReadLock(site)
	must(t, err)
	blobs := filepath.Join(to, "blobs", "sha256")
	must(t, os.MkdirAll(blobs, 0o755))
	args := []string{"--reflink=auto", "-t", blobs}
	for _, p := range l.Packages {
		args = append(args, filepath.Join(from, "blobs", "sha256", p.Digest.Hex()))
	}
	tool(t, "cp", args...)
	for _, d := range []string{"programs", "toolchain"} {
		tool(t, "cp", "-R", "--reflink=auto", filepath.Join(from, d), to)
	}
}

// sameFiles compares raw image and bundle, byte for byte.
func sameFiles(t *testing.T, base, otherBase string) {
	t.Helper()
	for _, ext := range []string{".raw", ".bundle"} {
		if at, err := differ(base+ext, otherBase+ext); err != nil {
			t.Error(err)
		} else if at >= 0 {
			t.Errorf("the two %s differ from byte %d on", ext, at)
		}
	}
}

// differ returns where the first difference of two files is, or -1.
func differ(a, b string) (int64, error) {
	f, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer g.Close()
	var at int64
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errF := io.ReadFull(f, x)
		m, errG := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			for i := range min(n, m) {
				if x[i] != y[i] {
					return at + int64(i), nil
				}
			}
			return at + int64(min(n, m)), nil
		}
		at += int64(n)
		if errF == io.EOF || errF == io.ErrUnexpectedEOF {
			return -1, nil
		}
		if err := errors.Join(errF, errG); err != nil {
			return 0, err
		}
	}
}

// TestInterrupted kills builds with no chance to clean up. What they leave is
// no result, and the next build gives what an undisturbed one gives.
func TestInterrupted(t *testing.T) {
	longtest.Begin(t, "cp")
	site := builtSite(t)
	_, base := result(t, site)
	dir, cache := openDir(t, "interrupted"), openDir(t, "interrupted-cache")
	copyInputs(t, dir, site)
	copyCache(t, cache, site)
	build := func() *exec.Cmd {
		cmd := exec.Command(holdfast(t), "-C", dir, "--json", "build")
		cmd.Env = append(os.Environ(), "HOLDFAST_CACHE="+cache)
		return cmd
	}
	for _, k := range []struct {
		step  string
		after time.Duration
	}{{"assemble OS", 3 * time.Second}, {"pack bundle", 200 * time.Millisecond}, {"write disk", 200 * time.Millisecond}} {
		killAt(t, build(), k.step, k.after)
		for _, ext := range []string{".json", ".qcow2", ".raw.sig"} { // come after all three
			if _, err := os.Stat(filepath.Join(dir, "out", filepath.Base(base)+ext)); err == nil {
				t.Errorf("killed in step %q, and %s is there", k.step, ext)
			}
		}
		for _, ext := range []string{".raw", ".bundle"} {
			name := filepath.Join(dir, "out", filepath.Base(base)+ext)
			if _, err := os.Stat(name); err != nil {
				continue
			}
			if at, err := differ(base+ext, name); at >= 0 || err != nil {
				t.Errorf("killed in step %q, %s is not whole: %d, %v", k.step, ext, at, err)
			}
		}
	}
	if p, err := say(build()); err != nil {
		t.Fatalf("the build after it: %v\n%s", err, p.both)
	}
	_, again := result(t, dir)
	sameFiles(t, base, again)
	left, err := filepath.Glob(filepath.Join(dir, "out", "*.partial"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left over: %s", strings.Join(left, " "))
	}
}

// killAt kills a build that long after it begins a step.
func killAt(t *testing.T, cmd *exec.Cmd, step string, after time.Duration) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	must(t, err)
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	begun := false
	in := bufio.NewScanner(out)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e struct{ Event, Step, Note string }
		if json.Unmarshal(in.Bytes(), &e) != nil {
			continue
		}
		if e.Event == "step" && e.Step == step {
			begun = true
			time.Sleep(after)
			must(t, cmd.Process.Kill())
			break
		}
	}
	if err := cmd.Wait(); err == nil || !begun {
		t.Errorf("the build ended before it was killed in step %q: %v %s", step, err, said.String())
	}
}
