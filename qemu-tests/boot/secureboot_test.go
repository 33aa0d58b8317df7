package boot_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"debug/pe"
	"encoding/json"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/image/slot"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/longtest"
	"holdfast.dev/holdfast/signing"
)

// patience is for anything that a guest does, on a machine with other work.
const patience = 15 * time.Minute

// What is seen when something is not what the keys vouch for:
// docs/secure-boot.md.
const (
	guardSays = "nothing on this disk could be started that its keys vouch for"
	rotten    = "Kernel panic - not syncing: dm-verity"
)

// damage is what somebody without the keys, or a dying disk, does to a disk
// that is off.
type damage struct {
	name   string
	long   bool // whether only "make test-long" tries it with one release, as it does all with two
	damage func(t *testing.T, image string, release int64, rootHash string)
	says   string // at every try to boot it
}

var damages = []damage{
	{"AlteredUKI", false, func(t *testing.T, image string, release int64, _ string) {
		changeUKI(t, image, release, alterKernel)
	}, guardSays},
	{"UnsignedUKI", true, func(t *testing.T, image string, release int64, _ string) {
		changeUKI(t, image, release, func(t *testing.T, name string) { tool(t, "sbattach", "--remove", name) })
	}, guardSays},
	{"FlippedBit", true, flipInRoot, rotten},
}

// TestSecureBoot damages what boots, on a disk that is off: it ends on the
// other release, if there is one that is whole, else it never starts. With
// HOLDFAST_LONG=1 it is all, else one damage to the only release.
func TestSecureBoot(t *testing.T) {
	longtest.Begin(t, "qemu-system-x86_64", "qemu-img", "mcopy", "sbattach")
	thorough := os.Getenv("HOLDFAST_LONG") != ""
	site := bareSite(t, "secureboot", nil)
	run(t, site, "lab", "up", "--wait", "--memory", "1024", "--timeout", patience.String())
	t.Cleanup(func() {
		if _, err := try(t, site, "lab", "down"); err != nil {
			t.Log(err)
		}
	})
	vm, err := lab.Open(filepath.Join(site, "out", "lab"))
	must(t, err)
	t.Run("Enforced", func(t *testing.T) { enforced(t, vm) })
	var update string
	if thorough {
		update = anotherRelease(t, site, 2, withPackages("tree"))
		run(t, site, "lab", "apply", "--wait", update)
	}
	run(t, site, "lab", "down")

	one, base := result(t, site)
	m := machine{site: site, vars: filepath.Join(vm.Dir(), "vars.fd"), image: base + ".raw"}
	t.Run("OneRelease", func(t *testing.T) {
		for _, d := range damages {
			t.Run(d.name, func(t *testing.T) {
				if d.long && !thorough {
					t.Skip("make test-long tries it")
				}
				m.never(t, d, 1, one.RootHash)
			})
		}
	})
	if !thorough {
		return
	}
	two, _ := result(t, filepath.Dir(filepath.Dir(update)))
	m.image = filepath.Join(openDir(t, "secureboot-disk"), "two.raw")
	tool(t, "qemu-img", "convert", "-O", "raw", filepath.Join(vm.Dir(), "disk.qcow2"), m.image)
	t.Run("TwoReleases", func(t *testing.T) {
		for _, d := range damages {
			t.Run(d.name, func(t *testing.T) { m.fallsBack(t, d, 2, two.RootHash) })
		}
	})
}

// enforced looks from inside at a node that booted with nothing wrong.
func enforced(t *testing.T, vm *lab.VM) {
	if !strings.Contains(console(t, vm), "Custom Secure Boot keys successfully enrolled") {
		t.Error("the console does not say that the site's keys were enrolled")
	}
	journal, err := vm.Logs(t.Context())
	must(t, err)
	for _, line := range []string{
		"secureboot: Secure boot enabled",
		"Kernel is locked down",
		"Using verity root device /dev/mapper/root",
		"Finished systemd-veritysetup@root.service",
		"erofs: (device dm-0): mounted with root inode",
	} {
		if !strings.Contains(journal, line) {
			t.Errorf("the journal does not say %q", line)
		}
	}
	if t.Failed() {
		must(t, os.WriteFile(filepath.Join(vm.Dir(), "journal.log"), []byte(journal), 0o644))
	}
}

// machine is where a disk boots: a site's lab, after its keys were enrolled.
type machine struct {
	site  string
	vars  string // the firmware's variables
	image string // the disk, raw
}

// damaged starts the machine with a copy of its disk that d was done to.
func (m machine) damaged(t *testing.T, d damage, release int64, rootHash string) *lab.VM {
	t.Helper()
	dir := openDir(t, strings.ReplaceAll(t.Name(), "/", "-"))
	image := filepath.Join(dir, "disk.raw")
	tool(t, "cp", "--sparse=always", m.image, image)
	d.damage(t, image, release, rootHash)
	m.judged(t, image, release)

	where := filepath.Join(dir, "lab")
	must(t, os.Mkdir(where, 0o700))
	tool(t, "cp", m.vars, filepath.Join(where, "vars.fd"))
	vm, err := lab.Up(t.Context(), lab.Config{Dir: where, Image: image, MemoryMiB: 1024, SecureBoot: true}, nil)
	must(t, err)
	t.Cleanup(func() {
		if err := vm.Kill(); err != nil {
			t.Error(err)
		}
		for _, large := range []string{image, filepath.Join(where, "disk.qcow2")} { // the console stays
			if err := os.Remove(large); err != nil {
				t.Log(err)
			}
		}
	})
	return vm
}

