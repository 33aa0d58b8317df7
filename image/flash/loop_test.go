package flash_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loop makes a loop device over a file; without root there is none.
func loop(t *testing.T, file string, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skip("losetup is not installed")
	}
	if len(args) == 0 || !strings.HasPrefix(args[0], "/dev/") {
		args = append([]string{"--find"}, args...)
	}
	out, err := exec.Command(losetup, append([]string{"--show"}, append(args, file)...)...).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dev
}

// loopWithoutDiscard makes one that cannot discard. It is a device of its own,
// which goes away: the kernel does not let it learn that again.
func loopWithoutDiscard(t *testing.T, file string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	number := 1000 + os.Getpid()%100000
	if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, number); err != nil {
		t.Skipf("no loop device: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, number), control.Close()); err != nil {
			t.Error(err)
		}
	})
	name := fmt.Sprint("loop", number)
	if err := os.WriteFile("/sys/block/"+name+"/queue/discard_max_bytes", []byte("0"), 0o644); err != nil {
		t.Skip(err)
	}
	return loop(t, file, "/dev/"+name)
}

// file makes a file of size bytes, all of them with one value.
func file(t *testing.T, size int, value byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	b := make([]byte, size)
	for i := range b {
		b[i] = value
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// tool runs a program of this machine, or skips the test without it.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
