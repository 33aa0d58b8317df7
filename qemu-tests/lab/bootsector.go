package lab

// sectorSays is what the boot sector prints on the first serial port.
const sectorSays = "holdfast: guest runs"

// bootSector is the smallest guest there is: it prints sectorSays and a line
// end, then sends back every byte it receives. It comes with the rest of a disk
// of 1 MiB: the firmware boots from none that is much smaller.
func bootSector() []byte {
	code := []byte{
		0xfc,       // 7c00 cld
		0x31, 0xc0, // 7c01 xor ax, ax
		0x8e, 0xd8, // 7c03 mov ds, ax
		0xbe, 0x24, 0x7c, // 7c05 mov si, text
		0xba, 0xf8, 0x03, // 7c08 print: mov dx, 0x3f8
		0xac,       // 7c0b lodsb
		0x84, 0xc0, // 7c0c test al, al
		0x74, 0x03, // 7c0e jz echo
		0xee,       // 7c10 out dx, al
		0xeb, 0xf5, // 7c11 jmp print
		0xb2, 0xfd, // 7c13 echo: mov dl, 0xfd (line status)
		0xec,       // 7c15 in al, dx
		0xa8, 0x01, // 7c16 test al, 1
		0x74, 0x06, // 7c18 jz wait
		0xb2, 0xf8, // 7c1a mov dl, 0xf8
		0xec,       // 7c1c in al, dx
		0xee,       // 7c1d out dx, al
		0xeb, 0xf3, // 7c1e jmp echo
		0xfb, 0xf4, // 7c20 wait: sti; hlt (till the next timer tick)
		0xeb, 0xef, // 7c22 jmp echo
	}
	s := make([]byte, 1<<20)
	n := copy(s, code)
	copy(s[n:], sectorSays+"\r\n\x00")
	s[510], s[511] = 0x55, 0xaa
	return s
}
