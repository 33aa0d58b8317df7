package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/airgap/store"
	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/image/initrd"
	"holdfast.dev/holdfast/image/kmod"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/image/verity"
)

// Inputs are what assembly needs beside the plan.
type Inputs struct {
	Store    *store.Store
	Programs map[string]store.Content // by RECIPE/NAME, in the store
	Agent    []byte                   // holdfast-agent
	Policy   []byte                   // trust/policy.json
	DBCert   []byte                   // trust/db.crt: whose boot programs firmware starts
	Identity store.Digest             // of this holdfast; its results are reused by itself only
	Version  string                   // of this holdfast
	Progress func(step string, done, total int)
}

// Part is a part of the OS as it lies on a disk, and as it is carried.
type Part struct {
	Raw    store.Content `json:"raw"`
	Packed store.Content `json:"packed"` // zstd
}

// OS is an assembled operating system; nothing in it is signed yet.
type OS struct {
	Root          Part          `json:"root"`
	Verity        Part          `json:"verity"`
	RootHash      string        `json:"rootHash"` // 64 hexadecimal digits
	KernelVersion string        `json:"kernelVersion"`
	Loader        store.Content `json:"loader"`

	// What the unified kernel image of a release is made of.
	Stub      store.Content `json:"stub"`
	Kernel    store.Content `json:"kernel"`
	Initrd    store.Content `json:"initrd"`
	OSRelease store.Content `json:"osRelease"`
}

func (o OS) contents() []store.Content {
	return []store.Content{o.Root.Raw, o.Root.Packed, o.Verity.Raw, o.Verity.Packed, o.Loader, o.Stub, o.Kernel, o.Initrd, o.OSRelease}
}

// Assemble makes the OS that p plans, without a network, root or any tool. The
// same plan and inputs give the same bytes; a result that the store has
// already is used again.
func Assemble(ctx context.Context, p Plan, in Inputs) (OS, error) {
	key, err := p.key(in)
	if err != nil {
		return OS{}, err
	}
	var done OS
	if in.Store.Recall(key, &done) {
		var errs []error
		for _, c := range done.contents() {
			errs = append(errs, in.Store.Check(c))
		}
		if errors.Join(errs...) == nil {
			return done, nil
		}
	}
	os, err := assemble(ctx, p, in)
	if err != nil {
		return OS{}, fmt.Errorf("cannot assemble the OS: %w", err)
	}
	return os, in.Store.Remember(key, os)
}

func (p Plan) key(in Inputs) (store.Digest, error) {
	programs := map[string]store.Digest{}
	for _, q := range p.Programs {
		c, ok := in.Programs[q.Recipe+"/"+q.Name]
		if !ok {
			return "", fmt.Errorf("internal error: program %s of recipe %s was not compiled", q.Name, q.Recipe)
		}
		programs[q.Path] = c.Digest
	}
	return store.Key("os", p, programs, store.FromBytes(in.Agent), store.FromBytes(in.Policy), store.FromBytes(in.DBCert), in.Identity)
}

func assemble(ctx context.Context, p Plan, in Inputs) (OS, error) {
	progress := in.Progress
	if progress == nil {
		progress = func(string, int, int) {}
	}
	t, err := Unpack(ctx, in.Store, p.Packages, p.Epoch, Dropped, func(d, n int) { progress("unpack", d, n) })
	if err != nil {
		return OS{}, err
	}
	var out OS
	kernel, err := takeKernel(t, &out)
	if err != nil {
		return OS{}, err
	}
	loader, stub, err := bootFiles(t)
	if err != nil {
		return OS{}, err
	}
	ucode, err := takeMicrocode(t, p.Epoch)
	if err != nil {
		return OS{}, err
	}
	if err := errors.Join(applyFixups(t, p.Epoch), addEngine(t, p), addOurs(t, p, in)); err != nil {
		return OS{}, err
	}
	progress("modules", 0, 1)
	if err := depmod(t, p, in.Store, out.KernelVersion); err != nil {
		return OS{}, err
	}
	ird, err := makeInitrd(t, out.KernelVersion, p.Epoch)
	if err != nil {
		return OS{}, err
	}
	ird = append(ucode, ird...)
	progress("root", 0, 1)
	if err := writeRoot(t, p, in.Store, &out); err != nil {
		return OS{}, err
	}
	osrel, err := t.ReadFile("usr/lib/os-release", 1<<16)
	if err != nil {
		return OS{}, err
	}
	for _, p := range []struct {
		to   *store.Content
		data []byte
	}{{&out.Loader, loader}, {&out.Stub, stub}, {&out.Kernel, kernel}, {&out.Initrd, ird}, {&out.OSRelease, osrel}} {
		if *p.to, err = in.Store.WriteBytes(p.data); err != nil {
			return OS{}, err
		}
	}
	return out, nil
}

