package authenticode

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Offsets and values of the PE format, as in Microsoft's "PE Format".
const (
	coffSize          = 20
	sectionHeaderSize = 40
	checkSumAt        = 64  // in the optional header
	directoriesAt     = 112 // in the optional header
	certificatesIndex = 4   // of the directory that says where signatures are

	certificateAlign    = 8
	certificateHeader   = 8
	revision2           = 0x0200
	typePKCS7           = 0x0002
	maxCertificateTable = 1 << 20
	maxSections         = 96
)

// layout says where in a PE program lies what its digest leaves out.
type layout struct {
	checkSumAt    int
	certificateAt int // of the directory entry
	end           int // of what is signed: where the signatures begin, or the file ends
}

// parse reads the headers of a 64-bit PE program. It refuses one whose bytes
// are not covered by headers and sections without gap or overlap, since
// programs that compute its digest then differ in the result.
func parse(b []byte) (layout, error) {
	var l layout
	le := binary.LittleEndian
	if len(b) < 64 || b[0] != 'M' || b[1] != 'Z' || len(b) > 1<<31-1 {
		return l, errors.New("not a PE program")
	}
	at := int64(le.Uint32(b[60:]))
	opt := at + 4 + coffSize
	if at < 64 || opt+directoriesAt > int64(len(b)) || string(b[at:at+4]) != "PE\x00\x00" {
		return l, errors.New("not a PE program")
	}
	sections := int64(le.Uint16(b[at+6:]))
	table := opt + int64(le.Uint16(b[at+20:]))
	directories := int64(le.Uint32(b[opt+directoriesAt-4:]))
	switch {
	case le.Uint16(b[opt:]) != 0x20b:
		return l, errors.New("not a 64-bit PE program")
	case directories <= certificatesIndex || opt+directoriesAt+(certificatesIndex+1)*8 > table:
		return l, errors.New("no place for signatures in its headers")
	case sections > maxSections:
		return l, fmt.Errorf("%d sections", sections)
	}
	headers := int64(le.Uint32(b[opt+60:]))
	if table+sections*sectionHeaderSize > headers || headers > int64(len(b)) {
		return l, errors.New("headers leave their place")
	}
	l = layout{int(opt) + checkSumAt, int(opt) + directoriesAt + certificatesIndex*8, len(b)}

	from, size := int64(le.Uint32(b[l.certificateAt:])), int64(le.Uint32(b[l.certificateAt+4:]))
	if from != 0 || size != 0 {
		if from < headers || from%certificateAlign != 0 || size < certificateHeader || size > maxCertificateTable || from+size != int64(len(b)) {
			return l, fmt.Errorf("signatures of %d bytes at %d, in a file of %d", size, from, len(b))
		}
		l.end = int(from)
	}
	return l, checkSections(b[table:table+sections*sectionHeaderSize], headers, int64(l.end))
}

// checkSections refuses sections that do not follow one another from the end
// of the headers on. What follows the last one is covered by the digest.
func checkSections(headers []byte, at, end int64) error {
	type extent struct{ from, size int64 }
	var extents []extent
	for h := headers; len(h) > 0; h = h[sectionHeaderSize:] {
		e := extent{int64(binary.LittleEndian.Uint32(h[20:])), int64(binary.LittleEndian.Uint32(h[16:]))}
		if e.size > 0 {
			extents = append(extents, e)
		}
	}
	slices.SortFunc(extents, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	for _, e := range extents {
		if e.from != at {
			return fmt.Errorf("a section at %d, where %d is expected", e.from, at)
		}
		at += e.size
	}
	if at > end {
		return fmt.Errorf("sections end at %d, the file at %d", at, end)
	}
	return nil
}

// Digest is the Authenticode SHA-256 digest of a PE program: of all but its
// checksum, the place where its headers name its signatures, and these
// signatures. A program of a length that is no multiple of 8 is hashed with the
// zeros that Attach puts behind it.
func Digest(pe []byte) (sum [32]byte, err error) {
	l, err := parse(pe)
	if err != nil {
		return sum, fmt.Errorf("cannot compute Authenticode digest: %w", err)
	}
	return digest(pe, l), nil
}

func digest(pe []byte, l layout) (sum [32]byte) {
	h := sha256.New()
	h.Write(pe[:l.checkSumAt])
	h.Write(pe[l.checkSumAt+4 : l.certificateAt])
	h.Write(pe[l.certificateAt+8 : l.end])
	h.Write(make([]byte, padding(l.end)))
	h.Sum(sum[:0])
	return sum
}

func padding(n int) int { return -n & (certificateAlign - 1) }

// Attach returns pe with the signature that SignDigest made of its digest, and
// with a checksum of zero. It does not check the signature. The error about a
// program that is signed already wraps ErrSigned.
func Attach(pe, pkcs7 []byte) ([]byte, error) {
	l, err := parse(pe)
	if err != nil {
		return nil, fmt.Errorf("cannot attach signature: %w", err)
	}
	if l.end != len(pe) {
		return nil, fmt.Errorf("cannot attach signature: %w", ErrSigned)
	}
	size := certificateHeader + len(pkcs7)
	size += padding(size)
	if size > maxCertificateTable {
		return nil, fmt.Errorf("cannot attach signature: %d bytes", len(pkcs7))
	}
	from := len(pe) + padding(len(pe))
	out := make([]byte, from+size)
	copy(out, pe)
	le := binary.LittleEndian
	le.PutUint32(out[l.checkSumAt:], 0)
	le.PutUint32(out[l.certificateAt:], uint32(from))
	le.PutUint32(out[l.certificateAt+4:], uint32(size))
	le.PutUint32(out[from:], uint32(size))
	le.PutUint16(out[from+4:], revision2)
	le.PutUint16(out[from+6:], typePKCS7)
	copy(out[from+certificateHeader:], pkcs7)
	return out, nil
}

// signatures returns the PKCS #7 signatures in the certificate table.
func signatures(table []byte) ([][]byte, error) {
	var out [][]byte
	for len(table) > 0 {
		if len(table) < certificateHeader {
			return nil, errors.New("a signature is cut")
		}
		size := int64(binary.LittleEndian.Uint32(table))
		if size < certificateHeader || size > int64(len(table)) {
			return nil, fmt.Errorf("a signature of %d bytes in a table of %d", size, len(table))
		}
		if binary.LittleEndian.Uint16(table[6:]) == typePKCS7 {
			out = append(out, table[certificateHeader:size])
		}
		table = table[min(int(size)+padding(int(size)), len(table)):]
	}
	return out, nil
}
