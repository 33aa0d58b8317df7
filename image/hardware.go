package image

import (
	"bytes"
	"fmt"
	"path"
	"regexp"

	"holdfast.dev/holdfast/image/deb"
	"holdfast.dev/holdfast/image/initrd"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/overlays"
)

// hardwarePackages are what servers need besides the kernel: firmware that
// drivers load into network cards and host adapters, and microcode. Wireless,
// sound and graphics are left out: they are most of what Debian has, and no
// server waits for them.
var hardwarePackages = []string{
	"firmware-ast",                    // graphics of management controllers
	"firmware-bnx2", "firmware-bnx2x", // Broadcom NetXtreme II
	"firmware-cavium",       // LiquidIO, Nitrox
	"firmware-intel-misc",   // Intel E800 network, QuickAssist
	"firmware-misc-nonfree", // Broadcom NetXtreme, Chelsio and others
	"firmware-qlogic",       // QLogic network and Fibre Channel
	"firmware-realtek",      // Realtek network
	"amd64-microcode", "intel-microcode",
}

var hardwareExcludes = []deb.Exclude{
	{Name: "iucode-tool", Reason: "holdfast puts the microcode together"},
}

// Sections are the components of Debian's archives that a site takes packages
// from. Firmware has no source code, but may be distributed.
func Sections(site overlays.Site) []string {
	if site.OS.Kernel == "generic" {
		return []string{"main", "non-free-firmware"}
	}
	return []string{"main"}
}

// maxMicrocode bounds a file of microcode, in bytes.
const maxMicrocode = 32 << 20

// makers of processors: where their microcode is, and what the kernel calls it.
// Of what lies there, files of these names are microcode.
var makers = []struct {
	dir, file string
	name      *regexp.Regexp
	unit      int64 // the size of a file is a multiple of it
}{
	{"usr/lib/firmware/amd-ucode", "AuthenticAMD.bin", regexp.MustCompile(`^microcode_amd.*\.bin$`), 1},
	// Family, model, stepping. Debian marks with ".initramfs" what only an
	// early update may bring, as this one is.
	{"usr/lib/firmware/intel-ucode", "GenuineIntel.bin", regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{2}-[0-9a-f]{2}(\.initramfs)?$`), 1024},
}

// takeMicrocode takes the processors' microcode out of the tree and gives the
// archive that the kernel looks for in front of the initrd, before it starts
// other processors: an uncompressed cpio with one file a maker, the package's
// files end to end, of which the kernel picks what fits. It is empty where no
// package brought any. In the root nothing would read it.
func takeMicrocode(t *rootfs.Tree, mtime int64) ([]byte, error) {
	early, found := rootfs.New(mtime), false
	for _, m := range makers {
		var all bytes.Buffer
		for _, f := range t.Files() { // in the order of their names
			if path.Dir(f.Path) != m.dir || !f.IsRegular() || !m.name.MatchString(path.Base(f.Path)) {
				continue
			}
			b, err := t.ReadFile(f.Path, maxMicrocode)
			if err != nil {
				return nil, err
			}
			if int64(len(b))%m.unit != 0 {
				return nil, fmt.Errorf("cannot use microcode /%s: %d bytes are no multiple of %d", f.Path, len(b), m.unit)
			}
			all.Write(b)
		}
		if all.Len() == 0 {
			continue
		}
		t.Remove(m.dir)
		found = true
		if err := early.WriteFile("kernel/x86/microcode/"+m.file, all.Bytes(), 0o644, mtime); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, nil
	}
	var cpio bytes.Buffer
	if err := initrd.WriteCPIO(&cpio, early); err != nil {
		return nil, err
	}
	return cpio.Bytes(), nil
}