// takeKernel reads the one kernel of the packages and names its version.
func takeKernel(t *rootfs.Tree, out *OS) ([]byte, error) {
	var found []string
	for _, f := range t.Files() {
		if v, ok := strings.CutPrefix(f.Path, "boot/vmlinuz-"); ok {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("cannot choose a kernel: the packages hold %d: %s", len(found), strings.Join(found, " "))
	}
	out.KernelVersion = found[0]
	return t.ReadFile("boot/vmlinuz-"+found[0], 64<<20)
}

func bootFiles(t *rootfs.Tree) (loader, stub []byte, err error) {
	const dir = "usr/lib/systemd/boot/efi/"
	if loader, err = t.ReadFile(dir+"systemd-bootx64.efi", 8<<20); err != nil {
		return nil, nil, err
	}
	if stub, err = t.ReadFile(dir+"linuxx64.efi.stub", 8<<20); err != nil {
		return nil, nil, err
	}
	if loader == nil || stub == nil {
		return nil, nil, fmt.Errorf("cannot find systemd-boot in the packages: /%s is not complete", dir)
	}
	return loader, stub, nil
}

// addOurs puts in what comes from no package.
func addOurs(t *rootfs.Tree, p Plan, in Inputs) error {
	info, err := json.Marshal(map[string]string{"name": p.Name, "version": in.Version, "suite": p.Suite, "zone": p.Zone})
	if err != nil {
		return err
	}
	errs := []error{
		t.WriteFile("usr/bin/holdfast-agent", in.Agent, 0o755, p.Epoch),
		t.WriteFile("usr/lib/holdfast/trust/policy.json", in.Policy, 0o644, p.Epoch),
		t.WriteFile("usr/lib/holdfast/trust/db.crt", in.DBCert, 0o644, p.Epoch),
		t.WriteFile("usr/lib/holdfast/release.epoch", []byte(strconv.FormatInt(p.Epoch, 10)+"\n"), 0o644, p.Epoch),
		t.WriteFile("usr/lib/holdfast/os.json", append(info, '\n'), 0o644, p.Epoch),
	}
	for _, q := range p.Programs {
		c := in.Programs[q.Recipe+"/"+q.Name]
		errs = append(errs, in.Store.Check(c), t.Put(rootfs.File{
			Path: q.Path, Mode: rootfs.TypeRegular | 0o755, MTime: p.Epoch,
			Data: rootfs.Section{Name: in.Store.Path(c.Digest), Length: c.Size},
		}))
	}
	return errors.Join(errs...)
}

// depmod indexes the kernel's modules. Reading them all takes seconds, so the
// index is kept by the packages that they came from.
func depmod(t *rootfs.Tree, p Plan, s *store.Store, version string) error {
	var kernels []string
	for _, q := range p.Packages {
		if strings.HasPrefix(q.Name, "linux-image-") {
			kernels = append(kernels, string(q.Digest))
		}
	}
	key, err := store.Key("kmod", 1, kernels)
	if err != nil {
		return err
	}
	var x kmod.Index
	if !s.Recall(key, &x) {
		if x, err = kmod.Scan(t, version); err != nil {
			return err
		}
		if err := s.Remember(key, x); err != nil {
			return err
		}
	}
	return x.Write(t, version, p.Epoch)
}

func makeInitrd(t *rootfs.Tree, version string, epoch int64) ([]byte, error) {
	it, err := initrd.Systemd(t, version, epoch)
	if err != nil {
		return nil, err
	}
	var cpio, packed bytes.Buffer
	if err := initrd.WriteCPIO(&cpio, it); err != nil {
		return nil, err
	}
	if err := initrd.Compress(&packed, &cpio); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// writeRoot writes root and verity into the store. Their identifiers come from
// what they hold, so that equal content has equal bytes.
func writeRoot(t *rootfs.Tree, p Plan, s *store.Store, out *OS) error {
	id, err := store.Key("root", p.Packages, p.Epoch)
	if err != nil {
		return err
	}
	f, err := s.TempFile()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	size, err := erofs.Write(f, t, erofs.Options{UUID: uuid(id), Epoch: p.Epoch, Label: "holdfast-root"})
	if err != nil {
		return err
	}
	if err := fits("root", size, RootSize); err != nil {
		return err
	}
	root, err := digestFile(f)
	if err != nil {
		return err
	}
	var tree bytes.Buffer
	salt := sha256.Sum256([]byte("holdfast verity salt " + root.Digest))
	hash, err := verity.Write(&tree, f, size, verity.Options{Salt: salt[:], UUID: uuid(root.Digest)})
	if err != nil {
		return err
	}
	if err := fits("verity", int64(tree.Len()), VeritySize); err != nil {
		return err
	}
	out.RootHash = hex.EncodeToString(hash[:])
	if out.Root.Packed, err = pack(s, f); err != nil {
		return err
	}
	if out.Verity.Packed, err = pack(s, bytes.NewReader(tree.Bytes())); err != nil {
		return err
	}
	if out.Verity.Raw, err = s.WriteBytes(tree.Bytes()); err != nil {
		return err
	}
	out.Root.Raw = root
	return s.Adopt(f.Name(), root)
}

// uuid is a version 8 UUID (RFC 9562) cut from a digest.
func uuid(d store.Digest) (u [16]byte) {
	b, err := hex.DecodeString(d.Hex())
	if err != nil {
		return u
	}
	copy(u[:], b)
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// fits refuses a part that leaves too little of its slot for the next release.
func fits(name string, size, slot int64) error {
	if limit := slot / 100 * FillPercent; size > limit {
		return fmt.Errorf("cannot use a %s of %d MiB: over %d%% of its slot of %d MiB, which is fixed for the disk's life\nhint: take packages out of os.packages, or exclude what they pull in",
			path.Base(name), size>>20, FillPercent, slot>>20)
	}
	return nil
}

func digestFile(f *os.File) (store.Content, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return store.Content{}, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return store.Content{Digest: store.SHA256(h.Sum(nil)), Size: n}, err
}

// pack compresses r into the store. One encoder at a fixed level: the bytes
// must not depend on the number of cores.
func pack(s *store.Store, r io.ReadSeeker) (store.Content, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return store.Content{}, err
	}
	pr, pw := io.Pipe()
	go func() {
		z, err := zstd.NewWriter(pw, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
		if err == nil {
			_, err = io.Copy(z, r)
			err = errors.Join(err, z.Close())
		}
		pw.CloseWithError(err)
	}()
	c, err := s.Write(pr)
	pr.CloseWithError(err)
	return c, err
}
