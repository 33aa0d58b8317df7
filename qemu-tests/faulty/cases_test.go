package faulty_test

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// wholeDisk is a disk that is all of one kind.
func wholeDisk(target string) string { return mapped(part{0, diskSize, target}) }

// The hints that a failed run ends with.
const (
	doesNotBoot = "it does not boot now, and what it held is lost; the same command again starts from the beginning"
	notKnown    = "it could not be wiped, so whether it boots is not known; do not use it"
)

const (
	failed   = `at offset (\d+): .*input/output error`
	flushing = `flush: .*input/output error`
	differs  = `first between offsets (\d+) and `
)

// cases are faults: what the disk is when flash begins, and what it becomes
// when a step of it begins; nothing means that it is sound.
var cases = []struct {
	name, first, step, then string

	says     string // a pattern of the error, of which a group is an offset
	from, to int64  // where that is
	hint     string // doesNotBoot if empty
}{
	{name: "a range that fails", first: mapped(part{12*mib + 4096, 12*mib + 8192, gone}), says: failed, from: 12 * mib, to: 13 * mib},
	{name: "zeros that cannot be written", first: mapped(part{22 * mib, 23 * mib, gone}), says: failed, from: 20 * mib, to: 28 * mib},
	{name: "flushing fails", first: mapped(part{60 * mib, 61 * mib, errorWrites}), says: flushing, hint: notKnown},
	{name: "flushing fails after a while", step: "write", then: mapped(part{60 * mib, 61 * mib, errorWrites}), says: flushing},
	{name: "writes fail after a while", step: "write", then: wholeDisk(errorWrites), says: failed + `|` + flushing, from: mib, to: 40 * mib},
	{name: "all fails after a while", step: "write", then: wholeDisk(gone), says: failed + `|` + flushing, from: mib, to: 40 * mib},
	{name: "reads fail", first: mapped(part{13 * mib, 14 * mib, errorReads}), says: failed, from: 12 * mib, to: 14 * mib},
	{name: "writes are dropped after a while", step: "write", then: wholeDisk(dropWrites), says: differs, from: mib, to: 40 * mib},
	{name: "writes of a range are dropped", first: mapped(part{5 * mib, 6 * mib, dropWrites}), says: differs + `\d+; in 4 pieces`, from: 5 * mib, to: 5*mib + 1},
	{name: "a torn write", first: mapped(part{13*mib + 4096, 16 * mib, dropWrites}), says: differs + `\d+; in 12 pieces`, from: 13 * mib, to: 13*mib + 1},
	{name: "a written byte is changed", first: mapped(part{33 * mib, 33*mib + 4096, corruptWrite}), says: differs + `\d+; in 1 pieces`, from: 33 * mib, to: 33*mib + 1},
	{name: "a read byte is changed", first: mapped(part{3 * mib, 3*mib + 4096, corruptRead}), says: differs + `\d+; in 1 pieces`, from: 3 * mib, to: 3*mib + 1},
	{name: "a byte of zeros is changed as it is read", first: mapped(part{25 * mib, 25*mib + 4096, corruptRead}), says: differs + `\d+; in 1 pieces`, from: 25 * mib, to: 25*mib + 1},
	{name: "the last write is dropped", step: "read back", then: mapped(part{0, mib, dropWrites}), says: `in the first MiB`},
	{name: "the last write is torn", step: "read back", then: mapped(part{mib / 2, mib, dropWrites}), says: `in the first MiB`},
	{name: "the last write fails", step: "read back", then: mapped(part{mib / 2, mib, errorWrites}), says: failed, to: mib, hint: notKnown},
	{name: "the last write cannot be read", step: "read back", then: mapped(part{mib / 2, mib, errorReads}), says: failed, to: mib, hint: notKnown},
	{name: "a disk that protects itself", first: wholeDisk(dropWrites), says: `at offset (\d+); it may protect itself from writing`, to: 1, hint: notKnown},
	{name: "a beginning that cannot be written", first: mapped(part{0, 4096, errorWrites}), says: failed, to: mib, hint: notKnown},
	{name: "an end that cannot be written", first: mapped(part{diskSize - 4096, diskSize, errorWrites}), says: failed, from: diskSize - mib, to: diskSize, hint: notKnown},
}

