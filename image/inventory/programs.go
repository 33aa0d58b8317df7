package inventory

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"strings"
)

const (
	minProgram = 64        // bytes of an ELF header
	maxProgram = 512 << 20 // bytes
)

const elfMagic = "\x7fELF"

// program reads the build information of a file if it is a Go program.
func (r *reader) program(size int64, t io.Reader) (finding, error) {
	magic := make([]byte, len(elfMagic))
	if _, err := io.ReadFull(t, magic); err != nil || string(magic) != elfMagic {
		return finding{}, err
	}
	if size > maxProgram {
		return finding{note: "a program too large to look into"}, nil
	}
	if err := r.spool(magic, t, size); err != nil {
		return finding{}, err
	}
	bi, err := readBuildInfo(io.NewSectionReader(r.scratch, 0, size))
	if err != nil {
		return finding{note: err.Error()}, nil
	}
	if bi == nil {
		return finding{}, nil
	}
	modules, bad := linked(bi)
	if bad > 0 {
		return finding{note: fmt.Sprintf("a Go program whose build information has %d names that could not be understood, and was not used", bad)}, nil
	}
	for _, m := range modules {
		r.kept += len(m.Path) + len(m.Version) + len(m.H1)
	}
	if r.kept > maxKept {
		return finding{note: "a Go program, beyond what is kept of one image"}, nil
	}
	return finding{modules: modules}, nil
}

// spool puts a program where it can be read here and there.
func (r *reader) spool(magic []byte, t io.Reader, size int64) error {
	if err := r.scratch.Truncate(0); err != nil {
		return err
	}
	if _, err := r.scratch.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := r.scratch.Write(magic); err != nil {
		return err
	}
	n, err := io.Copy(r.scratch, io.LimitReader(t, size-int64(len(magic))))
	if err == nil && n != size-int64(len(magic)) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readBuildInfo returns nil for a program that is not Go's. The standard
// library does not promise to survive every ELF file, so a panic is an error.
func readBuildInfo(f io.ReaderAt) (bi *debug.BuildInfo, err error) {
	defer func() {
		if recover() != nil {
			bi, err = nil, errors.New("a program that could not be looked into")
		}
	}()
	if bi, err = buildinfo.Read(f); err != nil {
		return nil, nil // of another language, or without the information
	}
	return bi, nil
}

var (
	modulePath    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~/!+-]{0,511}$`)
	moduleVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]{0,127}$`)
	moduleSum     = regexp.MustCompile(`^(h1:[A-Za-z0-9+/]{43}=)?$`)
)

// linked lists the modules in a program, replacements followed; bad is how
// many have no proper name.
func linked(bi *debug.BuildInfo) (ms []Module, bad int) {
	add := func(m Module) {
		if m.Version == "(devel)" {
			m.Version = ""
		}
		switch {
		case m.Path == "", strings.HasPrefix(m.Path, "./"), strings.HasPrefix(m.Path, "../"), strings.HasPrefix(m.Path, "/"):
			// a directory of whoever built it names nothing
		case !modulePath.MatchString(m.Path), m.Version != "" && !moduleVersion.MatchString(m.Version), !moduleSum.MatchString(m.H1):
			bad++
		default:
			ms = append(ms, m)
		}
	}
	version, _, _ := strings.Cut(bi.GoVersion, " ")
	add(Module{Path: "std", Version: version})
	if bi.Main.Path != "command-line-arguments" {
		add(Module{Path: bi.Main.Path, Version: bi.Main.Version, H1: bi.Main.Sum})
	}
	for _, m := range bi.Deps {
		at := *m
		if m.Replace != nil {
			at = *m.Replace
			if strings.HasPrefix(at.Path, ".") || strings.HasPrefix(at.Path, "/") {
				at = debug.Module{Path: m.Path, Version: m.Version} // changed by whoever built it; the name is known
			}
		}
		add(Module{Path: at.Path, Version: at.Version, H1: at.Sum})
	}
	return ms, bad
}
