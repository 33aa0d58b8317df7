package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Accel is how the guest's instructions are run.
type Accel struct {
	Name   string `json:"name"`   // "kvm" or "tcg"
	Reason string `json:"reason"` // why, in a few words
}

const probeTime = 10 * time.Second

// Probe is [Host.Probe] of the zero Host.
func Probe(ctx context.Context) Accel { return Host{}.Probe(ctx) }

// Probe answers "kvm" only when the processor can run guests and one has
// really run: on some hosts /dev/kvm opens and the guest then hangs. Without
// the processor's help KVM may still carry a guest through its firmware, but
// not through a kernel. The answer is kept in the cache for as long as the
// host is up.
func (h Host) Probe(ctx context.Context) Accel {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return Accel{"tcg", "no KVM: " + err.Error()}
	}
	f.Close()
	if virt, err := hardwareVirt(); err != nil || !virt {
		return Accel{"tcg", "no KVM: /dev/kvm opens, but the processor shows neither vmx nor svm"}
	}
	qemu, err := h.qemu()
	if err != nil {
		return Accel{"tcg", "no KVM: QEMU is missing"}
	}
	key := probeKey{Boot: bootID(), QEMU: qemu}
	if fi, err := os.Stat(qemu); err == nil {
		key.Time = fi.ModTime().UnixNano()
	}
	if a, ok := h.cachedProbe(key); ok {
		return a
	}
	a := Accel{"kvm", "a guest ran"}
	if err := tryGuest(ctx, qemu, "kvm"); err != nil {
		a = Accel{"tcg", "no KVM: " + err.Error()}
	}
	if ctx.Err() == nil {
		h.cacheProbe(key, a)
	}
	return a
}

// hardwareVirt reports whether Intel's or AMD's virtualisation is there.
func hardwareVirt() (bool, error) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			f := strings.Fields(flags)
			return slices.Contains(f, "vmx") || slices.Contains(f, "svm"), nil
		}
	}
	return false, nil
}

// tryGuest runs the boot sector until it has printed.
func tryGuest(ctx context.Context, qemu, accel string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "holdfast-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "sector"), bootSector(), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, qemu, "-accel", accel, "-machine", "q35", "-m", "32", "-nodefaults",
		"-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-drive", "if=none,id=d,file=sector,format=raw", "-device", "virtio-blk-pci,drive=d")
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var says bytes.Buffer
	cmd.Stderr = &says
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var got []byte
	buf := make([]byte, 256)
	for !bytes.Contains(got, []byte(sectorSays)) && len(got) < 1<<16 {
		n, err := out.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			break
		}
	}
	timedOut := ctx.Err() != nil
	cancel()
	cmd.Wait() // it was ended by us; what it says is no news
	switch {
	case bytes.Contains(got, []byte(sectorSays)):
		return nil
	case timedOut:
		return fmt.Errorf("/dev/kvm opens, but a guest printed nothing within %s", probeTime)
	}
	return errors.New(lastLine(says.Bytes()))
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "QEMU ended and said nothing"
	}
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// probeKey changes whenever the answer might.
type probeKey struct {
	Boot string `json:"boot"`
	QEMU string `json:"qemu"`
	Time int64  `json:"time"`
}

type probeRecord struct {
	Key   probeKey `json:"key"`
	Accel Accel    `json:"accel"`
}

func (h Host) probeFile() (string, error) {
	dir := h.CacheDir
	if dir == "" {
		d, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(d, "holdfast")
	}
	return filepath.Join(dir, "kvm.json"), nil
}

func (h Host) cachedProbe(key probeKey) (Accel, bool) {
	name, err := h.probeFile()
	if err != nil {
		return Accel{}, false
	}
	b, err := os.ReadFile(name)
	var r probeRecord
	if err != nil || json.Unmarshal(b, &r) != nil || r.Key != key {
		return Accel{}, false
	}
	return r.Accel, r.Accel.Name == "kvm" || r.Accel.Name == "tcg"
}

// cacheProbe may fail: the probe is then made again.
func (h Host) cacheProbe(key probeKey, a Accel) {
	name, err := h.probeFile()
	if err != nil || os.MkdirAll(filepath.Dir(name), 0o755) != nil {
		return
	}
	_ = writeJSON(name, probeRecord{key, a})
}
