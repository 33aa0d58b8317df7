package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// Host says where things are on this machine; the zero Host looks in the
// usual places.
type Host struct {
	QEMU     string // qemu-system-x86_64; default: from PATH
	QEMUImg  string // qemu-img; default: from PATH
	OVMF     string // directory of OVMF_CODE_4M.fd; default: where distributions put it
	CacheDir string // for the answer of Probe; default: the user's
}

const setupHint = `hint: run qemu-tests/host-setup.sh, or install %s`

// program returns the full path of a program, given or from PATH.
func program(given, name, pkg string) (string, error) {
	if given != "" {
		name = given
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("cannot find %s: %w\n"+setupHint, name, err, pkg)
	}
	return filepath.Abs(p)
}

func (h Host) qemu() (string, error)    { return program(h.QEMU, "qemu-system-x86_64", "qemu-system-x86") }
func (h Host) qemuImg() (string, error) { return program(h.QEMUImg, "qemu-img", "qemu-utils") }

// ovmf returns the firmware and the template of its variables. The template
// holds no keys: the image enrols its own at the first boot.
func (h Host) ovmf(secure bool) (code, vars string, err error) {
	dirs := []string{"/usr/share/OVMF", "/usr/share/edk2/x64", "/usr/share/edk2/ovmf"}
	if h.OVMF != "" {
		dirs = []string{h.OVMF}
	}
	name := "OVMF_CODE_4M.fd"
	if secure {
		name = "OVMF_CODE_4M.secboot.fd"
	}
	for _, d := range dirs {
		code, vars = filepath.Join(d, name), filepath.Join(d, "OVMF_VARS_4M.fd")
		if isFile(code) && isFile(vars) {
			return code, vars, nil
		}
	}
	return "", "", fmt.Errorf("cannot find the firmware %s with OVMF_VARS_4M.fd in %q\n"+setupHint, name, dirs, "ovmf")
}

func isFile(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().IsRegular()
}

var versionLine = regexp.MustCompile(`version (\d+)\.\d+`)

// qemuMajor is the first number of QEMU's version.
func qemuMajor(ctx context.Context, qemu string) (int, error) {
	out, err := exec.CommandContext(ctx, qemu, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot run %s: %w", qemu, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("cannot read the version of %s: %.80q", qemu, out)
	}
	return strconv.Atoi(string(m[1]))
}

// checkQEMU refuses a QEMU that is known to break guests.
func checkQEMU(ctx context.Context, qemu string, a Accel) error {
	major, err := qemuMajor(ctx, qemu)
	if err != nil {
		return err
	}
	if a.Name == "tcg" && major < 10 {
		return fmt.Errorf("cannot use QEMU %d without KVM (%s): %w\nhint: install QEMU 10 or later; qemu-tests/host-setup.sh does on Debian 12 and 13",
			major, a.Reason, errors.New("its emulation corrupts the guest's kernel"))
	}
	return nil
}
