package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Listen offers the disk on a unix socket, under the empty name, until Cut or
// Close. The socket's path may be of any length; a client may need a shorter
// one, relative to where it runs.
func (d *Disk) Listen(socket string) error {
	l, err := listen(socket)
	if err != nil {
		return fmt.Errorf("cannot offer disk: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.durable == nil || d.serving != nil {
		err := errors.New("it is offered already")
		if d.durable == nil {
			err = ErrOff
		}
		return errors.Join(fmt.Errorf("cannot offer disk: %w", err), l.Close())
	}
	d.serving = l
	d.done.Go(func() {
		defer os.Remove(socket)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !d.admit(c) {
				c.Close()
				continue
			}
			d.done.Go(func() {
				_ = d.session(c) // a client that misbehaves loses its connection
				d.dismiss(c)
			})
		}
	})
	return nil
}

// listen goes through the directory's descriptor, for an address has 108 bytes.
func listen(socket string) (*net.UnixListener, error) {
	if fi, err := os.Lstat(socket); err == nil && fi.Mode().Type() == os.ModeSocket {
		if err := os.Remove(socket); err != nil { // of a process that was killed
			return nil, err
		}
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket))})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

func (d *Disk) admit(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.durable == nil || len(d.conns) >= 16 {
		return false
	}
	d.conns[c] = true
	return true
}

func (d *Disk) dismiss(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Close()
	delete(d.conns, c)
}

// hangUp ends all serving; the caller holds the lock.
func (d *Disk) hangUp() {
	if d.serving != nil {
		d.serving.Close()
	}
	for c := range d.conns {
		c.Close()
	}
}

// handshakeTime bounds the talk before a client has the disk.
const handshakeTime = 30 * time.Second

// session serves one client to its end.
func (d *Disk) session(c net.Conn) error {
	size := d.Size()
	if err := c.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	r, w := bufio.NewReaderSize(c, 128<<10), bufio.NewWriterSize(c, 128<<10)
	if ok, err := handshake(r, w, size); !ok || err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	var buf []byte
	for {
		var head [28]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		req, err := parseRequest(head)
		if err != nil || req.command == cmdDisc {
			return err
		}
		var payload []byte
		if req.command == cmdWrite {
			payload = make([]byte, req.length) // becomes the disk's
			if _, err := io.ReadFull(r, payload); err != nil {
				return err
			}
		}
		code := req.check(size)
		buf = buf[:0]
		if code == 0 {
			buf, code = d.perform(req, payload, buf)
		}
		var reply [16]byte
		binary.BigEndian.PutUint32(reply[0:], magicReply)
		binary.BigEndian.PutUint32(reply[4:], code)
		binary.BigEndian.PutUint64(reply[8:], req.cookie)
		w.Write(reply[:])
		if _, err := w.Write(buf); err != nil {
			return err
		}
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// perform returns what was read, in buf where it fits, or an error number.
func (d *Disk) perform(req request, payload, buf []byte) ([]byte, uint32) {
	var err error
	if op, changes := req.op(); changes {
		err = d.Do(op, payload)
	} else {
		buf = slices.Grow(buf, int(req.length))[:req.length]
		_, err = d.ReadAt(buf, int64(req.off))
	}
	switch {
	case err == nil:
		return buf, 0
	case errors.Is(err, ErrOff):
		return nil, errShutdown
	}
	return nil, errIO
}

// handshake negotiates; ok is false when the client went away in peace.
func handshake(r *bufio.Reader, w *bufio.Writer, size int64) (ok bool, err error) {
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	w.Write(hello)
	if err := w.Flush(); err != nil {
		return false, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(r, flags[:]); err != nil {
		return false, err
	}
	client := binary.BigEndian.Uint32(flags[:])
	if client&flagFixedNewstyle == 0 || client&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return false, fmt.Errorf("%w: flags %#x", errProtocol, client)
	}
	for range 64 {
		var head [16]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return false, err
		}
		o, err := parseOption(head)
		if err != nil {
			return false, err
		}
		data := make([]byte, o.length)
		if _, err := io.ReadFull(r, data); err != nil {
			return false, err
		}
		done, err := answer(w, o, data, size, client&flagNoZeroes != 0)
		if err := errors.Join(err, w.Flush()); err != nil {
			return false, err
		}
		if done {
			return o.code != optAbort, nil
		}
	}
	return false, fmt.Errorf("%w: it only asks", errProtocol)
}

// answer answers one option; done ends the negotiation.
func answer(w *bufio.Writer, o option, data []byte, size int64, noZeroes bool) (done bool, err error) {
	reply := func(kind uint32, b []byte) {
		h := binary.BigEndian.AppendUint64(nil, magicAnswer)
		h = binary.BigEndian.AppendUint32(h, o.code)
		h = binary.BigEndian.AppendUint32(h, kind)
		h = binary.BigEndian.AppendUint32(h, uint32(len(b)))
		w.Write(append(h, b...)) // a failure is seen by the Flush that follows
	}
	export := binary.BigEndian.AppendUint64(nil, uint64(size))
	export = binary.BigEndian.AppendUint16(export, exportFlags)
	switch o.code {
	case optExportName:
		if len(data) != 0 {
			return false, fmt.Errorf("%w: export %q", errProtocol, data)
		}
		w.Write(export)
		if !noZeroes {
			w.Write(make([]byte, 124))
		}
		return true, nil
	case optAbort:
		reply(repAck, nil)
		return true, nil
	case optList:
		if len(data) != 0 {
			reply(repErrInvalid, nil)
			return false, nil
		}
		reply(repServer, make([]byte, 4)) // a name of no bytes
		reply(repAck, nil)
	case optInfo, optGo:
		name, wants, err := parseGo(data)
		switch {
		case err != nil:
			reply(repErrInvalid, nil)
			return false, nil
		case name != "":
			reply(repErrUnknown, nil)
			return false, nil
		}
		reply(repInfo, append([]byte{0, infoExport}, export...))
		if slices.Contains(wants, infoBlockSize) || o.code == optGo {
			sizes := []byte{0, infoBlockSize}
			for _, n := range []uint32{Sector, 4096, maxPayload} {
				sizes = binary.BigEndian.AppendUint32(sizes, n)
			}
			reply(repInfo, sizes)
		}
		reply(repAck, nil)
		return o.code == optGo, nil
	default:
		reply(repErrUnsup, nil)
	}
	return false, nil
}
