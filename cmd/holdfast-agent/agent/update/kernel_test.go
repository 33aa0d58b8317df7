package update

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"testing"

	"holdfast.dev/holdfast/image/guard"
)

// Another processor, entry point or right is another kernel image; another
// signature is not.
func TestHeader(t *testing.T) {
	of := func(b []byte) string {
		t.Helper()
		f, err := pe.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		h, err := header(f)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	was := of(guard.EFI())
	coff := int(binary.LittleEndian.Uint32(guard.EFI()[60:])) + 4
	opt := coff + 20
	for _, c := range []struct {
		what string
		at   int
		with uint16
		same bool
	}{
		{"machine", coff, pe.IMAGE_FILE_MACHINE_ARM64, false},
		{"entry point", opt + 16, 0x2000, false},
		{"subsystem", opt + 68, 3, false},
		{"what memory may be", opt + 70, 0, false},
		{"flags of a section", opt + 240 + 36, 0, false},
		{"checksum", opt + 64, 77, true},
		{"place of the signature", opt + 112 + 4*8, 0x4000, true},
	} {
		b := guard.EFI()
		binary.LittleEndian.PutUint16(b[c.at:], c.with)
		if (of(b) == was) != c.same {
			t.Errorf("another %s: the same header: %t", c.what, !c.same)
		}
	}
}
