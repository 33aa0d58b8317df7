package cli_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast.dev/holdfast/cmd/holdfast/cli"
)

// canLoop reports whether this process can make loop devices.
func canLoop() bool {
	if _, err := os.Stat("/dev/loop-control"); err != nil || os.Getuid() != 0 {
		return false
	}
	return exec.Command("losetup", "--find").Run() == nil
}

// loopCmd makes a loop device over a new file of zeros, and sets a variable to
// its path: loop VARIABLE FILE SIZE [OPTION...].
func loopCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("truncate", "-s", args[2], args[1]))
	ts.Check(ts.Exec("losetup", append([]string{"--find", "--show", ts.MkAbs(args[1])}, args[3:]...)...))
	dev := strings.TrimSpace(ts.ReadFile("stdout"))
	ts.Setenv(args[0], dev)
	ts.Defer(func() { _ = exec.Command("losetup", "-d", dev).Run() })
}

// flashUntil runs holdfast -C SITE flash --yes IMAGE DISK and interrupts it
// when a step begins: flashuntil STEP SITE IMAGE DISK. It writes what was said
// to the file "said".
func flashUntil(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var said strings.Builder
	w := writerFunc(func(b []byte) (int, error) {
		if strings.Contains(string(b), `"step":"`+args[0]+`"`) {
			cancel()
		}
		return said.Write(b)
	})
	h := cli.Host{Stdin: strings.NewReader(""), Stdout: w, Stderr: &said, Getenv: ts.Getenv, Now: time.Now, Rand: rand.Reader}
	code := cli.Run(ctx, h, []string{"-C", ts.MkAbs(args[1]), "flash", "--json", "--yes", ts.MkAbs(args[2]), args[3]})
	if code != cli.ExitFailed {
		ts.Fatalf("exit code %d: %s", code, said.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs("said"), []byte(said.String()), 0o644))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A disk that flash accepts has room for what the node makes at its first boot.
func TestFlashLeavesRoom(t *testing.T) {
	b, err := os.ReadFile("../../../image/files/usr/lib/repart.d/60-var.conf")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("SizeMinBytes=%dG\n", cli.VarMin>>30); !strings.Contains(string(b), want) {
		t.Errorf("no %q in\n%s", want, b)
	}
}
