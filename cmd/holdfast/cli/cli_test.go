package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/cmd/holdfast/cli"
	"holdfast.dev/holdfast/qemu-tests/distribution"
	"holdfast.dev/holdfast/qemu-tests/k3srelease"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"holdfast": func() { os.Exit(cli.Run(context.Background(), cli.System(), os.Args[1:])) },
		"front":    front,
		"watched":  watched,
	})
}

// The scripts run the real command line against a mirror on the loopback.
// Beside testscript's own commands they have these:
//
//	exits CODE holdfast …          runs it, and wants that exit code
//	mirror up|down|spoil|…         changes the mirror; see mirrorCmd
//	registry start|put|…           a registry of images; see registryCmd
//	chart serve|push|…             a repository of charts; see chartCmd
//	expand FILE OTHER              copies a file with the values of variables in it
//	site DIR [FLAG …]              makes a site that trusts the mirror, with development keys; flags are those of init
//	bundle SITE FILE [RELEASE ZONE]  packs a small release, signed with the site's key
//	composed SITE FILE             packs a release composed as build does, of small parts
//	build SITE FILE                packs a release of a locked site composed as build does, but for its OS and programs
//	statement [-old] SITE FILE     signs FILE as a raw image
//	flip FILE OFFSET, shorten FILE, extra FILE   spoil a file
//	spoilstore SITE PACKAGE        changes a byte of a package in the store
//	jsonlines                      wants one JSON object in each line of the last output
//	smalldisk DIR SIZE             mounts a small disk, where the condition [mount] holds
//	loop VARIABLE FILE SIZE        makes a disk, where the condition [loop] holds
//	k3sfiles DIR                   makes the release files of a k3s that is none
//	flashuntil STEP SITE IMAGE DISK  flashes until a step begins
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setup,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "mirror": mirrorCmd, "site": siteCmd, "bundle": bundleCmd, "composed": composedCmd, "build": buildSiteCmd, "statement": statementCmd,
			"flip": flip, "shorten": shorten, "extra": extra, "spoilstore": spoilStore, "jsonlines": jsonLines, "smalldisk": smallDisk,
			"loop": loopCmd, "flashuntil": flashUntil, "registry": registryCmd, "expand": expand, "chart": chartCmd,
			"k3sfiles": k3sFilesCmd,
		},
	})
}

type mirrorKey struct{}

