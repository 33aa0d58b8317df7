package lab

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"holdfast.dev/holdfast/image/erofs"
	"holdfast.dev/holdfast/image/rootfs"
)

// StickLabel is the file system label by which a node knows a stick.
const StickLabel = "HOLDFAST"

// stickBus is the controller that sticks are plugged into.
const stickBus = "sticks"

// stick is a disk that can be plugged in and out.
type stick struct {
	Serial   string `json:"serial"`
	Image    string `json:"image"`
	Writable bool   `json:"writable,omitempty"`
}

// node names its parts in QEMU.
func (k stick) node() string { return "stick-" + k.Serial }

var stickSerial = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,19}$`)

// sticks are those plugged in. One whose image is gone was taken out.
func sticks(dir string) ([]stick, error) {
	b, err := os.ReadFile(filepath.Join(dir, "sticks.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var all []stick
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which sticks are plugged in: %w", err)
	}
	return slices.DeleteFunc(all, func(k stick) bool { return !isFile(k.Image) || !stickSerial.MatchString(k.Serial) }), nil
}

// AttachDisk plugs a raw image into the running machine, to be read only, as a
// SCSI disk with that serial number. It stays plugged in, over power cuts too,
// until DetachDisk, or until its file is gone when the machine starts.
func (vm *VM) AttachDisk(ctx context.Context, image, serial string) error {
	return vm.plugIn(ctx, image, serial, false)
}

func (vm *VM) plugIn(ctx context.Context, image, serial string, writable bool) error {
	if err := vm.attachDisk(ctx, image, serial, writable); err != nil {
		return fmt.Errorf("cannot plug in %s: %w", image, err)
	}
	return nil
}

func (vm *VM) attachDisk(ctx context.Context, image, serial string, writable bool) error {
	if !stickSerial.MatchString(serial) {
		return fmt.Errorf("the serial number %q has other characters than letters, digits, dots and dashes, or more than 20", serial)
	}
	id, err := identifyImage(image)
	if err != nil {
		return err
	}
	unlock, err := lockDir(vm.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := vm.running(); err != nil {
		return err
	}
	all, err := sticks(vm.dir)
	if err != nil {
		return err
	}
	k := stick{serial, id.Path, writable}
	if slices.ContainsFunc(all, func(o stick) bool { return o.Serial == serial }) {
		return fmt.Errorf("one with the serial number %s is plugged in", serial)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := qmpWith(ctx, vm.dir, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": k.node(), "read-only": !writable,
		"file": map[string]any{"driver": "file", "filename": k.Image},
	}, nil); err != nil {
		return err
	}
	if err := qmpWith(ctx, vm.dir, "device_add", map[string]any{
		"driver": "scsi-hd", "bus": stickBus + ".0", "drive": k.node(), "id": k.node(), "serial": serial,
	}, nil); err != nil {
		return errors.Join(err, vm.releaseStick(ctx, k))
	}
	return writeJSON(vm.path("sticks.json"), append(all, k))
}

// DetachDisk pulls the disk with that serial number out of the machine, which
// may be off.
func (vm *VM) DetachDisk(ctx context.Context, serial string) error {
	if err := vm.detachDisk(ctx, serial); err != nil {
		return fmt.Errorf("cannot pull out the stick %s: %w", serial, err)
	}
	return nil
}

func (vm *VM) detachDisk(ctx context.Context, serial string) error {
	unlock, err := lockDir(vm.dir)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := sticks(vm.dir)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(o stick) bool { return o.Serial == serial })
	if i < 0 {
		return errors.New("it is not plugged in")
	}
	if vm.Running() {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		if err := qmpWith(ctx, vm.dir, "device_del", map[string]any{"id": all[i].node()}, nil); err != nil {
			return err
		}
		if err := vm.releaseStick(ctx, all[i]); err != nil {
			return err
		}
	}
	return writeJSON(vm.path("sticks.json"), slices.Delete(all, i, i+1))
}

// releaseStick closes the image, once the device is gone.
func (vm *VM) releaseStick(ctx context.Context, k stick) error {
	for {
		err := qmpWith(ctx, vm.dir, "blockdev-del", map[string]any{"node-name": k.node()}, nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// MakeStick writes the image of a stick that holds one bundle, under the
// bundle's name. The same bundle gives the same image.
func MakeStick(image, bundle string) error {
	if err := makeStick(image, StickLabel, map[string]string{filepath.Base(bundle): bundle}); err != nil {
		return fmt.Errorf("cannot make stick: %w", err)
	}
	return nil
}

// makeStick writes the image of a stick that holds files, by name.
func makeStick(image, label string, files map[string]string) error {
	tree := rootfs.New(0)
	named := []byte("holdfast stick")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fi, err := os.Stat(files[name])
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return fmt.Errorf("%s is not a file", files[name])
		}
		if err := tree.Add(rootfs.File{
			Path: name, Mode: rootfs.TypeRegular | 0o444,
			Data: rootfs.Section{Name: files[name], Length: fi.Size()},
		}); err != nil {
			return err
		}
		named = fmt.Appendf(named, "\n%s\n%d", name, fi.Size())
	}
	id := sha256.Sum256(named)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // RFC 9562, version 8
	f, err := os.CreateTemp(filepath.Dir(image), ".stick-*")
	if err != nil {
		return err
	}
	_, err = erofs.Write(f, tree, erofs.Options{UUID: [16]byte(id[:16]), Label: label})
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), image)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
