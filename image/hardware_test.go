package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/holdfast/overlays"
)

// Only hardware asks for firmware, and for the part of the archive it is in.
func TestHardware(t *testing.T) {
	site := demoSite()
	cloud, _, err := Packages(site)
	if err != nil {
		t.Fatal(err)
	}
	if got := Sections(site); !slices.Equal(got, []string{"main"}) {
		t.Errorf("cloud takes from %q", got)
	}
	site.OS.Kernel = "generic"
	generic, exclude, err := Packages(site)
	if err != nil {
		t.Fatal(err)
	}
	if got := Sections(site); !slices.Equal(got, []string{"main", "non-free-firmware"}) {
		t.Errorf("generic takes from %q", got)
	}
	for _, n := range hardwarePackages {
		if slices.Contains(cloud, n) || !slices.Contains(generic, n) {
			t.Errorf("%s is with cloud, or not with generic", n)
		}
	}
	if exclude[len(baseExcludes)].Name != "iucode-tool" {
		t.Errorf("excluded: %v", exclude)
	}
	if _, ok := kernelPackage[overlays.Site{}.OS.Kernel]; ok {
		t.Error("no kernel is one")
	}
}

// GNU cpio reads what the kernel will.
func TestMicrocode(t *testing.T) {
	intel := strings.Repeat("i", 1024)
	tr := tree(t, map[string]string{
		"usr/lib/firmware/intel-ucode/06-4f-01.initramfs":     strings.Repeat("2", 2048),
		"usr/lib/firmware/intel-ucode/06-0f-02":               intel,
		"usr/lib/firmware/intel-ucode/README":                 "no microcode",
		"usr/lib/firmware/amd-ucode/microcode_amd_fam16h.bin": "odd",
		"usr/lib/firmware/amd-ucode/microcode_amd.bin":        "first",
		"usr/lib/firmware/bnx2x/x.fw":                         "stays",
	})
	b, err := takeMicrocode(tr, epoch)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"usr/lib/firmware/intel-ucode": false, "usr/lib/firmware/amd-ucode": false, "usr/lib/firmware/bnx2x/x.fw": true} {
		if _, ok := tr.Get(name); ok != want {
			t.Errorf("/%s is there: %v", name, ok)
		}
	}
	if len(b)%4 != 0 || !strings.HasPrefix(string(b), "070701") {
		t.Errorf("%d bytes that begin with %q", len(b), b[:6])
	}
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio")
	}
	dir := t.TempDir()
	c := exec.Command(cpio, "-i", "--quiet", "-d", "--no-absolute-filenames")
	c.Dir, c.Stdin = dir, strings.NewReader(string(b))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"GenuineIntel.bin": intel + strings.Repeat("2", 2048), "AuthenticAMD.bin": "firstodd"} {
		got, err := os.ReadFile(filepath.Join(dir, "kernel/x86/microcode", name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, %d bytes, want %d", name, err, len(got), len(want))
		}
	}
}

func TestMicrocodeFaults(t *testing.T) {
	if b, err := takeMicrocode(tree(t, map[string]string{"usr/bin/bash": "bash"}), epoch); err != nil || b != nil {
		t.Errorf("without any: %d bytes, %v", len(b), err)
	}
	tr := tree(t, map[string]string{"usr/lib/firmware/intel-ucode/06-0f-02": "cut short"})
	if _, err := takeMicrocode(tr, epoch); err == nil || !strings.Contains(err.Error(), "06-0f-02: 9 bytes are no multiple of 1024") {
		t.Errorf("got %v", err)
	}
}
