package initrd

import (
	"bytes"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/kmod"
	"holdfast.dev/holdfast/image/rootfs"
)

// TestSystemdNamesWhatIsMissing holds the list against a root without systemd.
func TestSystemdNamesWhatIsMissing(t *testing.T) {
	tr := rootfs.New(1)
	if err := tr.WriteFile("usr/lib/os-release", []byte("NAME=x\n"), 0o644, 1); err != nil {
		t.Fatal(err)
	}
	_, err := Systemd(tr, "6.12", 1)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"/usr/lib/systemd/systemd\n", "initrd-switch-root.service", "system-systemd", "99-systemd.rules", "kernel 6.12"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
}

// listed is a root with an empty file for each that the list names, and a
// kernel with all modules built in but one.
func listed(t *testing.T) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New(1)
	put := func(name, content string) {
		if err := tr.WriteFile(name, []byte(content), 0o644, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append(append([]string{}, programs[:]...), data[:]...) {
		put(strings.ReplaceAll(name, "*", "x"), "")
	}
	for _, u := range units {
		put(unitDir+"/"+u, "")
	}
	put("usr/lib/os-release", "NAME=x\n")
	put(kmod.Dir("6.12")+"/modules.builtin", "kernel/x/"+strings.Join(modules[:], ".ko\nkernel/x/")+".ko\n")
	if err := kmod.Depmod(tr, "6.12", 1); err != nil {
		t.Fatal(err)
	}
	put(unitDir+"/systemd-udevd.service.d/debian.conf", "")
	put(unitDir+"/systemd-logind.service.d/dbus.conf", "")
	for link, target := range map[string]string{
		"sysinit.target.wants/systemd-udevd.service":     "../systemd-udevd.service",
		"sysinit.target.wants/systemd-sysusers.service":  "../systemd-sysusers.service",
		"multi-user.target.wants/systemd-logind.service": "../systemd-logind.service",
	} {
		if err := tr.Symlink(target, unitDir+"/"+link, 1); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestSystemd(t *testing.T) {
	var images [2]bytes.Buffer
	for i := range images {
		root := listed(t)
		o, err := systemdOptions(root, "6.12", 7)
		if err != nil {
			t.Fatal(err)
		}
		o.Features = nil // no program here opens anything
		tr, err := Make(root, o)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]bool{
			"init":                                                      true,
			"etc/initrd-release":                                        true,
			"etc/systemd/system/emergency.service":                      true,
			"dev/console":                                               true,
			"sysroot":                                                   true,
			kmod.Dir("6.12") + "/modules.dep.bin":                       true,
			kmod.Dir("6.12") + "/modules.alias":                         false,
			unitDir + "/emergency.service":                              false,
			unitDir + "/systemd-logind.service":                         false,
			unitDir + "/systemd-udevd.service.d/debian.conf":            true,
			unitDir + "/sysinit.target.wants/systemd-udevd.service":     true,
			unitDir + "/sysinit.target.wants/systemd-sysusers.service":  false,
			unitDir + "/multi-user.target.wants/systemd-logind.service": false,
		} {
			if _, ok := tr.Stat(name); ok != want {
				t.Errorf("/%s is there: %v, want %v", name, ok, want)
			}
		}
		// The kernel of this root has no such module.
		if s, _ := readText(tr, "etc/modules-load.d/holdfast.conf"); s != "dm_verity\nerofs\n" {
			t.Errorf("modules to load: %q", s)
		}
		if err := WriteCPIO(&images[i], tr); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0].Bytes(), images[1].Bytes()) {
		t.Error("made twice, two results")
	}
}
