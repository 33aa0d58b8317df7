package gomod

import (
	"archive/zip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"holdfast.dev/holdfast/airgap/store"
)

// Bounds on a toolchain: go1.26 is 72 MB packed, 215 MB in 11,500 files.
const (
	maxZip      = 1 << 30
	maxUnpacked = 4 << 30
	maxFiles    = 200_000
)

var toolchainVersion = regexp.MustCompile(`^go1\.[0-9]+(\.[0-9]+|rc[0-9]+|beta[0-9]+)?$`)

// FetchToolchain fetches the Go toolchain of that version ("go1.26.8") for
// linux/amd64, which is the module golang.org/toolchain, and returns where it
// is unpacked and its h1 hash. wantH1 is the locked hash: anything else is an
// error wrapping store.ErrMismatch, and is neither unpacked nor kept. With an
// empty wantH1, at lock, the hash of what the proxy gave is returned; it is as
// good as the proxy and the way there, and the sum database is not asked.
//
// A tree that was unpacked whole before is used again without a network; a
// damaged archive in the cache is fetched again.
func FetchToolchain(ctx context.Context, proxy Proxy, version, wantH1, cacheDir string) (goroot, h1 string, err error) {
	if !toolchainVersion.MatchString(version) {
		return "", "", fmt.Errorf("cannot fetch the Go toolchain: %q is not a version like go1.26.8", version)
	}
	dir, err := filepath.Abs(filepath.Join(cacheDir, "toolchain"))
	if err != nil {
		return "", "", err
	}
	if wantH1 != "" {
		goroot, err := treeName(dir, version, wantH1)
		if err != nil {
			return "", "", fmt.Errorf("cannot fetch the Go toolchain %s: %w", version, err)
		}
		if whole(goroot) {
			return goroot, wantH1, nil
		}
	}
	goroot, h1, err = fetchToolchain(ctx, proxy, version, wantH1, dir)
	if err != nil {
		return "", "", fmt.Errorf("cannot fetch the Go toolchain %s: %w", version, err)
	}
	return goroot, h1, nil
}

func fetchToolchain(ctx context.Context, proxy Proxy, version, wantH1, dir string) (goroot, h1 string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	module := "golang.org/toolchain@v0.0.1-" + version + ".linux-amd64"
	archive := filepath.Join(dir, version+".linux-amd64.zip")
	h1, err = dirhash.HashZip(archive, dirhash.Hash1)
	if err != nil || wantH1 != "" && h1 != wantH1 {
		// Absent, cut short or altered: the proxy's copy decides.
		if h1, err = fetchArchive(ctx, proxy, module, wantH1, archive); err != nil {
			return "", "", err
		}
	}
	goroot, err = treeName(dir, version, h1)
	if err != nil {
		return "", "", err
	}
	if whole(goroot) {
		return goroot, h1, nil
	}
	tmp, err := os.MkdirTemp(dir, ".unpack-*")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "go")
	err = unpack(ctx, archive, module, tree)
	if err == nil && !whole(tree) {
		err = fmt.Errorf("%s holds no go command", module)
	}
	if err != nil {
		if ctx.Err() == nil {
			os.Remove(archive)
		}
		return "", "", fmt.Errorf("cannot unpack it: %w", err)
	}
	if err := os.Rename(tree, goroot); err != nil {
		if whole(goroot) { // another process was faster
			return goroot, h1, nil
		}
		return "", "", err
	}
	return goroot, h1, nil
}

// fetchArchive leaves the module's archive at name, only if it is wantH1.
func fetchArchive(ctx context.Context, proxy Proxy, module, wantH1, name string) (h1 string, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".zip-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	modPath, version, _ := strings.Cut(module, "@")
	if err := proxy.get(ctx, modPath+"/@v/"+version+".zip", maxZip, f); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	if h1, err = dirhash.HashZip(f.Name(), dirhash.Hash1); err != nil {
		return "", fmt.Errorf("cannot read the archive that the proxy gave: %w", err)
	}
	if wantH1 != "" && h1 != wantH1 {
		return "", fmt.Errorf("%w: the proxy gave %s, locked is %s\nhint: ask another mirror",
			store.ErrMismatch, h1, wantH1)
	}
	return h1, os.Rename(f.Name(), name)
}

// treeName is where the toolchain with that hash is unpacked.
func treeName(dir, version, h1 string) (string, error) {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(h1, "h1:"))
	if !strings.HasPrefix(h1, "h1:") || err != nil || len(sum) != 32 {
		return "", fmt.Errorf("%q is not an h1 hash", h1)
	}
	return filepath.Join(dir, version+"-"+hex.EncodeToString(sum[:16])), nil
}

// whole reports whether a toolchain was unpacked to goroot: it gets its name
// only when complete.
func whole(goroot string) bool {
	for _, name := range []string{"bin/go", "pkg/tool/linux_amd64/compile", "VERSION", "src/go.mod"} {
		if fi, err := os.Stat(filepath.Join(goroot, name)); err != nil || !fi.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// unpack writes the files of a module's archive into dir, which it makes.
func unpack(ctx context.Context, archive, module, dir string) error {
	zr, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer zr.Close()
	if len(zr.File) > maxFiles {
		return fmt.Errorf("%d files, more than the %d allowed", len(zr.File), maxFiles)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	left := int64(maxUnpacked)
	for _, f := range zr.File {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, ok := strings.CutPrefix(f.Name, module+"/")
		if !ok || !fs.ValidPath(name) || !filepath.IsLocal(name) || !f.Mode().IsRegular() {
			return fmt.Errorf("%q is not a file of %s", f.Name, module)
		}
		// A module's archive cannot hold other modules: their go.mod files
		// are stored under another name.
		if path.Base(name) == "_go.mod" {
			name = path.Join(path.Dir(name), "go.mod")
		}
		n, err := unpackFile(root, name, f, left)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		left -= n
	}
	return nil
}

func unpackFile(root *os.Root, name string, f *zip.File, limit int64) (int64, error) {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return 0, err
	}
	// Archives of modules carry no modes.
	mode := os.FileMode(0o644)
	if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "pkg/tool/") {
		mode = 0o755
	}
	w, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	r, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return n, err
	}
	if n > limit {
		return n, fmt.Errorf("more than %d bytes unpacked", int64(maxUnpacked))
	}
	return n, errors.Join(w.Chmod(mode), w.Close())
}
