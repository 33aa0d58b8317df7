// Package guard holds the program that firmware starts first: it starts
// systemd-boot from the disk that it came from, and when that is refused or
// returns, says so, waits a minute and resets the machine. Without it, firmware
// would start the boot loader again in the same power cycle, so that one
// refused kernel uses up all tries, and end in a menu.
//
// guard.s.txt is the source of guard.bin.
package guard

import (
	"bytes"
	_ "embed"
	"encoding/binary"
)

//go:embed guard.bin
var code []byte

// Path is where the guard belongs on an EFI system partition: firmware starts
// it without being told.
const Path = "EFI/BOOT/BOOTX64.EFI"

// LoaderPath is what the guard starts, on the same partition.
const LoaderPath = "EFI/systemd/systemd-bootx64.efi"

// Message is what the guard writes to the console before it waits.
const Message = "holdfast: nothing on this disk could be started that its keys vouch for; trying again in 60 seconds"

const (
	fileAlign    = 0x200
	sectionAlign = 0x1000 // a page, so that firmware can protect each section
	headersSize  = 0x400
	headerAt     = 64  // of the PE header
	optionalSize = 240 // with all 16 directories
	relocationAt = 5   // directory of the base relocations
)

type section struct {
	name  string
	data  []byte
	flags uint32
}

const (
	holdsCode  = 0x00000020
	holdsData  = 0x00000040
	discarded  = 0x02000000
	executable = 0x20000000
	readable   = 0x40000000
)

// EFI returns the guard as a PE32+ program, the same bytes each time, not yet
// signed. Format: Microsoft's "PE Format"; what UEFI adds is in section 2.1 of
// its specification. No section is writable, none but the code executable, and
// the program says that it can do with memory protected so (NX_COMPAT).
func EFI() []byte {
	sections := []section{
		{".text", code, holdsCode | executable | readable},
		// A block of base relocations with nothing to relocate: some firmware
		// refuses programs without any.
		{".reloc", []byte{0x00, 0x10, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0}, holdsData | discarded | readable},
	}
	le := binary.LittleEndian
	h := make([]byte, headersSize)
	copy(h, "MZ")
	le.PutUint32(h[60:], headerAt)
	copy(h[headerAt:], "PE\x00\x00")

	coff := h[headerAt+4:]
	le.PutUint16(coff[0:], 0x8664) // x86-64
	le.PutUint16(coff[2:], uint16(len(sections)))
	le.PutUint16(coff[16:], optionalSize)
	le.PutUint16(coff[18:], 0x0022) // an executable that can be above 2 GiB

	opt := coff[20:]
	le.PutUint16(opt[0:], 0x20b) // PE32+
	le.PutUint32(opt[16:], sectionAlign)
	le.PutUint32(opt[20:], sectionAlign) // entry and base of the code: the first section
	le.PutUint32(opt[32:], sectionAlign)
	le.PutUint32(opt[36:], fileAlign)
	le.PutUint32(opt[60:], headersSize)
	le.PutUint16(opt[68:], 10)     // an EFI application
	le.PutUint16(opt[70:], 0x0100) // NX_COMPAT
	le.PutUint32(opt[108:], 16)    // directories

	out := bytes.NewBuffer(nil)
	address, offset := sectionAlign, headersSize
	for i, s := range sections {
		raw := align(len(s.data), fileAlign)
		if s.flags&holdsCode != 0 {
			le.PutUint32(opt[4:], uint32(raw))
		} else {
			le.PutUint32(opt[8:], le.Uint32(opt[8:])+uint32(raw))
		}
		if s.name == ".reloc" {
			le.PutUint32(opt[112+8*relocationAt:], uint32(address))
			le.PutUint32(opt[116+8*relocationAt:], uint32(len(s.data)))
		}
		e := opt[optionalSize+40*i:]
		copy(e[:8], s.name)
		le.PutUint32(e[8:], uint32(len(s.data)))
		le.PutUint32(e[12:], uint32(address))
		le.PutUint32(e[16:], uint32(raw))
		le.PutUint32(e[20:], uint32(offset))
		le.PutUint32(e[36:], s.flags)
		out.Write(s.data)
		out.Write(make([]byte, raw-len(s.data)))
		address += align(len(s.data), sectionAlign)
		offset += raw
	}
	le.PutUint32(opt[56:], uint32(address)) // size of the image
	return append(h, out.Bytes()...)
}

func align(n, to int) int { return (n + to - 1) / to * to }
