package gomod

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"holdfast.dev/holdfast/image/gobuild"
)

// Checks remembers which files of a module cache were read and found right, by
// their sizes, times and inodes, as the store does for its blobs: a module is
// read again when one of its files is not the one that was read. A nil Checks
// remembers nothing. It is for one goroutine.
type Checks struct {
	dir    string
	rehash bool
	had    map[string]bool // found right by this Checks
}

// NewChecks uses the records below cacheDir. With rehash everything is read once
// more, whatever they say.
func NewChecks(cacheDir string, rehash bool) *Checks {
	return &Checks{dir: filepath.Join(cacheDir, "checked.modules"), rehash: rehash, had: map[string]bool{}}
}

// Present reports whether the archives of what recipe requires are there. It
// reads none of them.
func Present(recipe gobuild.Recipe, cacheDir string) bool {
	needed, err := required(recipe)
	if err != nil {
		return false
	}
	for _, w := range needed {
		archive, _, err := w.places(ModCache(cacheDir))
		if err != nil {
			return false
		}
		if _, err := os.Stat(archive); err != nil {
			return false
		}
	}
	return true
}

// module is verify, unless the module's files are those of an earlier one.
func (c *Checks) module(cache string, w wanted) error {
	archive, tree, err := w.places(cache)
	if err != nil {
		return err
	}
	return c.once(w.String()+" "+w.h1, []string{archive, tree}, func() error { return verify(cache, w) })
}

// packages is listPackages, unless it went well with the same toolchain over a
// cache of the same modules.
func (c *Checks) packages(ctx context.Context, goroot string, recipe gobuild.Recipe, cacheDir string) error {
	what := "packages " + string(recipe.Digest()) + " " + goroot
	downloads := filepath.Join(ModCache(cacheDir), "cache", "download")
	return c.once(what, []string{downloads}, func() error { return listPackages(ctx, goroot, recipe, cacheDir) })
}

// once calls check unless it went well before over the same files. A record that
// cannot be written costs nothing but the next check.
func (c *Checks) once(what string, files []string, check func() error) error {
	if c == nil {
		return check()
	}
	if c.had[what] {
		return nil
	}
	name := sha256.Sum256([]byte(what))
	record := filepath.Join(c.dir, hex.EncodeToString(name[:]))
	before, err := fingerprint(files)
	if err != nil {
		return fmt.Errorf("cannot look at the module cache: %w", err)
	}
	if !c.rehash {
		if b, err := os.ReadFile(record); err == nil && string(b) == before {
			c.had[what] = true
			return nil
		}
	}
	if err := check(); err != nil {
		return err
	}
	c.had[what] = true
	// What changed meanwhile is not what was read.
	if after, err := fingerprint(files); err == nil && after == before {
		_ = c.write(record, before)
	}
	return nil
}

func (c *Checks) write(record, text string) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), record)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// fingerprint says which files there are: a hash over the path, mode, size,
// times and inode of each. A file that is not there counts as such.
func fingerprint(roots []string) (string, error) {
	h := sha256.New()
	for _, root := range roots {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && p == root {
				fmt.Fprintf(h, "%s: none\n", p)
				return nil
			}
			if err != nil {
				return err
			}
			// The go command's locks are opened, not read.
			if d.IsDir() || strings.HasSuffix(p, ".lock") || d.Name() == "lock" {
				return nil
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			return addFile(h, p, fi)
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func addFile(h hash.Hash, name string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("internal error: no stat of %s", name)
	}
	_, err := fmt.Fprintf(h, "%s\x00%o %d %d %d %d\n", name, st.Mode, st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Ino)
	return err
}
