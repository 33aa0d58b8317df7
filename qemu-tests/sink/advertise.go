package sink

import (
	"encoding/binary"
)

// advertisement is a frame by which the router offers itself, a network and a
// resolver to whoever listens: RFC 4861, section 4.2, and RFC 8106.
func advertisement() []byte {
	var router, all [16]byte
	copy(router[:], "\xfe\x80")
	router[15] = 0xfe
	copy(all[:], "\xff\x02")
	all[15] = 1
	prefix := [16]byte{0x20, 0x01, 0x0d, 0xb8} // 2001:db8::/64
	resolver := prefix
	resolver[15] = 0x53

	ra := []byte{134, 0, 0, 0, 64, 0} // hop limit; no flags
	ra = binary.BigEndian.AppendUint16(ra, 1800)
	ra = append(ra, make([]byte, 8)...)           // timers: unspecified
	ra = append(append(ra, 1, 1), string(mac)...) // its link-layer address
	ra = append(ra, 3, 4, 64, 0x40)               // a prefix to make addresses of; who is in it is behind the router
	ra = binary.BigEndian.AppendUint32(ra, 86400)
	ra = binary.BigEndian.AppendUint32(ra, 14400)
	ra = append(append(ra, 0, 0, 0, 0), prefix[:]...)
	ra = append(ra, 25, 3, 0, 0) // a resolver
	ra = binary.BigEndian.AppendUint32(ra, 1800)
	ra = append(ra, resolver[:]...)

	// RFC 8200, section 8.1: the checksum covers addresses, length and protocol.
	pseudo := append(append([]byte{}, router[:]...), all[:]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(ra)))
	pseudo = append(append(pseudo, 0, 0, 0, 58), ra...)
	binary.BigEndian.PutUint16(ra[2:], sum(pseudo))

	frame := append([]byte{0x33, 0x33, 0, 0, 0, 1}, string(mac)...)
	frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(ra)))
	frame = append(frame, 58, 255)
	frame = append(append(frame, router[:]...), all[:]...)
	return append(frame, ra...)
}

// echo is a frame that asks the machine for an answer: RFC 792.
func (s *Sink) echo(n uint16) []byte {
	from, to := s.c.Router.Addr().As4(), s.c.Machine.As4()
	icmp := binary.BigEndian.AppendUint16([]byte{8, 0, 0, 0, 'h', 'f'}, n)
	binary.BigEndian.PutUint16(icmp[2:], sum(icmp))
	ip := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0}
	ip = append(append(ip, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	frame := append(append([]byte{}, s.machine...), string(mac)...)
	return append(append(append(frame, 8, 0), ip...), icmp...)
}

// sum is the checksum of RFC 1071 over an even number of bytes.
func sum(b []byte) uint16 {
	var n uint32
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return ^uint16(n)
}
