package gomod

import (
	"errors"
	"fmt"
	"path/filepath"
)

// ErrNoToolchain is wrapped by errors about a toolchain that is not unpacked.
var ErrNoToolchain = errors.New("no such toolchain in the cache")

// Toolchain returns where an earlier FetchToolchain unpacked the toolchain
// with that hash; it never dials.
func Toolchain(version, h1, cacheDir string) (goroot string, err error) {
	dir, err := filepath.Abs(filepath.Join(cacheDir, "toolchain"))
	if err != nil {
		return "", err
	}
	goroot, err = treeName(dir, version, h1)
	if err != nil {
		return "", fmt.Errorf("cannot use the Go toolchain %s: %w", version, err)
	}
	if !whole(goroot) {
		return "", fmt.Errorf("cannot use the Go toolchain %s: %w\nhint: run \"holdfast collect\"", version, ErrNoToolchain)
	}
	return goroot, nil
}