// judged holds what slot.Judge says of the disk against what will be seen: the
// release does not come up, and one before it does if there is one.
func (m machine) judged(t *testing.T, image string, release int64) {
	t.Helper()
	cert, err := signing.LoadCertificate(filepath.Join(m.site, "trust", "db.crt"))
	must(t, err)
	f, size := openImage(t, image)
	defer f.Close()
	v, err := slot.Judge(f, size, []*x509.Certificate{cert}, nil)
	must(t, err)
	first := int64(0)
	if v.First >= 0 {
		first = v.Boots[v.First].Release
	}
	// What is not signed has a file's name and no number.
	if e, _ := slot.ParseEntry(v.Boots[0].Entry); v.Loader != nil || e.Release != release || first != release-1 {
		t.Fatalf("the damage to release %d is not what it should be: %+v", release, v)
	}
}

// fallsBack sees the confirmed release tried three times, and then the one
// before it, healthy.
func (m machine) fallsBack(t *testing.T, d damage, release int64, rootHash string) {
	vm := m.damaged(t, d, release, rootHash)
	for range slot.Tries {
		must(t, vm.Expect(t.Context(), d.says, patience))
	}
	must(t, vm.Expect(t.Context(), "holdfast: FAULT: release bare "+strconv.FormatInt(release, 10)+" is confirmed and does not boot", patience))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, vm.WaitHealthy(ctx, nil))
	s, err := vm.Status(ctx)
	must(t, err)
	var u struct {
		Update struct {
			Mode      string
			Confirmed int64
		}
	}
	b, err := json.Marshal(s)
	must(t, err)
	must(t, json.Unmarshal(b, &u))
	if s.Release.Number != release-1 || u.Update.Mode != "fallback" || u.Update.Confirmed != release {
		t.Errorf("the node says %s", b)
	}
	if n := strings.Count(console(t, vm), d.says); n != slot.Tries {
		t.Errorf("release %d was tried %d times, not %d", release, n, slot.Tries)
	}
	audit, err := vm.Audit(ctx)
	must(t, err)
	if !strings.Contains(audit, "the confirmed release does not boot") {
		t.Errorf("the audit log does not say why:\n%s", audit)
	}
}

// never sees the only release tried again and again.
func (m machine) never(t *testing.T, d damage, release int64, rootHash string) {
	vm := m.damaged(t, d, release, rootHash)
	for range 2 { // it is started again, rather than standing still
		must(t, vm.Expect(t.Context(), d.says, patience))
	}
	if said := agentLine.FindString(console(t, vm)); said != "" {
		t.Errorf("a system runs that should not: %s", said)
	}
}

// agentLine is what the agent says, and the guard does not.
var agentLine = regexp.MustCompile(`(?m)holdfast: (?:node|site|release|healthy|starting|the lab|FAULT).*`)

func openImage(t *testing.T, name string) (*os.File, int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	fi, err := f.Stat()
	must(t, err)
	return f, fi.Size()
}

// changeUKI takes a release's boot entry off the ESP, has it changed, and puts
// it back under its name.
func changeUKI(t *testing.T, image string, release int64, change func(t *testing.T, name string)) {
	t.Helper()
	f, size := openImage(t, image)
	defer f.Close()
	parts, err := disk.ReadGPT(f, size)
	must(t, err)
	esp := ""
	for _, p := range parts {
		if strings.EqualFold(p.TypeGUID, disk.TypeESP) {
			esp = image + "@@" + strconv.FormatInt(p.Start, 10)
		}
	}
	for line := range strings.Lines(tool(t, "mdir", "-b", "-i", esp, "::/"+slot.EntryDir)) {
		name := strings.TrimPrefix(strings.TrimSpace(line), "::/")
		e, ok := slot.ParseEntry(path.Base(name))
		if !ok || e.Release != release {
			continue
		}
		local := filepath.Join(t.TempDir(), "uki.efi")
		tool(t, "mcopy", "-i", esp, "::/"+name, local)
		change(t, local)
		tool(t, "mcopy", "-o", "-i", esp, local, "::/"+name)
		return
	}
	t.Fatalf("there is no entry of release %d on the ESP", release)
}

// alterKernel flips a bit in the middle of the kernel in a UKI.
func alterKernel(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	p, err := pe.NewFile(f)
	must(t, err)
	linux := p.Section(".linux")
	if linux == nil {
		t.Fatal("the UKI has no kernel")
	}
	flip(t, f, int64(linux.Offset)+int64(linux.Size)/2)
}

// flipInRoot flips a bit in the first block of systemd, which nothing boots
// without reading.
func flipInRoot(t *testing.T, image string, _ int64, rootHash string) {
	t.Helper()
	f, size := openImage(t, image)
	defer f.Close()
	parts, err := disk.ReadGPT(f, size)
	must(t, err)
	slots, err := slot.Slots(parts)
	must(t, err)
	s, ok := slot.Find(slots, rootHash)
	if !ok {
		t.Fatalf("no slot has the root %s", rootHash)
	}
	root := io.NewSectionReader(f, s.Root.Start, s.Root.Size)
	program, err := erofs.ReadFile(root, "usr/lib/systemd/systemd", 64<<20)
	must(t, err)
	const block = 4096
	buf := make([]byte, block)
	for off := int64(0); off < s.Root.Size; off += block {
		_, err := root.ReadAt(buf, off)
		must(t, err)
		if bytes.Equal(buf, program[:block]) {
			flip(t, f, s.Root.Start+off+block/2)
			return
		}
	}
	t.Fatal("systemd's first block is not in the root")
}

func flip(t *testing.T, f *os.File, off int64) {
	t.Helper()
	b := make([]byte, 1)
	_, err := f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, off)
	must(t, err)
}
