package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	cgroups      = "/sys/fs/cgroup"
	freezeWithin = 20 * time.Second
)

// Freeze holds all processes of the control groups, named below the root of
// their file system, and returns once none of them runs. After an error they
// may be held or not: Thaw lets them go.
func Freeze(ctx context.Context, root string, groups []string) error {
	for _, g := range groups {
		if err := set(root, g, "1"); err != nil {
			return fmt.Errorf("cannot hold %s: %w", g, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, freezeWithin)
	defer cancel()
	for _, g := range groups {
		for {
			b, err := os.ReadFile(filepath.Join(root, cgroups, g, "cgroup.events"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot hold %s: %w", g, err)
			}
			if err != nil || strings.Contains("\n"+string(b), "\nfrozen 1\n") {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("cannot hold %s: a process in it does not stop: %w", g, ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// Thaw lets the processes of the groups run again. It does so also for those
// that nobody held.
func Thaw(root string, groups []string) error {
	var errs []error
	for _, g := range groups {
		if err := set(root, g, "0"); err != nil {
			errs = append(errs, fmt.Errorf("cannot let %s run again: %w", g, err))
		}
	}
	return errors.Join(errs...)
}

// set writes a group's state; a group that is not there has no processes.
func set(root, group, value string) error {
	err := os.WriteFile(filepath.Join(root, cgroups, group, "cgroup.freeze"), []byte(value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
