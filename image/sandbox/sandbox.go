// Package sandbox runs a program of a file tree while an image is made: the
// tree is all that it sees of the host's files, beside the devices that hold
// nothing; there are no other processes and no network. It takes what the kernel
// gives every user: namespaces (user_namespaces(7)), in which the user that
// builds is root.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// inside is the name by which this program calls itself in the namespaces.
const inside = "holdfast-sandbox"

// devices are those that a program gets.
var devices = []string{"/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"}

// ErrForbidden is wrapped by errors about namespaces that the kernel does not
// let this user make.
var ErrForbidden = errors.New("the kernel does not let this user make namespaces")

// Check reports whether Run can work here.
func Check() error {
	if out, err := command(context.Background(), "").CombinedOutput(); err != nil {
		return fmt.Errorf("%w%s\nhint: see user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns (sysctl), and what a container around this is allowed", forbidden(err), out)
	}
	return nil
}

// forbidden says why there are no namespaces. The kernel's own word for a limit
// that is reached is that of a full disk.
func forbidden(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: user.max_user_namespaces is reached", ErrForbidden)
	}
	return fmt.Errorf("%w: %w", ErrForbidden, err)
}

// command is this program, in namespaces of its own.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{inside}, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Setpgid:     true,
		Pdeathsig:   syscall.SIGKILL,
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// Run runs argv, whose program is a path in the tree, with env alone as its
// environment; what it says goes to out. Files that it writes below dir belong
// to the user that builds.
func Run(ctx context.Context, dir string, argv, env []string, out io.Writer) error {
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return errors.New("cannot run a step: want a program with its whole path")
	}
	var setup strings.Builder // why it could not be begun
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", argv[0], err)
	}
	defer r.Close()
	cmd := command(ctx, append([]string{dir}, argv...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{}, env...), out, out
	cmd.ExtraFiles = []*os.File{w}
	// Pdeathsig is sent when the thread ends that started the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", argv[0], forbidden(err))
	}
	_, rerr := io.Copy(&setup, r)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case setup.Len() > 0:
		return fmt.Errorf("cannot run %s: %s", argv[0], setup.String())
	case err != nil:
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return rerr
}

func init() {
	if len(os.Args) < 2 || os.Args[0] != inside {
		return
	}
	if os.Args[1] == "" { // of Check
		if err := errors.Join(apart(), mountProc("/proc")); err != nil {
			fmt.Fprint(os.NewFile(2, "errors"), ": ", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	report := os.NewFile(3, "report")
	syscall.CloseOnExec(3)
	err := become(os.Args[1], os.Args[2:])
	fmt.Fprint(report, err)
	os.Exit(1)
}

// become replaces this program by argv, with dir as its root.
func become(dir string, argv []string) error {
	if err := apart(); err != nil {
		return err
	}
	if err := mountProc(dir + "/proc"); err != nil {
		return err
	}
	if err := syscall.Mount("dev", dir+"/dev", "tmpfs", syscall.MS_NOSUID|syscall.MS_NOEXEC, "mode=755"); err != nil {
		return fmt.Errorf("cannot mount /dev: %w", err)
	}
	for _, name := range devices {
		err := os.WriteFile(dir+name, nil, 0o600)
		if err == nil {
			err = syscall.Mount(name, dir+name, "", syscall.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("cannot bring %s along: %w", name, err)
		}
	}
	if err := errors.Join(syscall.Chroot(dir), os.Chdir("/")); err != nil {
		return err
	}
	return fmt.Errorf("cannot start it: %w", syscall.Exec(argv[0], argv, os.Environ()))
}

// apart has what is mounted from here on not seen by the host.
func apart() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot part from the host's mounts: %w", err)
	}
	return nil
}

// mountProc shows the processes of the namespace.
func mountProc(at string) error {
	if err := syscall.Mount("proc", at, "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	return nil
}
