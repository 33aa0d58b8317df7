// Package faulty_test runs "holdfast flash" against disks that fail, inside a
// guest: its kernel is Debian's, which has the device mapper's faulty devices.
// The guest is this test's own program, started as the first process.
package faulty_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/airgap"
	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image"
	"holdfast.dev/holdfast/image/initrd"
	"holdfast.dev/holdfast/image/kmod"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/qemu-tests/lab"
)

// siteYAML is a site whose packages are taken; it is not built.
const siteYAML = `apiVersion: holdfast/v1alpha1
kind: Site
name: bare
domain: bare.example
release: 1
zone: official
os: {suite: trixie, kernel: cloud}
kubernetes: {engine: none}
nodes:
  - name: node1
    match: {serial: holdfast-lab}
    address: 10.0.2.15/24
    gateway: 10.0.2.2
`

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		guest(m)
	}
	os.Exit(m.Run())
}

// TestFaultyDisks is both halves: on the host it starts a guest, which runs its
// cases, and takes their verdicts.
func TestFaultyDisks(t *testing.T) {
	if os.Getpid() == 1 {
		faultyDisks(t)
		return
	}
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("boots a guest; HOLDFAST_LONG=1 runs it")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is missing; make setup installs it")
	}
	dir := t.TempDir()
	kernel, initramfs := filepath.Join(dir, "kernel"), filepath.Join(dir, "initramfs")
	makeGuest(t, dir, kernel, initramfs)
	disk := filepath.Join(dir, "disk")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, diskSize))
	start := time.Now()
	said := boot(t, kernel, initramfs, disk)
	t.Logf("the guest took %s", time.Since(start).Round(time.Second))
	verdicts := regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): TestFaultyDisks/(\S+)`).FindAllStringSubmatch(said, -1)
	for _, v := range verdicts {
		t.Run(v[2], func(t *testing.T) {
			if v[1] != "PASS" {
				t.Fail()
			}
		})
	}
	if !strings.Contains(said, guestPassed) || len(verdicts) != len(cases) {
		t.Errorf("%d of %d cases have a verdict; the guest said:\n%s", len(verdicts), len(cases), said)
	}
}

// makeGuest takes kernel and programs from the packages of a site, and adds
// holdfast and this test.
func makeGuest(t *testing.T, dir, kernel, initramfs string) {
	t.Helper()
	tree, version, epoch := packages(t, dir)
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		must(t, err)
		return b
	}
	test := filepath.Join(dir, "test")
	cmd := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", test, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot compile the guest: %v\n%s", err, out)
	}
	extra := rootfs.New(epoch)
	must(t, extra.WriteFile("init", read(test), 0o755, epoch))
	must(t, extra.WriteFile("holdfast", read(holdfast()), 0o755, epoch))
	for _, d := range []string{"dev", "proc", "sys", "tmp", "run"} {
		must(t, extra.Mkdir(d, 0o755, epoch))
	}
	// The kernel gives init this as its output, before there is a /dev.
	must(t, extra.Put(rootfs.File{Path: "dev/console", Mode: rootfs.TypeChar | 0o600, Major: 5, Minor: 1, MTime: epoch}))
	files, err := initrd.Make(tree, initrd.Options{
		KernelVersion: version, Files: []string{"usr/sbin/dmsetup", "usr/sbin/losetup", "usr/sbin/modprobe"},
		Modules: modules[:], Extra: extra, MTime: epoch,
	})
	must(t, err)
	var b bytes.Buffer
	must(t, initrd.WriteCPIO(&b, files))
	must(t, os.WriteFile(initramfs, b.Bytes(), 0o600))
	image, ok := tree.Stat("boot/vmlinuz-" + version)
	if !ok {
		t.Fatal("the packages have no kernel")
	}
	r, err := image.Open()
	must(t, err)
	defer r.Close()
	f, err := os.Create(kernel)
	must(t, err)
	_, err = f.ReadFrom(r)
	must(t, errors.Join(err, f.Close()))
}

// packages are the files of a site's operating system, and its kernel's version.
func packages(t *testing.T, dir string) (tree *rootfs.Tree, version string, epoch int64) {
	t.Helper()
	site := filepath.Join(dir, "site")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(holdfast(), append([]string{"-C", site}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("holdfast %s: %v\n%s\nhint: make build, or HOLDFAST_BIN", strings.Join(args, " "), err, out)
		}
	}
	run("init", "--name", "bare", site)
	must(t, os.WriteFile(filepath.Join(site, "site.yaml"), []byte(siteYAML), 0o644))
	run("keys", "generate", "--development")
	run("lock", "--accept-scripts")
	run("collect")
	l, err := airgap.ReadLock(site)
	must(t, err)
	ps, err := l.PackagesOf(image.OSSet)
	must(t, err)
	s, err := store.Open(cacheDir(t))
	must(t, err)
	tree, err = image.Unpack(t.Context(), s, ps, l.Epoch, image.Dropped, nil)
	must(t, err)
	for _, f := range tree.Files() {
		if v, ok := strings.CutPrefix(f.Path, "boot/vmlinuz-"); ok {
			version = v
		}
	}
	must(t, kmod.Depmod(tree, version, l.Epoch))
	return tree, version, l.Epoch
}

// boot runs the guest until it powers itself off, and returns what it said.
func boot(t *testing.T, kernel, initramfs, disk string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	accel, cpu := "kvm", "host"
	if lab.Probe(ctx).Name == "tcg" {
		accel, cpu = "tcg,thread=multi", "max,-erms,-fsrm,-fzrm,-fsrs,-fsrc" // as the lab does
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 loglevel=2 panic=-1",
		"-device", "virtio-rng-pci",
		"-drive", "if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file="+disk, "-device", "virtio-blk-pci,drive=disk")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the guest did not end by itself: %v\n%s", errors.Join(err, ctx.Err()), out)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

func holdfast() string {
	if name := os.Getenv("HOLDFAST_BIN"); name != "" {
		return name
	}
	return "../../bin/holdfast"
}

// cacheDir is the cache of whoever runs this test, as holdfast finds it.
func cacheDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	must(t, err)
	return filepath.Join(dir, "holdfast")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
