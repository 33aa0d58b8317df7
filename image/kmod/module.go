package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"

	"holdfast.dev/holdfast/image/rootfs"
)

// maxModule bounds a decompressed module; the largest of Debian's is 30 MB.
const maxModule = 256 << 20

// Module is what the index files say of one module.
type Module struct {
	Path     string   `json:"path"` // below usr/lib/modules/VERSION
	Name     string   `json:"name"` // normalised
	Aliases  []string `json:"aliases,omitempty"`
	Softdeps []string `json:"softdeps,omitempty"` // as in .modinfo: "pre: a b post: c"
	Weakdeps []string `json:"weakdeps,omitempty"`
	Exports  []string `json:"exports,omitempty"` // symbols
	Deps     []string `json:"deps,omitempty"`    // names of the modules it needs itself

	undefined []string // symbols, in the order of the symbol table
}

// Name is the name by which a module is known whose file has that name: without
// directory and extensions, and with "_" for "-".
func Name(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(base, "-", "_")
}

// isModule reports whether a file of that name is a module, plain or compressed.
func isModule(name string) bool {
	for _, ext := range []string{".ko", ".ko.xz", ".ko.zst"} {
		if strings.HasSuffix(name, ext) {
			return true
		}
	}
	return false
}

// Decompress returns the ELF file that f, a module, holds.
func Decompress(f rootfs.File) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot read module /%s: %w", f.Path, err)
	}
	defer r.Close()
	in := io.Reader(r)
	switch path.Ext(f.Path) {
	case ".xz":
		if in, err = xz.NewReader(r, 0); err != nil {
			return nil, fmt.Errorf("cannot decompress module /%s: %w", f.Path, err)
		}
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
		if err != nil {
			return nil, fmt.Errorf("cannot decompress module /%s: %w", f.Path, err)
		}
		defer z.Close()
		in = z
	}
	var b bytes.Buffer
	b.Grow(int(min(4*f.Size(), maxModule)))
	n, err := b.ReadFrom(io.LimitReader(in, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("cannot decompress module /%s: %w", f.Path, err)
	}
	if n > maxModule {
		return nil, fmt.Errorf("cannot read module /%s: more than %d bytes", f.Path, maxModule)
	}
	return b.Bytes(), nil
}

// parse reads the parts of a module that an index needs out of its ELF file.
func parse(b []byte) (Module, error) {
	var m Module
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return m, err
	}
	if f.Type != elf.ET_REL {
		return m, fmt.Errorf("not a relocatable file but %s", f.Type)
	}
	info, err := section(f, ".modinfo")
	if err != nil {
		return m, err
	}
	for _, s := range info {
		key, value, _ := strings.Cut(s, "=")
		switch key {
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "softdep":
			m.Softdeps = append(m.Softdeps, value)
		case "weakdep":
			m.Weakdeps = append(m.Weakdeps, value)
		}
	}
	syms, err := f.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return m, err
	}
	for _, s := range syms {
		if name, ok := strings.CutPrefix(s.Name, "__crc_"); ok {
			m.Exports = append(m.Exports, name)
		}
		if s.Section == elf.SHN_UNDEF && s.Name != "" {
			m.undefined = append(m.undefined, s.Name)
		}
	}
	if m.Exports == nil {
		// Kernels keep checksums of symbols in a section of their own or
		// not at all; then the table of exported names is the source.
		m.Exports, err = section(f, "__ksymtab_strings")
	}
	return m, err
}

// section returns the NUL-ended strings of a section, none if it is not there.
func section(f *elf.File, name string) ([]string, error) {
	s := f.Section(name)
	if s == nil {
		return nil, nil
	}
	if s.Size > maxModule {
		return nil, fmt.Errorf("section %s has %d bytes", name, s.Size)
	}
	b, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", name, err)
	}
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == 0 }), nil
}
