package gobuild

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast.dev/holdfast/airgap/store"
)

// resultName is the record beside the programs; it is written last.
const resultName = "result.json"

type result struct {
	Recipe    store.Digest             `json:"recipe"`
	Toolchain string                   `json:"toolchain"`
	Platform  string                   `json:"platform"`
	Programs  map[string]store.Content `json:"programs"`
}

// save records the programs in out and moves them to dir, whole or not at all.
func save(out, dir string, r Recipe, toolchain string) error {
	res := result{r.Digest(), toolchain, Platform, map[string]store.Content{}}
	for _, p := range r.Programs {
		name := filepath.Join(out, p.Name)
		c, err := hashFile(name)
		if err != nil {
			return err
		}
		if err := syncFile(name); err != nil {
			return err
		}
		res.Programs[p.Name] = c
	}
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	record := filepath.Join(out, resultName)
	if err := os.WriteFile(record, append(b, '\n'), 0o644); err != nil {
		return err
	}
	for _, name := range []string{record, out} {
		if err := syncFile(name); err != nil {
			return err
		}
	}
	if err := os.Rename(out, dir); err != nil {
		// Another build of the same was faster: its bytes are these.
		if _, loadErr := load(dir, r); loadErr == nil {
			return nil
		}
		return err
	}
	return syncFile(filepath.Dir(dir))
}

// load returns the programs in dir if all of them are those recorded.
func load(dir string, r Recipe) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, resultName))
	if err != nil {
		// A directory without a record is not a result, but is in the way.
		if _, statErr := os.Stat(dir); statErr == nil && errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("cannot use %s: it has no %s", dir, resultName)
		}
		return nil, err
	}
	var res result
	if err := json.Unmarshal(b, &res); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", dir, err)
	}
	paths := map[string]string{}
	for _, p := range r.Programs {
		name := filepath.Join(dir, p.Name)
		got, err := hashFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot use %s: %s is damaged: %v", dir, p.Name, err)
		}
		if got != res.Programs[p.Name] {
			return nil, fmt.Errorf("cannot use %s: %w", name, store.ErrMismatch)
		}
		paths[p.Name] = name
	}
	return paths, nil
}

func hashFile(name string) (store.Content, error) {
	f, err := os.Open(name)
	if err != nil {
		return store.Content{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return store.Content{}, err
	}
	return store.Content{Digest: store.SHA256(h.Sum(nil)), Size: n}, nil
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// hashToolchain names a toolchain that came without an h1 hash by the programs
// that make the bytes, and the standard library's version.
func hashToolchain(goRoot string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"VERSION", "bin/go", "pkg/tool/linux_amd64/compile", "pkg/tool/linux_amd64/asm", "pkg/tool/linux_amd64/link"} {
		c, err := hashFile(filepath.Join(goRoot, filepath.FromSlash(name)))
		if err != nil {
			return "", fmt.Errorf("cannot use the Go toolchain at %s: %w", goRoot, err)
		}
		fmt.Fprintf(h, "%s %s\n", c.Digest, name)
	}
	return "local:" + store.SHA256(h.Sum(nil)).Hex(), nil
}

// Module is a Go module of which something was linked into a program.
type Module struct {
	Path     string   `json:"path"`
	Version  string   `json:"version"`
	H1       string   `json:"h1"`       // as in go.sum
	Programs []string `json:"programs"` // by name, sorted
}

// Modules reads from programs, by name and path, which modules were linked
// into them, replacements followed; those by directories of the recipe are not
// listed. The standard library is the module "std"
// with the toolchain's version. It is sorted by path and version.
func Modules(programs map[string]string) ([]Module, error) {
	type id struct{ path, version, h1 string }
	in := map[id][]string{}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		bi, err := buildinfo.ReadFile(programs[name])
		if err != nil {
			return nil, fmt.Errorf("cannot list the modules of %s: %w", name, err)
		}
		std := id{path: "std", version: strings.Fields(bi.GoVersion + " unknown")[0]}
		in[std] = append(in[std], name)
		for _, m := range bi.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			if strings.HasPrefix(m.Path, "./") { // a directory of the recipe
				continue
			}
			k := id{m.Path, m.Version, m.Sum}
			in[k] = append(in[k], name)
		}
	}
	var out []Module
	for k, names := range in {
		out = append(out, Module{k.path, k.version, k.h1, names})
	}
	slices.SortFunc(out, func(a, b Module) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Version, b.Version)
	})
	return out, nil
}
