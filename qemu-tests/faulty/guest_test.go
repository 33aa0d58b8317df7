package faulty_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/flash"
	"holdfast.dev/holdfast/signing"
)

// modules are the kernel's that the guest needs.
var modules = [...]string{"virtio_pci", "virtio_blk", "loop", "dm_mod", "dm_flakey"}

// guestPassed is the guest's last word if all went well.
const guestPassed = "==== all cases passed"

// guest is what the first process does: it makes a system of nothing, runs the
// test, and switches off.
func guest(m *testing.M) {
	code := 1
	if err := setUp(); err != nil {
		fmt.Println("cannot set up the guest:", err)
	} else {
		os.Args = []string{"faulty", "-test.v", "-test.run=^TestFaultyDisks$"}
		code = m.Run()
	}
	if code == 0 {
		fmt.Println(guestPassed)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func setUp() error {
	os.Setenv("PATH", "/usr/sbin:/usr/bin")
	errs := []error{unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("sys", "/sys", "sysfs", 0, ""),
		unix.Mount("dev", "/dev", "devtmpfs", 0, ""), unix.Mount("tmp", "/tmp", "tmpfs", 0, "size=512m")}
	for _, name := range modules {
		errs = append(errs, command("modprobe", name))
	}
	for range 100 {
		if _, err := os.Stat(base); err == nil {
			return errors.Join(errs...)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.Join(append(errs, errors.New("no "+base))...)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

const (
	mib      = 1 << 20
	base     = "/dev/vda" // what the faulty device lies on
	diskSize = 9 << 30
	kept     = 48 * mib // of the disk's beginning; longer than the image
)

// makeImage makes a signed image with data, zeros and holes: the zeros lie from 20
// to 28 MiB. It returns the file, its content and the trust policy.
func makeImage(t *testing.T) (name string, content []byte, policy string) {
	t.Helper()
	dir := t.TempDir()
	content = make([]byte, 40*mib)
	r := mathrand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content[:20*mib])
	_, _ = r.Read(content[28*mib:])
	name = filepath.Join(dir, "demo-1.raw")
	f, err := os.Create(name)
	must(t, err)
	_, err = f.Write(content[:20*mib])
	_, err2 := f.WriteAt(content[28*mib:], 28*mib)
	must(t, errors.Join(err, err2, f.Close()))
	im, err := flash.ReadImage(t.Context(), name, true, nil)
	must(t, err)
	must(t, signing.GenerateSite(dir, "demo", rand.Reader, time.Now(), true))
	key, err := signing.LoadPrivateKey(filepath.Join(dir, "keys", "release.key"))
	must(t, err)
	st, err := signing.SignStatement(signing.Statement{
		Name: "demo", Release: 1, Zone: signing.ZoneOfficial, File: filepath.Base(name), Digest: string(im.Whole), Size: im.Size,
		Index: string(store.FromBytes(nil)), Pieces: signing.Pieces{Size: flash.PieceSize, Digest: string(im.Pieces)},
	}, key)
	must(t, err)
	must(t, os.WriteFile(name+".sig", st, 0o644))
	return name, content, filepath.Join(dir, "trust", "policy.json")
}

// fill makes the disk hold something that might boot.
func fill(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(base, os.O_WRONLY, 0)
	must(t, err)
	b := bytes.Repeat([]byte{0xff}, kept)
	_, err = f.WriteAt(b, 0)
	_, err2 := f.WriteAt(b[:mib], diskSize-mib)
	must(t, errors.Join(err, err2, f.Sync(), f.Close()))
}

// holds is what the disk itself has there.
func holds(t *testing.T, at int64, n int) []byte {
	t.Helper()
	f, err := os.Open(base)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)) // not what this kernel remembers
	b := make([]byte, n)
	_, err = f.ReadAt(b, at)
	must(t, err)
	return b
}

// mapped is a table of the device mapper: the disk, with ranges that are
// something else.
func mapped(parts ...part) string {
	var lines []string
	add := func(from, to int64, target string) {
		if from < to {
			lines = append(lines, strings.NewReplacer("FROM", fmt.Sprint(from/512)).Replace(fmt.Sprintf("%d %d %s", from/512, (to-from)/512, target)))
		}
	}
	at := int64(0)
	for _, p := range parts {
		add(at, p.from, "linear "+base+" FROM")
		add(p.from, p.to, p.target)
		at = p.to
	}
	add(at, diskSize, "linear "+base+" FROM")
	return strings.Join(lines, "\n")
}

// part is a range of bytes and what it is made of; FROM stands for its first
// sector.
type part struct {
	from, to int64
	target   string
}

// What the kernel's admin-guide/device-mapper/dm-flakey describes, with no second
// up and all the others down. errorWrites fails flushes too, of the whole disk.
const (
	gone         = "error"
	errorWrites  = "flakey " + base + " FROM 0 3600 1 error_writes"
	errorReads   = "flakey " + base + " FROM 0 3600 1 error_reads"
	dropWrites   = "flakey " + base + " FROM 0 3600 1 drop_writes"
	corruptWrite = "flakey " + base + " FROM 0 3600 5 corrupt_bio_byte 77 w 1 0"
	corruptRead  = "flakey " + base + " FROM 0 3600 5 corrupt_bio_byte 77 r 1 0"
)

// setTable makes the mapped device with that table, or gives it another while it
// is in use.
func setTable(t *testing.T, table string, args ...string) {
	t.Helper()
	cmd := exec.Command("dmsetup", append(args, "--noudevsync", "faulty")...)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dmsetup %s: %v\n%s\n%s", strings.Join(args, " "), err, out, table)
	}
}
