package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

func TestMakeStick(t *testing.T) {
	dir := t.TempDir()
	bundle, image := filepath.Join(dir, "site-2.bundle"), filepath.Join(dir, "stick.img")
	data := bytes.Repeat([]byte("bundle "), 100_000)
	if err := os.WriteFile(bundle, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeStick(image, bundle); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := erofs.ReadFile(bytes.NewReader(first), "site-2.bundle", 1<<20); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes on the stick, %v", len(got), err)
	}
	if err := MakeStick(image, bundle); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(image); err != nil || !bytes.Equal(first, again) {
		t.Error("the same bundle gave two images", err)
	}
	for program, args := range map[string][]string{"fsck.erofs": {image}, "blkid": {"-p", "-o", "value", "-s", "LABEL", image}} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is not installed", program)
			continue
		}
		out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
		if err != nil || program == "blkid" && strings.TrimSpace(string(out)) != StickLabel {
			t.Errorf("%s: %v: %s", program, err, out)
		}
	}
	if err := MakeStick(filepath.Join(dir, "none.img"), dir); err == nil {
		t.Error("a directory was made a stick")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*none*")); err != nil || len(left) != 0 {
		t.Error("something was left behind:", left, err)
	}
}

// stickThere reports whether the machine has a disk of that serial number.
func stickThere(t *testing.T, vm *VM, serial string) bool {
	t.Helper()
	var blocks []struct {
		QDev     string `json:"qdev"`
		Inserted struct {
			RO bool `json:"ro"`
		} `json:"inserted"`
	}
	if err := qmp(t.Context(), vm.dir, "query-block", &blocks); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if b.QDev == "stick-"+serial {
			return b.Inserted.RO
		}
	}
	return false
}

// TestSticks plugs in and out, over a power cut too, on a machine whose disk a
// server has.
func TestSticks(t *testing.T) {
	needQEMU(t)
	c := tiny(t)
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	base, overlay := c.Image, filepath.Join(t.TempDir(), "disk")
	c.Image, c.Disk = "", filepath.Join(c.Dir, "disk, sock")
	powerUp := func() (*nbd.Disk, *VM) {
		d, err := nbd.Open(base, overlay, nbd.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Listen(c.Disk); err != nil {
			t.Fatal(err)
		}
		vm, err := Up(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Expect(t.Context(), sectorSays, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		return d, vm
	}
	_, err := Up(t.Context(), c, nil)
	wantHint(t, err, "must listen before")
	both := c
	both.Image = base
	_, err = Up(t.Context(), both, nil)
	wantHint(t, err, "the disk's server has the image")
	far := c
	far.Disk = filepath.Join(t.TempDir(), strings.Repeat("d", 100), "sock")
	if err := os.Mkdir(filepath.Dir(far.Disk), 0o700); err != nil {
		t.Fatal(err)
	}
	other, err := nbd.Open(base, overlay+"-far", nbd.Options{})
	if err == nil {
		err = other.Listen(far.Disk)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = Up(t.Context(), far, nil)
	wantHint(t, err, "put the socket into the lab's directory")
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	d, vm := powerUp()
	stick := filepath.Join(t.TempDir(), "stick, image")
	if err := os.WriteFile(stick, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{{stick, "a,b"}, {stick, ""}, {stick + "none", "one"}} {
		if err := vm.AttachDisk(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("%q was plugged in", bad)
		}
	}
	for _, serial := range []string{"one", "two"} {
		if err := vm.AttachDisk(t.Context(), stick, serial); err != nil {
			t.Fatal(err)
		}
	}
	if err := vm.AttachDisk(t.Context(), stick, "one"); err == nil {
		t.Error("one stick was plugged in twice")
	}
	for i := range 3 { // the same one, again and again
		if err := vm.DetachDisk(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			break
		}
		if err := vm.AttachDisk(t.Context(), stick, "one"); err != nil {
			t.Fatal(err)
		}
	}
	if stickThere(t, vm, "one") || !stickThere(t, vm, "two") {
		t.Error("the wrong stick was pulled out")
	}
	if err := d.Cut(7); err != nil {
		t.Fatal(err)
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	d, vm = powerUp()
	if stickThere(t, vm, "one") || !stickThere(t, vm, "two") {
		t.Error("after a power cut, other sticks are plugged in")
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := vm.DetachDisk(t.Context(), "two"); err != nil {
		t.Error(err)
	}
	if all, err := sticks(c.Dir); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