// faultyDisks runs in the guest: each fault is an error that says where, with
// no receipt and a disk that does not boot; and once the disk is sound again,
// the same command works.
func faultyDisks(t *testing.T) {
	image, content, policy := makeImage(t)
	setTable(t, mapped(), "create")
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", "/dev/dm-0").Output()
	must(t, err)
	// What is made of other disks is not flashed. A loop device passes for a disk.
	disk := strings.TrimSpace(string(out))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fill(t)
			if c.first != "" {
				change(t, c.first)
			}
			code, said := flashDisk(t, policy, image, disk, func(step string) {
				if c.then != "" && step == c.step {
					change(t, c.then)
				}
			})
			hint := c.hint
			if hint == "" {
				hint = doesNotBoot
			}
			if code != 1 || !matches(c.says, said, c.from, c.to) || !strings.Contains(said, hint) {
				t.Errorf("exit code %d: %s\nwant %s, from %d to %d, and %q", code, said, c.says, c.from, c.to, hint)
			}
			if left, err := filepath.Glob(filepath.Join(filepath.Dir(image), "*receipt*")); err != nil || left != nil {
				t.Errorf("left behind: %q, %v", left, err)
			}
			if zero := make([]byte, mib); hint == doesNotBoot && (!bytes.Equal(holds(t, 0, mib), zero) || !bytes.Equal(holds(t, diskSize-mib, mib), zero)) {
				t.Error("the disk may boot")
			}
			change(t, mapped())
			if code, said := flashDisk(t, policy, image, disk, nil); code != 0 {
				t.Errorf("on the sound disk: exit code %d: %s", code, said)
			}
			if !bytes.Equal(holds(t, 0, len(content)), content) {
				t.Error("the sound disk has other bytes than the image")
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(image), "*receipt.json"))
			if err != nil || len(left) != 1 {
				t.Fatalf("receipts: %q, %v", left, err)
			}
			must(t, os.Remove(left[0]))
		})
	}
}

// change gives the device another table while it may be in use.
func change(t *testing.T, table string) {
	t.Helper()
	setTable(t, table, "load")
	setTable(t, "", "suspend")
	setTable(t, "", "resume")
}

// flashDisk runs holdfast, calls began when a step begins, and returns all it
// said.
func flashDisk(t *testing.T, policy, image, disk string, began func(step string)) (code int, said string) {
	t.Helper()
	cmd := exec.Command("/holdfast", "flash", "--json", "--yes", "--trust", policy, "--zone", "official", image, disk)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	for sc := bufio.NewScanner(stdout); sc.Scan(); {
		if _, after, ok := strings.Cut(sc.Text(), `"step":"`); ok && strings.Contains(sc.Text(), `"event":"step"`) && began != nil {
			step, _, _ := strings.Cut(after, `"`)
			// It must not go on before the disk is what it is to be.
			must(t, cmd.Process.Signal(unix.SIGSTOP))
			began(step)
			must(t, cmd.Process.Signal(unix.SIGCONT))
		}
		if !strings.Contains(sc.Text(), `"event":"progress"`) {
			said += sc.Text() + "\n"
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), said + stderr.String()
	}
	must(t, err)
	return 0, said
}

// matches looks for a pattern, and whether the offset in it lies in a range.
func matches(pattern, said string, from, to int64) bool {
	m := regexp.MustCompile(pattern).FindStringSubmatch(said)
	if len(m) < 2 || m[1] == "" {
		return m != nil
	}
	at, err := strconv.ParseInt(m[1], 10, 64)
	return err == nil && from <= at && at < to
}
