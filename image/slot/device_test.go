package slot_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/slot"
)

// What works on files works on a block device, where reads that go around the
// cache have rules of their own.
func TestOnBlockDevice(t *testing.T) {
	losetup, err := exec.LookPath("losetup")
	if err != nil || os.Getuid() != 0 {
		t.Skip("no losetup on this host, or not root")
	}
	ctx := context.Background()
	old, new := newRoot(t, 1, 300), newRoot(t, 2, 301)
	f := newDisk(t, layout(t, old))
	out, err := exec.Command(losetup, "--find", "--show", f.Name()).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command(losetup, "-d", name).Run(); err != nil {
			t.Error(err)
		}
	})
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	size, err := slot.Size(dev)
	if err != nil {
		t.Fatal(err)
	}
	b := slotsOf(t, dev)[1]
	// A tree that ends within a block of 4 KiB.
	tree := append(new.tree[:len(new.tree):len(new.tree)], "end"...)
	if err := slot.Fill(ctx, dev, b, source(new.data), source(tree), nil); err != nil {
		t.Fatal(err)
	}
	if err := slot.SetGUIDs(dev, size, b, new.hash); err != nil {
		t.Fatal(err)
	}
	got, ok := slot.Find(slotsOf(t, f), new.hash)
	if !ok {
		t.Fatal("the file behind the device has no such slot")
	}
	if err := slot.Check(ctx, f, got, new.hash); err != nil {
		t.Error(err)
	}
}
