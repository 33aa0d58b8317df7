// Package uki puts unified kernel images together: systemd's boot stub, a PE
// program, with the kernel, the initial RAM disk, the command line and what
// describes them appended as sections, so that one signature covers them all.
// The format is the UAPI Group's "Unified Kernel Image" specification; the
// layout is that of systemd's ukify.
//
// Only the stub's own .sbat section is kept; one of the kernel is not merged
// into it, for it matters to shim alone.
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Section is a named part of an image.
type Section struct {
	Name string // at most 8 bytes, with its dot
	Data []byte // never empty
}

// Offsets and values of the PE format, as in Microsoft's "PE Format".
const (
	sectionHeaderSize = 40
	coffSize          = 20
	symbolSize        = 18

	// In the optional header.
	sizeOfInitializedDataAt = 8
	sizeOfImageAt           = 56
	checkSumAt              = 64
	dllCharacteristicsAt    = 70

	localSymsStripped       = 0x0008
	nxCompat                = 0x0100
	securityDirectory       = 4
	flagCode                = 0x00000020
	flagInitialized         = 0x00000040
	flagRead                = 0x40000000
	maxSections             = 96 // the limit of Windows' loader; far above ours
	maxImageSize      int64 = math.MaxInt32
)

// Sections names the parts of an image in the order that ukify writes them:
// .osrel, .cmdline, .uname, .linux and .initrd. Empty parts are left out.
func Sections(osrel, cmdline, uname string, linux, initrd []byte) []Section {
	var out []Section
	for _, s := range []Section{
		{".osrel", []byte(osrel)}, {".cmdline", []byte(cmdline)}, {".uname", []byte(uname)},
		{".linux", linux}, {".initrd", initrd},
	} {
		if len(s.Data) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// Assemble returns stub with sections appended in their order. A symbol table
// at the stub's end is dropped; a signed stub, a name that is there already,
// and a stub whose headers have no room for the sections are errors.
func Assemble(stub []byte, sections []Section) ([]byte, error) {
	out, err := assemble(stub, sections)
	if err != nil {
		return nil, fmt.Errorf("cannot assemble unified kernel image: %w", err)
	}
	return out, nil
}

func assemble(stub []byte, sections []Section) ([]byte, error) {
	img, err := open(stub)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	if err := errors.Join(checkSections(img, sections), img.checkStub(len(sections))); err != nil {
		return nil, err
	}
	end := img.dataEnd()
	total := int64(end)
	for _, s := range sections {
		total += alignUp(int64(len(s.Data)), int64(img.opt.FileAlignment))
	}
	if total > maxImageSize || memoryEnd(img, sections) > maxImageSize {
		return nil, fmt.Errorf("%d bytes are more than an image can have", total)
	}
	out := make([]byte, end, total)
	copy(out, stub)
	le := binary.LittleEndian
	coff, opt := out[img.coffAt:], out[img.coffAt+coffSize:]
	if img.FileHeader.PointerToSymbolTable != 0 {
		le.PutUint32(coff[8:], 0)
		le.PutUint32(coff[12:], 0)
		le.PutUint16(coff[18:], img.Characteristics|localSymsStripped)
	}

	address := img.addressEnd()
	initialized := img.opt.SizeOfInitializedData
	for i, s := range sections {
		size := uint32(len(s.Data))
		address = uint32(alignUp(int64(address), int64(img.opt.SectionAlignment)))
		h := out[img.headersEnd()+i*sectionHeaderSize:]
		copy(h[:8], s.Name)
		le.PutUint32(h[8:], size)
		le.PutUint32(h[12:], address)
		le.PutUint32(h[16:], uint32(alignUp(int64(size), int64(img.opt.FileAlignment))))
		le.PutUint32(h[20:], uint32(len(out)))
		flags := uint32(flagRead | flagInitialized)
		if s.Name == ".linux" {
			flags = flagRead | flagCode
		}
		le.PutUint32(h[36:], flags)
		out = append(out, s.Data...)
		out = append(out, make([]byte, alignUp(int64(len(out)), int64(img.opt.FileAlignment))-int64(len(out)))...)
		address += size
		initialized += size
	}
	le.PutUint16(coff[2:], uint16(len(img.File.Sections)+len(sections)))
	le.PutUint32(opt[sizeOfInitializedDataAt:], initialized)
	le.PutUint32(opt[sizeOfImageAt:], uint32(alignUp(int64(address), int64(img.opt.SectionAlignment))))
	le.PutUint32(opt[checkSumAt:], 0)
	if !kernelIsNX(sections) {
		le.PutUint16(opt[dllCharacteristicsAt:], img.opt.DllCharacteristics&^nxCompat)
	}
	return out, nil
}

// ReadSection returns the content of a section of the image.
func ReadSection(image []byte, name string) ([]byte, error) {
	img, err := open(image)
	if err != nil {
		return nil, fmt.Errorf("cannot read section %s: %w", name, err)
	}
	for _, s := range img.File.Sections {
		if s.Name != name {
			continue
		}
		from, size := int64(s.Offset), int64(min(s.VirtualSize, s.Size))
		if from+size > int64(len(image)) {
			return nil, fmt.Errorf("cannot read section %s: it leaves the file", name)
		}
		return image[from : from+size], nil
	}
	return nil, fmt.Errorf("cannot read section %s: the image has none", name)
}

// checkSections reports all faults of the sections to add.
func checkSections(img *image, sections []Section) error {
	var errs []error
	seen := map[string]bool{}
	for _, s := range img.File.Sections {
		seen[s.Name] = true
	}
	for _, s := range sections {
		switch {
		case len(s.Name) == 0 || len(s.Name) > 8 || bytes.IndexByte([]byte(s.Name), 0) >= 0:
			errs = append(errs, fmt.Errorf("section name %q is not 1 to 8 bytes", s.Name))
		case seen[s.Name]:
			errs = append(errs, fmt.Errorf("section %s twice", s.Name))
		case len(s.Data) == 0:
			errs = append(errs, fmt.Errorf("section %s is empty", s.Name))
		case int64(len(s.Data)) > maxImageSize:
			errs = append(errs, fmt.Errorf("section %s has %d bytes", s.Name, len(s.Data)))
		case s.Name == ".linux":
			if _, err := open(s.Data); err != nil {
				errs = append(errs, fmt.Errorf("section .linux is no kernel with an EFI stub: %w", err))
			}
		}
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

// kernelIsNX reports whether the image may keep the mark that its memory is
// never both writable and executable: the kernel must have it too.
func kernelIsNX(sections []Section) bool {
	for _, s := range sections {
		if s.Name == ".linux" {
			img, err := open(s.Data)
			return err == nil && img.opt.DllCharacteristics&nxCompat != 0
		}
	}
	return true
}

// memoryEnd is where the last section ends once loaded.
func memoryEnd(img *image, sections []Section) int64 {
	at := int64(img.addressEnd())
	for _, s := range sections {
		at = alignUp(at, int64(img.opt.SectionAlignment)) + int64(len(s.Data))
	}
	return alignUp(at, int64(img.opt.SectionAlignment))
}

// image is a parsed 64-bit PE program.
type image struct {
	*pe.File
	opt    *pe.OptionalHeader64
	coffAt int
	raw    []byte
}

func open(b []byte) (*image, error) {
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || len(b) < 64 || b[0] != 'M' || b[1] != 'Z' {
		return nil, errors.New("not a 64-bit PE program")
	}
	coffAt := int(binary.LittleEndian.Uint32(b[60:])) + 4
	return &image{f, opt, coffAt, b}, nil
}

func (img *image) headersEnd() int {
	return img.coffAt + coffSize + int(img.SizeOfOptionalHeader) + len(img.File.Sections)*sectionHeaderSize
}

// dataEnd is where the stub's last section ends in the file.
func (img *image) dataEnd() uint32 {
	end := img.opt.SizeOfHeaders
	for _, s := range img.File.Sections {
		if s.Size > 0 {
			end = max(end, s.Offset+s.Size)
		}
	}
	return end
}

// addressEnd is where the stub's last section ends in memory.
func (img *image) addressEnd() uint32 {
	var end uint32
	for _, s := range img.File.Sections {
		end = max(end, s.VirtualAddress+s.VirtualSize)
	}
	return end
}

// checkStub reports all reasons why n sections cannot be added.
func (img *image) checkStub(n int) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("stub: "+format, args...)) }
	fa, sa := img.opt.FileAlignment, img.opt.SectionAlignment
	if fa == 0 || fa&(fa-1) != 0 || fa > 1<<16 || sa == 0 || sa&(sa-1) != 0 || sa < fa || sa > 1<<21 {
		fault("alignments %d and %d", fa, sa)
		return errors.Join(errs...)
	}
	if img.opt.NumberOfRvaAndSizes > securityDirectory && img.opt.DataDirectory[securityDirectory].VirtualAddress != 0 {
		fault("it is signed")
	}
	room := int64(img.opt.SizeOfHeaders)
	end := room
	for _, s := range img.File.Sections {
		if s.Size == 0 {
			continue
		}
		if s.Offset%fa != 0 || s.Size%fa != 0 {
			fault("section %s is not aligned to %d bytes", s.Name, fa)
		}
		room = min(room, int64(s.Offset))
		end = max(end, int64(s.Offset)+int64(s.Size))
		if int64(s.VirtualAddress)+int64(s.VirtualSize) > maxImageSize {
			fault("section %s leaves the memory", s.Name)
		}
	}
	if end > int64(len(img.raw)) {
		fault("it ends before its sections do")
		return errors.Join(errs...)
	}
	if trailing := int64(len(img.raw)) - end; trailing != 0 && !img.isSymbolTable(end) {
		fault("%d bytes behind its sections", trailing)
	}
	from := img.headersEnd()
	to := from + n*sectionHeaderSize
	if int64(to) > room || len(img.File.Sections)+n > maxSections {
		fault("no room in its headers for %d sections", n)
	} else if len(bytes.Trim(img.raw[from:to], "\x00")) != 0 {
		fault("bytes behind its section headers")
	}
	return errors.Join(errs...)
}

// isSymbolTable reports whether all that follows end is the symbol table with
// its strings, and padding.
func (img *image) isSymbolTable(end int64) bool {
	at := int64(img.PointerToSymbolTable)
	if at < end || at-end >= int64(img.opt.FileAlignment) {
		return false
	}
	return at+int64(img.NumberOfSymbols)*symbolSize <= int64(len(img.raw))
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