func setup(e *testscript.Env) error {
	m, err := newMirror()
	if err != nil {
		return err
	}
	e.Values[mirrorKey{}] = m
	e.Values[registryKey{}] = &testRegistry{}
	e.Defer(func() { _ = m.down() })
	e.Setenv("PACKAGES", strconv.Itoa(m.total))
	e.Setenv("MIRROR", "http://"+m.addr)
	e.Setenv("HOLDFAST_DEBIAN_MIRROR", "http://"+m.addr+"/debian")
	e.Setenv("HOLDFAST_DEBIAN_SECURITY_MIRROR", "http://"+m.addr+"/debian-security")
	e.Setenv("HOLDFAST_CACHE", filepath.Join(e.WorkDir, "cache"))
	e.Setenv("GOPROXY", "off")
	return nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var status *exec.ExitError
	if errors.As(err, &status) {
		got = status.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// mirrorCmd changes the mirror:
//
//	up, down              serve again, or refuse connections
//	dies N                break the transfers of the last N packages
//	stalls N, hangs N     stop in the middle of the last N packages; wait until N do
//	move PKG VERSION      replace a package
//	add PKG VERSION       offer a newer one as well
//	script PKG TEXT       give it a postinst
//	pad PKG BYTES         make it larger
//	spoil PKG, mend PKG   serve other bytes than the index says, or the right ones
//	stranger, expired     sign with another key, or let the signed file be too old
//	fetched N, all, all-N  want so many packages to have been fetched since it was last asked;
//	fetched N M           want N to M
func mirrorCmd(ts *testscript.TestScript, _ bool, args []string) {
	m := ts.Value(mirrorKey{}).(*mirror)
	what, args := args[0], args[1:]
	switch what {
	case "down":
		ts.Check(m.down())
		return
	case "hangs":
		for deadline := time.Now().Add(time.Minute); strconv.FormatInt(m.hanging.Load(), 10) != args[0]; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				ts.Fatalf("%d transfers hang, want %s", m.hanging.Load(), args[0])
			}
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	number := func(i int) int {
		n, err := strconv.Atoi(args[i])
		ts.Check(err)
		return n
	}
	change := func(f func(*fakeDeb)) {
		d, ok := m.debs[args[0]]
		if !ok {
			ts.Fatalf("the mirror has no %s", args[0])
		}
		f(&d)
		m.debs[args[0]] = d
	}
	var err error
	switch what {
	case "up":
		m.left = -1
		if m.srv == nil {
			err = m.up(m.addr)
		}
	case "dies", "stalls":
		m.left, m.stalls = m.total-number(0), what == "stalls"
	case "move":
		change(func(d *fakeDeb) { d.version = args[1] })
	case "add":
		change(func(d *fakeDeb) { d.newer = args[1] })
	case "script":
		change(func(d *fakeDeb) { d.postinst = args[1] })
	case "pad":
		change(func(d *fakeDeb) { d.padding = number(1) })
	case "spoil", "mend":
		change(func(d *fakeDeb) { d.spoilt = what == "spoil" })
	case "stranger":
		m.key, err = newArchiveKey()
	case "expired":
		m.validFor = -time.Minute
	case "fetched":
		slices.Sort(m.served)
		names := slices.Compact(m.served)
		want := m.total
		if n, ok := strings.CutPrefix(args[0], "all-"); ok {
			args[0] = n
			want -= number(0)
		} else if args[0] != "all" {
			want = number(0)
		}
		most := want
		if len(args) > 1 {
			most = number(1)
		}
		if m.served = nil; len(names) < want || len(names) > most {
			ts.Fatalf("%d packages were fetched, want %d: %s", len(names), want, strings.Join(names, " "))
		}
	default:
		ts.Fatalf("mirror %s: not known", what)
	}
	ts.Check(err)
}

func k3sFilesCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(k3srelease.Write(ts.MkAbs(args[0])))
}

func siteCmd(ts *testscript.TestScript, _ bool, args []string) {
	dir := args[0]
	ts.Check(ts.Exec("holdfast", append([]string{"init", dir}, args[1:]...)...))
	ts.Check(ts.Exec("holdfast", "-C", dir, "keys", "generate", "--development"))
	key, err := archiveKey()
	ts.Check(err)
	ring, err := keyring(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(filepath.Join(dir, "trust", "debian-keyring.asc")), []byte(ring), 0o644))
}

func edit(ts *testscript.TestScript, name string, f func([]byte) []byte) {
	name = ts.MkAbs(name)
	b, err := os.ReadFile(name)
	ts.Check(err)
	ts.Check(os.Chmod(name, 0o644))
	ts.Check(os.WriteFile(name, f(b), 0o644))
}

// flip changes one bit at an offset; a negative one counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	edit(ts, args[0], func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 1
		return b
	})
}

func shorten(ts *testscript.TestScript, _ bool, args []string) {
	edit(ts, args[0], func(b []byte) []byte { return b[:len(b)-1] })
}

func jsonLines(ts *testscript.TestScript, _ bool, _ []string) {
	sc := bufio.NewScanner(strings.NewReader(ts.ReadFile("stdout")))
	sc.Buffer(nil, 1<<20)
	n := 0
	for ; sc.Scan(); n++ {
		var v map[string]any
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			ts.Fatalf("line %d is no JSON object: %v: %s", n+1, err, sc.Text())
		}
	}
	if n == 0 {
		ts.Fatalf("no line")
	}
}

func smallDisk(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// condition knows "mount", whether this process can mount a small disk, "loop",
// and "registry", whether the program is there.
func condition(name string) (bool, error) {
	switch name {
	case "loop":
		return canLoop(), nil
	case "registry":
		_, err := distribution.Find()
		return err == nil, nil
	}
	if name != "mount" {
		return false, fmt.Errorf("no condition %q", name)
	}
	dir, err := os.MkdirTemp("", "holdfast-mount-")
	if err != nil {
		return false, err
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		return false, nil
	}
	return true, syscall.Unmount(dir, 0)
}

func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.Hidden && c.Name() != "completion" && c.Name() != "help" {
			if c.Short == "" || c.Example == "" {
				t.Errorf("%q has no description or no example", c.CommandPath())
			}
			for line := range strings.Lines(c.Example) {
				if !strings.HasPrefix(line, "  holdfast ") {
					t.Errorf("%q: the example %q does not begin with the program", c.CommandPath(), line)
				}
			}
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk(cli.Commands(cli.Host{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}))
}
