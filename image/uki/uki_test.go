package uki_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/uki"
)

// program makes a PE program with one section, and room for a few more.
func program(dllCharacteristics uint16) []byte {
	b := make([]byte, 0x600)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	coff := b[68:]
	le.PutUint16(coff[0:], 0x8664)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x22e)
	opt := b[88:]
	le.PutUint16(opt[0:], 0x20b)
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x2000)
	le.PutUint32(opt[60:], 0x400)
	le.PutUint32(opt[64:], 0xdeadbeef)
	le.PutUint16(opt[68:], 10)
	le.PutUint16(opt[70:], dllCharacteristics)
	le.PutUint32(opt[108:], 16)
	h := b[88+240:]
	copy(h, ".text")
	le.PutUint32(h[8:], 5)
	le.PutUint32(h[12:], 0x1000)
	le.PutUint32(h[16:], 0x200)
	le.PutUint32(h[20:], 0x400)
	copy(b[0x400:], "stub!")
	return b
}

const nx = 0x160

func sample() []uki.Section {
	return uki.Sections("ID=holdfast\n", "roothash=00 quiet", "6.12", program(nx), bytes.Repeat([]byte("rd"), 4000))
}

func parse(t *testing.T, b []byte) (*pe.File, *pe.OptionalHeader64) {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return f, f.OptionalHeader.(*pe.OptionalHeader64)
}

func TestAssemble(t *testing.T) {
	stub := program(nx)
	out, err := uki.Assemble(stub, sample())
	if err != nil {
		t.Fatal(err)
	}
	again, err := uki.Assemble(stub, sample())
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("a second image differs (%v)", err)
	}
	f, opt := parse(t, out)
	var names []string
	end := uint32(0)
	for _, s := range f.Sections {
		names = append(names, s.Name)
		if s.VirtualAddress < end || s.VirtualAddress%0x1000 != 0 || s.Offset%0x200 != 0 || s.Size%0x200 != 0 {
			t.Errorf("%s: %+v", s.Name, s.SectionHeader)
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	if got := strings.Join(names, " "); got != ".text .osrel .cmdline .uname .linux .initrd" {
		t.Errorf("sections %s", got)
	}
	if opt.CheckSum != 0 || opt.SizeOfImage != (end+0xfff)&^0xfff || opt.DllCharacteristics != nx {
		t.Errorf("optional header %+v", opt)
	}
	for _, s := range sample() {
		if got, err := uki.ReadSection(out, s.Name); err != nil || !bytes.Equal(got, s.Data) {
			t.Errorf("%s: other content (%v)", s.Name, err)
		}
	}
	if _, err := uki.ReadSection(out, ".none"); err == nil {
		t.Error("a section that is not there")
	}
}

func TestKernelWithoutNX(t *testing.T) {
	out, err := uki.Assemble(program(nx), []uki.Section{{Name: ".linux", Data: program(0x60)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, opt := parse(t, out); opt.DllCharacteristics != 0x60 {
		t.Errorf("characteristics %x", opt.DllCharacteristics)
	}
}

func TestDropsSymbolTable(t *testing.T) {
	stub := program(nx)
	binary.LittleEndian.PutUint32(stub[68+8:], uint32(len(stub)))
	binary.LittleEndian.PutUint32(stub[68+12:], 1)
	stub = append(stub, make([]byte, 18)...)
	stub = append(stub, 4, 0, 0, 0)
	out, err := uki.Assemble(stub, sample())
	if err != nil {
		t.Fatal(err)
	}
	want, err := uki.Assemble(program(nx), sample())
	if err != nil {
		t.Fatal(err)
	}
	want[68+18] |= 8
	if !bytes.Equal(out, want) {
		t.Error("more than the symbol table differs")
	}
}

func TestRefuses(t *testing.T) {
	change := func(at int, v byte) []byte {
		b := program(nx)
		b[at] = v
		return b
	}
	many := make([]uki.Section, 20)
	for i := range many {
		many[i] = uki.Section{Name: string(rune('a' + i)), Data: []byte("x")}
	}
	for name, c := range map[string]struct {
		stub     []byte
		sections []uki.Section
		want     string
	}{
		"no PE":           {[]byte("hello"), sample(), "stub"},
		"cut":             {program(nx)[:0x500], sample(), "ends before"},
		"trailing":        {append(program(nx), 1), sample(), "behind its sections"},
		"signed":          {change(88+112+4*8, 1), sample(), "signed"},
		"no alignment":    {change(88+37, 0), sample(), "alignments"},
		"unaligned":       {change(88+240+16, 1), sample(), "not aligned"},
		"no room":         {program(nx), many, "no room"},
		"used room":       {change(88+240+41, 1), sample(), "behind its section headers"},
		"long name":       {program(nx), []uki.Section{{Name: ".too-long", Data: []byte("x")}}, "not 1 to 8"},
		"twice":           {program(nx), []uki.Section{{Name: ".text", Data: []byte("x")}}, "twice"},
		"empty":           {program(nx), []uki.Section{{Name: ".a"}}, "empty"},
		"kernel is no PE": {program(nx), []uki.Section{{Name: ".linux", Data: []byte("x")}}, "no kernel"},
	} {
		out, err := uki.Assemble(c.stub, c.sections)
		if err == nil || out != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestRealStub uses the stub of an installed systemd-boot-efi, or the one that
// HOLDFAST_EFI_STUB names.
func TestRealStub(t *testing.T) {
	name := "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	if s := os.Getenv("HOLDFAST_EFI_STUB"); s != "" {
		name = s
	}
	stub, err := os.ReadFile(name)
	if err != nil {
		t.Skip("no systemd stub on this host")
	}
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("no objdump on this host")
	}
	out, err := uki.Assemble(stub, sample())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "uki.efi")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command(objdump, "-h", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, s := range sample() {
		if !strings.Contains(string(text), " "+s.Name+" ") {
			t.Errorf("objdump sees no %s\n%s", s.Name, text)
		}
	}
}

func FuzzAssemble(f *testing.F) {
	f.Add(program(nx))
	f.Fuzz(func(t *testing.T, stub []byte) {
		out, err := uki.Assemble(stub, sample())
		if err != nil {
			return
		}
		for _, s := range sample() {
			if got, err := uki.ReadSection(out, s.Name); err != nil || !bytes.Equal(got, s.Data) {
				t.Errorf("%s: other content (%v)", s.Name, err)
			}
		}
	})
}
