package image

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/image/rootfs"
)

// SeedLabel is the partition that a node finds by name.
const SeedLabel = "holdfast-seed"

// Disk is what a disk image is derived from: a release that is signed already.
type Disk struct {
	OS        OS
	UKI       store.Content     // signed, as Loader and Guard are
	Loader    store.Content     // systemd-boot
	Guard     store.Content     // what firmware starts, and what starts the loader
	Enrolment map[string][]byte // {PK,KEK,db}.auth: the keys of Secure Boot, for a virtual machine to enrol
	Seed      *rootfs.Tree      // the release's layout
	Index     store.Digest      // of the release; the disk's identifiers come from it
	Release   int64
	Epoch     int64
}

// WriteDisk makes a raw disk image at path: ESP, two slots of root and verity
// of which the first holds the release, and the seed store. The writable
// partition is made by the node at its first boot, in the space behind.
func WriteDisk(path string, s *store.Store, d Disk) error {
	if err := errors.Join(s.Check(d.OS.Root.Raw), s.Check(d.OS.Verity.Raw)); err != nil {
		return fmt.Errorf("cannot write disk: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(path), ".disk-")
	if err != nil {
		return fmt.Errorf("cannot write disk: %w", err)
	}
	defer os.RemoveAll(work)
	espPath, seedPath := filepath.Join(work, "esp"), filepath.Join(work, "seed")
	esp, err := espTree(s, d)
	if err != nil {
		return err
	}
	if err := disk.WriteESP(espPath, ESPSize, esp, d.Epoch); err != nil {
		return err
	}
	seedSize, err := writeSeed(seedPath, d)
	if err != nil {
		return err
	}
	raw, err := hex.DecodeString(d.OS.RootHash)
	if err != nil || len(raw) != 32 {
		return fmt.Errorf("internal error: root hash %q", d.OS.RootHash)
	}
	rootGUID, verityGUID := disk.RootGUIDs([32]byte(raw))
	guid := func(name string) string { return guidOf(d.Index, name) }
	const slot = disk.AttributeReadOnly
	return disk.Write(path, disk.Layout{
		GUID: guid("disk"),
		Partitions: []disk.Partition{
			{Name: "holdfast-esp", TypeGUID: disk.TypeESP, PartGUID: guid("esp"), Size: ESPSize, Content: disk.FromFile(espPath)},
			{Name: "holdfast-root-a", TypeGUID: disk.TypeRootX86, PartGUID: rootGUID, Size: RootSize, Attributes: slot, Content: disk.FromFile(s.Path(d.OS.Root.Raw.Digest))},
			{Name: "holdfast-verity-a", TypeGUID: disk.TypeRootX86Verity, PartGUID: verityGUID, Size: VeritySize, Attributes: slot, Content: disk.FromFile(s.Path(d.OS.Verity.Raw.Digest))},
			{Name: "holdfast-root-b", TypeGUID: disk.TypeRootX86, PartGUID: guid("root-b"), Size: RootSize, Attributes: slot},
			{Name: "holdfast-verity-b", TypeGUID: disk.TypeRootX86Verity, PartGUID: guid("verity-b"), Size: VeritySize, Attributes: slot},
			{Name: SeedLabel, TypeGUID: disk.TypeLinux, PartGUID: guid("seed"), Size: seedSize, Attributes: slot | disk.AttributeNoAuto, Content: disk.FromFile(seedPath)},
		},
	})
}

// loaderConf: no menu, which a byte on a serial line would open after "timeout 0",
// and no questions. Keys enrol themselves in virtual machines
// only; on hardware a person does it.
const loaderConf = "timeout menu-disabled\neditor no\nauto-entries no\nauto-firmware no\nsecure-boot-enroll if-safe\n"

// espTree is the content of the ESP: the guard where firmware looks without
// being told, the loader where the guard looks, and one entry.
func espTree(s *store.Store, d Disk) (*rootfs.Tree, error) {
	var errs []error
	read := func(c store.Content) []byte {
		b, err := s.ReadFile(c, maxKernelImage)
		errs = append(errs, err)
		return b
	}
	files := map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI":            read(d.Guard),
		"EFI/systemd/systemd-bootx64.efi": read(d.Loader),
		EntryName(d.Release):              read(d.UKI),
		"loader/loader.conf":              []byte(loaderConf),
		"loader/entries.srel":             []byte("type1\n"),
	}
	for name, b := range d.Enrolment {
		files["loader/keys/auto/"+name] = b
	}
	t := rootfs.New(d.Epoch)
	for name, data := range files {
		errs = append(errs, t.WriteFile(name, data, 0o644, d.Epoch))
	}
	return t, errors.Join(errs...)
}

// EntryName is a release's unified kernel image on the ESP.
func EntryName(release int64) string { return fmt.Sprintf("EFI/Linux/holdfast-%d.efi", release) }

// writeSeed writes the seed store, rounded up to what a partition can be.
func writeSeed(path string, d Disk) (int64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, fmt.Errorf("cannot write seed store: %w", err)
	}
	defer f.Close()
	size, err := erofs.Write(f, d.Seed, erofs.Options{UUID: uuid(store.FromBytes([]byte("seed " + d.Index))), Epoch: d.Epoch, Label: "holdfast-seed"})
	if err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("cannot write seed store: %w", err)
	}
	const unit = 16 << 20
	return (size + unit - 1) / unit * unit, nil
}

// guidOf cuts a GUID for a part of the disk from the release's digest.
func guidOf(d store.Digest, part string) string {
	u := uuid(store.FromBytes([]byte(part + " " + string(d))))
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
