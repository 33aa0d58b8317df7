package initrd

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"holdfast.dev/holdfast/image/rootfs"
)

// maxProgram bounds an ELF file that is read for what it needs.
const maxProgram = 512 << 20

// libraryDirs are searched after a file's own run path.
var libraryDirs = [...]string{"usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64", "usr/lib/x86_64-linux-gnu/systemd"}

// dlopened is one entry of a .note.dlopen: a library that a program opens when
// it runs. The format is the UAPI group's "ELF dlopen metadata".
type dlopened struct {
	Feature  string   `json:"feature"`
	Priority string   `json:"priority"` // required, recommended or suggested
	Soname   []string `json:"soname"`   // any one of these will do
}

// needs adds what f needs to run, if it is an ELF file or a script.
func (p *picker) needs(f rootfs.File) {
	b, script, err := readProgram(f)
	if err != nil {
		p.fail(fmt.Errorf("cannot read /%s: %w", f.Path, err))
		return
	}
	if script != "" {
		p.add(strings.Trim(script, "/"), ", the interpreter of /"+f.Path)
	}
	if b == nil {
		return
	}
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		p.fail(fmt.Errorf("cannot read /%s: %w", f.Path, err))
		return
	}
	for _, ph := range e.Progs {
		if ph.Type == elf.PT_INTERP && ph.Filesz < 4096 {
			name, err := io.ReadAll(ph.Open())
			if err != nil {
				p.fail(fmt.Errorf("cannot read the interpreter of /%s: %w", f.Path, err))
				continue
			}
			p.add(strings.Trim(string(name), "\x00/"), ", the interpreter of /"+f.Path)
		}
	}
	libs, err := e.ImportedLibraries()
	if err != nil {
		p.fail(fmt.Errorf("cannot read what /%s needs: %w", f.Path, err))
		return
	}
	dirs := searchPath(e, f.Path)
	for _, l := range libs {
		if !p.library(l, dirs) {
			p.fail(fmt.Errorf("cannot find library %s, which /%s needs", l, f.Path))
		}
	}
	opened, err := dlopenNotes(e)
	if err != nil {
		p.fail(fmt.Errorf("cannot read the .note.dlopen of /%s: %w", f.Path, err))
	}
	for _, d := range opened {
		_, wanted := p.features[d.Feature]
		if !wanted && d.Priority != "required" && d.Priority != "recommended" {
			continue
		}
		found := false
		for _, l := range d.Soname {
			if found = p.library(l, dirs); found {
				break
			}
		}
		switch {
		case found && wanted:
			p.features[d.Feature] = true
		case !found && (wanted || d.Priority == "required"):
			p.fail(fmt.Errorf("cannot find library %s, which /%s opens for %s", strings.Join(d.Soname, " or "), f.Path, d.Feature))
		}
	}
}

// readProgram returns the content of f if it is an ELF file, and the name of
// its interpreter if it is a script that may be run.
func readProgram(f rootfs.File) (elfFile []byte, script string, err error) {
	r, err := f.Open()
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	// The kernel reads no more of a script's first line.
	head := make([]byte, 256)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	head = head[:n]
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok && f.Mode&0o111 != 0 {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			script = words[0]
		}
		return nil, script, nil
	}
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return nil, "", nil
	}
	if f.Size() > maxProgram {
		return nil, "", fmt.Errorf("%d bytes, more than the %d allowed", f.Size(), maxProgram)
	}
	rest, err := io.ReadAll(io.LimitReader(r, maxProgram))
	return append(head, rest...), "", err
}

// searchPath is where the loader looks for the libraries of the file at name.
func searchPath(e *elf.File, name string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		ss, _ := e.DynString(tag)
		for _, s := range ss {
			for d := range strings.SplitSeq(s, ":") {
				d = strings.NewReplacer("${ORIGIN}", path.Dir(name), "$ORIGIN", path.Dir(name)).Replace(d)
				dirs = append(dirs, strings.Trim(d, "/"))
			}
		}
	}
	return append(dirs, libraryDirs[:]...)
}

// library adds the library of that name and reports whether it is there.
func (p *picker) library(soname string, dirs []string) bool {
	for _, d := range dirs {
		name := path.Join(d, soname)
		if f, ok := p.root.Stat(name); ok && f.IsRegular() {
			p.add(name, "")
			return true
		}
	}
	return false
}

// dlopenNotes reads the notes of type 0x407c0c0a and owner FDO: each a JSON list.
func dlopenNotes(e *elf.File) ([]dlopened, error) {
	s := e.Section(".note.dlopen")
	if s == nil || s.Size > 1<<20 {
		return nil, nil
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	return parseNotes(b, e.ByteOrder)
}

func parseNotes(b []byte, order binary.ByteOrder) ([]dlopened, error) {
	var all []dlopened
	for len(b) >= 12 {
		nameLen, descLen, kind := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), order.Uint32(b[8:])
		descAt := 12 + (nameLen+3)&^3
		end := descAt + descLen
		if end > uint64(len(b)) {
			return nil, fmt.Errorf("a note of %d bytes where %d are left", end, len(b))
		}
		name := strings.TrimRight(string(b[12:12+nameLen]), "\x00")
		if name == "FDO" && kind == 0x407c0c0a {
			var some []dlopened
			if err := json.Unmarshal(bytes.TrimRight(b[descAt:end], "\x00"), &some); err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
		b = b[min((end+3)&^3, uint64(len(b))):]
	}
	return all, nil
}
