package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The numbers of the protocol, as its document has them.
const (
	magicInit    = 0x4e42444d41474943 // NBDMAGIC
	magicOption  = 0x49484156454f5054 // IHAVEOPT
	magicAnswer  = 0x0003e889045565a9
	magicRequest = 0x25609513
	magicReply   = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7

	repAck        = 1
	repServer     = 2
	repInfo       = 3
	repErrUnsup   = 1<<31 + 1
	repErrInvalid = 1<<31 + 3
	repErrUnknown = 1<<31 + 6

	infoExport    = 0
	infoBlockSize = 3

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6

	cmdFlagFUA    = 1 << 0
	cmdFlagNoHole = 1 << 1

	errIO       = 5
	errInval    = 22
	errNoSpace  = 28
	errNotSup   = 95
	errShutdown = 108

	// has flags, flush, FUA, trim, write zeroes
	exportFlags = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6

	maxPayload = 32 << 20
	maxOption  = 8 << 10 // two names of the length allowed
)

var errProtocol = errors.New("the client does not keep to the protocol")

// option is the head of what a client asks for before it gets a disk.
type option struct {
	code   uint32
	length int
}

func parseOption(b [16]byte) (option, error) {
	o := option{code: binary.BigEndian.Uint32(b[8:])}
	n := binary.BigEndian.Uint32(b[12:])
	if binary.BigEndian.Uint64(b[:]) != magicOption {
		return option{}, fmt.Errorf("%w: no option", errProtocol)
	}
	if n > maxOption {
		return option{}, fmt.Errorf("%w: an option of %d bytes", errProtocol, n)
	}
	o.length = int(n)
	return o, nil
}

// parseGo takes the data of OPT_INFO and OPT_GO apart.
func parseGo(data []byte) (name string, wants []uint16, err error) {
	bad := fmt.Errorf("%w: OPT_GO is damaged", errProtocol)
	if len(data) < 4 {
		return "", nil, bad
	}
	n := uint64(binary.BigEndian.Uint32(data))
	if uint64(len(data)) < 4+n+2 {
		return "", nil, bad
	}
	name, data = string(data[4:4+n]), data[4+n:]
	count := int(binary.BigEndian.Uint16(data))
	if data = data[2:]; len(data) != 2*count {
		return "", nil, bad
	}
	for i := range count {
		wants = append(wants, binary.BigEndian.Uint16(data[2*i:]))
	}
	return name, wants, nil
}

// request is one command on the disk.
type request struct {
	flags, command uint16
	cookie         uint64
	off            uint64
	length         uint32
}

// parseRequest returns an error when nothing that follows can be understood.
func parseRequest(b [28]byte) (request, error) {
	r := request{
		flags:   binary.BigEndian.Uint16(b[4:]),
		command: binary.BigEndian.Uint16(b[6:]),
		cookie:  binary.BigEndian.Uint64(b[8:]),
		off:     binary.BigEndian.Uint64(b[16:]),
		length:  binary.BigEndian.Uint32(b[24:]),
	}
	if binary.BigEndian.Uint32(b[:]) != magicRequest {
		return request{}, fmt.Errorf("%w: no request", errProtocol)
	}
	if r.command == cmdWrite && r.length > maxPayload {
		return request{}, fmt.Errorf("%w: a write of %d bytes", errProtocol, r.length)
	}
	return r, nil
}

// check returns the error number of a request that a disk of that size cannot
// serve, else 0.
func (r request) check(size int64) uint32 {
	allowed := map[uint16]uint16{
		cmdRead: cmdFlagFUA, cmdWrite: cmdFlagFUA, cmdFlush: cmdFlagFUA,
		cmdTrim: cmdFlagFUA, cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole,
	}
	flags, known := allowed[r.command]
	switch {
	case !known:
		return errNotSup
	case r.flags&^flags != 0:
		return errInval
	case r.command == cmdFlush:
		return 0
	case r.command == cmdRead && r.length > maxPayload, r.off%Sector != 0, r.length%Sector != 0:
		return errInval
	case r.off > uint64(size) || uint64(r.length) > uint64(size)-r.off:
		if r.command == cmdWrite || r.command == cmdWriteZeroes {
			return errNoSpace
		}
		return errInval
	}
	return 0
}

// op is what a request that passed check does; a read does nothing.
func (r request) op() (Op, bool) {
	kind, ok := map[uint16]Kind{cmdWrite: Write, cmdTrim: Trim, cmdWriteZeroes: Zero, cmdFlush: Flush}[r.command]
	return Op{kind, r.flags&cmdFlagFUA != 0 && kind != Flush, int64(r.off), int64(r.length)}, ok
}
