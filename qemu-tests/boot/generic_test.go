package boot_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/longtest"
)

// TestGenericKernel boots what is for real servers: the generic kernel, with
// firmware and microcode; and boots it again, with the partition that the first
// boot made.
func TestGenericKernel(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img")
	if os.Getenv("HOLDFAST_LONG") == "" {
		t.Skip("HOLDFAST_LONG=1 runs it")
	}
	site := bareSite(t, "generic", func(yaml string) string {
		return strings.Replace(yaml, "kernel: cloud}", "kernel: generic}", 1)
	})
	r, _ := result(t, site)
	if strings.Contains(r.OS.KernelVersion, "cloud") {
		t.Fatalf("the kernel is %s", r.OS.KernelVersion)
	}
	start := time.Now()
	u := upForUpdates(t, site, 1024)
	u.isHealthy(t)
	logs, err := u.vm.Logs(t.Context())
	must(t, err)
	if !strings.Contains(logs, "Linux version "+r.OS.KernelVersion) {
		t.Errorf("another kernel than %s runs", r.OS.KernelVersion)
	}
	t.Logf("kernel %s, first boot healthy after %.0f s", r.OS.KernelVersion, time.Since(start).Seconds())
	start = time.Now()
	run(t, u.dir, "lab", "reboot", "--wait")
	u.isHealthy(t)
	t.Logf("healthy %.0f s after the command to reboot", time.Since(start).Seconds())
	run(t, u.dir, "lab", "down")
}
