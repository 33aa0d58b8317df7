// Package pcaptest makes recordings for tests.
package pcaptest

import (
	"encoding/binary"
	"net/netip"
)

// Datagrams is a recording of UDP datagrams that the machine 10.0.2.15 sent to
// places, one a second from second 1.
func Datagrams(to ...string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0)
	for i, place := range to {
		p := netip.MustParseAddrPort(place)
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, 17
		copy(ip[12:], []byte{10, 0, 2, 15})
		copy(ip[16:], p.Addr().AsSlice())
		f := append(append(make([]byte, 12), 8, 0), ip...)
		f = append(binary.BigEndian.AppendUint16(append(f, 0x80, 0), p.Port()), 0, 0, 0, 0)
		for _, v := range []int{i + 1, 0, len(f), len(f)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		b = append(b, f...)
	}
	return b
}
