package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/holdfast/image/disk"
	"holdfast.dev/holdfast/image/rootfs"
	"holdfast.dev/holdfast/image/slot"
)

const (
	// BackupLabel is the file system label of a stick that backups go to and
	// come from, BackupSuffix the end of their names.
	BackupLabel  = "HF-BACKUP"
	BackupSuffix = ".holdfast-backup"

	restoreStick = "restore.erofs"
	backupSerial = "backup"
	backupSize   = 5 << 30 // bytes of the stick's image, which is sparse; FAT holds files below 4 GiB
)

// Backup plugs an empty stick in, has the agent write a backup onto it, and
// copies that to the file, which must not be there. It returns what the agent
// says of the backup.
func (vm *VM) Backup(ctx context.Context, file string) (json.RawMessage, error) {
	if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot make a backup: %s: %w", file, errors.Join(err, os.ErrExist))
	}
	image := vm.path("backup.img")
	if err := vm.pullOut(ctx, backupSerial); err != nil {
		return nil, err
	}
	if err := disk.WriteFAT(image, backupSize, BackupLabel, rootfs.New(0), 0); err != nil {
		return nil, err
	}
	defer os.Remove(image)
	if err := vm.plugIn(ctx, image, backupSerial, true); err != nil {
		return nil, err
	}
	q := question{Op: "backup", Key: fmt.Sprintf("%x", rand.Uint64())}
	doc, err := vm.askJob(ctx, q)
	// What was written is in the image once the stick is out.
	err = errors.Join(err, vm.pullOut(context.WithoutCancel(ctx), backupSerial))
	if err != nil {
		return nil, err
	}
	return doc, takeBackup(image, file)
}

// askJob asks until the agent says that the job is done, and returns what it
// says.
func (vm *VM) askJob(ctx context.Context, q question) (json.RawMessage, error) {
	for {
		var a struct {
			Done   bool            `json:"done"`
			Plan   json.RawMessage `json:"plan"`
			Backup json.RawMessage `json:"backup"`
		}
		if err := ask(ctx, vm.dir, q, &a); err != nil {
			return nil, err
		}
		if a.Done {
			return append(a.Plan, a.Backup...), nil // one of the two is there
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot wait for the %s: the agent did not get through with it: %w", q.Op, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// pullOut pulls a stick out, if it is plugged in.
func (vm *VM) pullOut(ctx context.Context, serial string) error {
	in, err := sticks(vm.dir)
	if err != nil || !slices.ContainsFunc(in, func(k stick) bool { return k.Serial == serial }) {
		return err
	}
	return vm.DetachDisk(ctx, serial)
}

// takeBackup copies the one backup on a stick to a file.
func takeBackup(image, file string) error {
	f, err := os.Open(image)
	if err != nil {
		return fmt.Errorf("cannot read the stick: %w", err)
	}
	defer f.Close()
	files, err := slot.FATFiles(f, backupSize)
	if err != nil {
		return fmt.Errorf("cannot read the stick: %w", err)
	}
	i := slices.IndexFunc(files, func(x slot.FATFile) bool { return filepath.Ext(x.Name) == BackupSuffix })
	if i < 0 {
		return errors.New("cannot find the backup on the stick")
	}
	out, err := os.CreateTemp(filepath.Dir(file), ".backup-*")
	if err != nil {
		return fmt.Errorf("cannot keep the backup: %w", err)
	}
	defer os.Remove(out.Name()) // fails once it has its name
	_, err = io.Copy(out, files[i])
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = os.Rename(out.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the backup: %w", err)
	}
	return nil
}

// plugBackup has the machine in dir start with a stick that holds a backup and
// the key that opens it.
func plugBackup(dir, backup, key string) error {
	image := filepath.Join(dir, restoreStick)
	if err := makeStick(image, BackupLabel, map[string]string{filepath.Base(backup): backup, "recovery.key": key}); err != nil {
		return err
	}
	abs, err := filepath.Abs(image)
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, "sticks.json"), []stick{{Serial: backupSerial, Image: abs}})
}

// Restore tells the agent to restore the backup of that code, as soon as it asks
// for it, waits until the site starts from it, and takes the stick out.
func (vm *VM) Restore(ctx context.Context, code string) error {
	confirmed := false
	for {
		var said string
		err := ask(ctx, vm.dir, question{Op: "restore", Code: code}, &said)
		if err != nil && !errors.Is(err, ErrRefused) {
			return err
		}
		confirmed = confirmed || err == nil
		s, statusErr := vm.Status(ctx)
		switch {
		case statusErr != nil || s.Phase == "starting" || s.Phase == "network":
		case s.Phase == "refused" || !confirmed:
			return fmt.Errorf("cannot restore: %w", errors.Join(err, fmt.Errorf("the node is in phase %s: %s", s.Phase, strings.Join(s.Faults, "; "))))
		default:
			if err := vm.pullOut(ctx, backupSerial); err != nil {
				return err
			}
			return os.Remove(vm.path(restoreStick)) // it has the key
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot restore: %w", errors.Join(ctx.Err(), err))
		case <-time.After(time.Second):
		}
	}
}
