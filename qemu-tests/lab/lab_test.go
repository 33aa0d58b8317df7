package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func needQEMU(t *testing.T) {
	t.Helper()
	for _, p := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// tiny is a machine that runs the boot sector, in a directory whose path is
// too long for a socket's address and holds a comma.
func tiny(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "sector, raw")
	if err := os.WriteFile(image, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Dir: filepath.Join(dir, strings.Repeat("l", 120), "a,b"), Image: image, MemoryMiB: 32, CPUs: 1, DiskGiB: 1, bios: true}
	t.Cleanup(func() {
		if vm, err := Open(c.Dir); err == nil {
			if err := vm.Kill(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func TestGuest(t *testing.T) {
	needQEMU(t)
	c := tiny(t)
	vm, err := Up(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Expect(t.Context(), sectorSays, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if s, err := vm.State(t.Context()); err != nil || s != "running" {
		t.Errorf("state %q, %v", s, err)
	}
	if vm.Port(6443) == 0 {
		t.Error("no port leads to the Kubernetes API")
	}
	if _, err := Up(t.Context(), c, nil); !errors.Is(err, ErrRunning) {
		t.Errorf("a second Up: %v", err)
	}

	t.Run("attach", func(t *testing.T) {
		in, feed := io.Pipe()
		go func() { feed.Write([]byte("ping")) }()
		var out watch
		out.want, out.then = "ping", func() { feed.Write([]byte{'x', detach}) }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := vm.Attach(ctx, in, &out); err != nil {
			t.Log(out.got.String())
			t.Fatal(err)
		}
		if err := vm.Expect(t.Context(), "ping", 5*time.Second); err != nil {
			t.Error(err)
		}
	})

	t.Run("reset", func(t *testing.T) {
		if err := vm.Reboot(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		m, err := vm.ExpectRegexp(t.Context(), regexp.MustCompile(`holdfast: (\w+) runs`), 30*time.Second)
		if err != nil || m[1] != "guest" {
			t.Fatal(m, err)
		}
	})

	t.Run("expect nothing", func(t *testing.T) {
		err := vm.Expect(t.Context(), sectorSays, 300*time.Millisecond)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), sectorSays+"\nping") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("down", func(t *testing.T) {
		vm, err := Open(c.Dir) // as another process would
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // this guest knows no power button
		defer cancel()
		for range 2 {
			if err := vm.Down(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := vm.State(t.Context()); s != "off" || err != nil {
			t.Errorf("state %q, %v", s, err)
		}
		if _, err := vm.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
			t.Errorf("status of a machine that is off: %v", err)
		}
	})

	t.Run("up again", func(t *testing.T) {
		port := vm.Port(6443)
		vm, err := Up(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if vm.Port(6443) != port {
			t.Error("the API's port changed")
		}
		if err := vm.Expect(t.Context(), sectorSays, 30*time.Second); err != nil {
			t.Error(err)
		}
		if n := len(vm.Captures()); n != 2 {
			t.Errorf("%d captures of two runs", n)
		}
		if err := vm.Kill(); err != nil {
			t.Error(err)
		}
	})

	t.Run("other image", func(t *testing.T) {
		if err := os.WriteFile(c.Image, append(bootSector(), 0), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Up(t.Context(), c, nil)
		wantHint(t, err, "another image")
		c.Fresh = true
		if _, err := Up(t.Context(), c, nil); err != nil {
			t.Error(err)
		}
	})
}

// watch is a writer that calls then once want has come.
type watch struct {
	got  bytes.Buffer
	want string
	then func()
}

func (w *watch) Write(p []byte) (int, error) {
	n, err := w.got.Write(p)
	if w.then != nil && strings.Contains(w.got.String(), w.want) {
		go w.then()
		w.then = nil
	}
	return n, err
}

// TestFirmware starts OVMF and sees it look for something to boot.
func TestFirmware(t *testing.T) {
	needQEMU(t)
	for _, secure := range []bool{false, true} {
		if _, _, err := (Host{}).ovmf(secure); err != nil {
			t.Skip(err)
		}
		c := tiny(t)
		c.bios, c.SecureBoot, c.MemoryMiB = false, secure, 256
		vm, err := Up(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Expect(t.Context(), "BdsDxe", 2*time.Minute); err != nil {
			t.Error(err)
		}
		if err := vm.Kill(); err != nil {
			t.Error(err)
		}
	}
}

func TestProbe(t *testing.T) {
	needQEMU(t)
	h := Host{CacheDir: t.TempDir()}
	a := h.Probe(t.Context())
	t.Logf("%s: %s", a.Name, a.Reason)
	if a.Name != "kvm" && a.Name != "tcg" || a.Reason == "" {
		t.Errorf("got %+v", a)
	}
	if virt, err := hardwareVirt(); err != nil || !virt && a.Name != "tcg" {
		t.Errorf("%s without hardware virtualisation (%v)", a.Name, err)
	}
	start := time.Now()
	if again := h.Probe(t.Context()); again != a || time.Since(start) > time.Second {
		t.Errorf("the second probe took %s and gave %+v", time.Since(start), again)
	}
}

// TestTryGuest shows that the probe can also say yes.
func TestTryGuest(t *testing.T) {
	needQEMU(t)
	qemu, err := Host{}.qemu()
	if err != nil {
		t.Fatal(err)
	}
	if err := tryGuest(t.Context(), qemu, "tcg"); err != nil {
		t.Error(err)
	}
	if err := tryGuest(t.Context(), qemu, "nonsense"); err == nil {
		t.Error("an accelerator that is not there was accepted")
	}
}

func wantHint(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "\nhint: ") {
		t.Errorf("got %v, want %q and a hint", err, want)
	}
}

func TestRefusals(t *testing.T) {
	needQEMU(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().(*net.TCPAddr).Port
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no QEMU":     {func(c *Config) { c.Host.QEMU = "/nowhere/qemu" }, "cannot find /nowhere/qemu"},
		"no qemu-img": {func(c *Config) { c.Host.QEMUImg = "/nowhere/qemu-img" }, "cannot find /nowhere/qemu-img"},
		"no OVMF":     {func(c *Config) { c.bios = false; c.Host.OVMF = "/nowhere" }, "cannot find the firmware"},
		"no image":    {func(c *Config) { c.Image += ".gone" }, "cannot find the image"},
		"port busy":   {func(c *Config) { c.Forward = map[int]int{busy: 80} }, "is in use"},
		"small disk":  {func(c *Config) { grow(t, c.Image, 1<<30+1) }, "hint: ask for a disk of 2 GiB"},
		"QEMU ends":   {func(c *Config) { c.QEMUArgs = []string{"-nonsense"} }, "-nonsense: invalid option"},
		"other accel": {func(c *Config) { c.Accel = "xen" }, `"xen"`},
		"old QEMU":    {func(c *Config) { c.Host = oldQEMU(t) }, "cannot use QEMU 7 without KVM"},
	} {
		t.Run(name, func(t *testing.T) {
			c := tiny(t)
			tc.change(&c)
			_, err := Up(t.Context(), c, nil)
			wantHint(t, err, tc.want)
			if name != "QEMU ends" && isFile(filepath.Join(c.Dir, "config.json")) {
				t.Error("it left something behind")
			}
		})
	}
}

func TestAllRefusalsAtOnce(t *testing.T) {
	c := tiny(t)
	c.Host.QEMU, c.Image, c.MAC, c.Serial, c.CPUs = "/nowhere/qemu", "", "01:00:00:00:00:00", "a\nb", -1
	_, err := Up(t.Context(), c, nil)
	for _, want := range []string{"/nowhere/qemu", "the image", "MAC", "serial", "-1 CPUs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing from: %v", want, err)
		}
	}
}

func grow(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

// oldQEMU only knows its version, and KVM never works with it.
func oldQEMU(t *testing.T) Host {
	t.Helper()
	name := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(name, []byte("#!/bin/sh\necho QEMU emulator version 7.2.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return Host{QEMU: name, CacheDir: t.TempDir()}
}

// TestStalePID: a pid used again by another process is not QEMU's.
func TestStalePID(t *testing.T) {
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	p, err := identify(other.Process.Pid)
	if err != nil || !p.alive() {
		t.Fatal(p, err)
	}
	for _, stale := range []process{{p.PID, p.Start - 1, p.Boot}, {p.PID, p.Start, "another boot"}, {}} {
		if stale.alive() {
			t.Errorf("%+v is taken for alive", stale)
		}
		if err := stale.kill(); err != nil {
			t.Error(err)
		}
	}
	if !p.alive() {
		t.Error("another process was killed")
	}
}

func TestOpenNothing(t *testing.T) {
	_, err := Open(t.TempDir())
	wantHint(t, err, "not up")
}

func TestStrip(t *testing.T) {
	raw := "\x1b[0;32m  OK  \x1b[0m] Started\r\n\x1b]0;title\x07\x1b(Bend\x1b["
	text, at := strip([]byte(raw))
	if want := "  OK  ] Started\nend\x1b["; string(text) != want {
		t.Errorf("got %q, want %q", text, want)
	}
	for i := range text {
		if raw[at[i]] != text[i] {
			t.Fatalf("byte %d is not at %d", i, at[i])
		}
	}
}
