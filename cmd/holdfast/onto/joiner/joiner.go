// Package joiner holds the program that starts another one in a pod whose image
// has nothing for it, from parts that are small enough for ConfigMaps.
//
// joiner.s.txt is the source of joiner.bin, and says how it is called.
package joiner

import (
	_ "embed"
	"encoding/binary"
)

//go:embed joiner.bin
var code []byte

const (
	base       = 0x400000
	headerSize = 64
	entrySize  = 56 // of the one program header
)

// ELF returns it as a program for Linux on x86-64, the same bytes each time: one
// segment that can be read and executed, and no stack that can be.
func ELF() []byte {
	const headers = headerSize + 2*entrySize
	size := uint64(headers + len(code))
	le := binary.LittleEndian
	h := make([]byte, headers, size)
	copy(h, "\x7fELF\x02\x01\x01") // 64 bits, little endian
	le.PutUint16(h[16:], 2)        // an executable
	le.PutUint16(h[18:], 62)       // x86-64
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], base+headers)
	le.PutUint64(h[32:], headerSize) // where the program headers are
	le.PutUint16(h[52:], headerSize)
	le.PutUint16(h[54:], entrySize)
	le.PutUint16(h[56:], 2)
	le.PutUint16(h[58:], 64)

	load := h[headerSize:]
	le.PutUint32(load[0:], 1) // PT_LOAD
	le.PutUint32(load[4:], 5) // read, execute
	le.PutUint64(load[16:], base)
	le.PutUint64(load[24:], base)
	le.PutUint64(load[32:], size)
	le.PutUint64(load[40:], size)
	le.PutUint64(load[48:], 0x1000)

	stack := load[entrySize:]
	le.PutUint32(stack[0:], 0x6474e551) // PT_GNU_STACK
	le.PutUint32(stack[4:], 6)          // read, write
	le.PutUint64(stack[48:], 16)
	return append(h, code...)
}
