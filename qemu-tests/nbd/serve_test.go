package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// offered is a disk on a socket in a directory with a path too long for one,
// and the address by which a program that runs there reaches it.
func offered(t *testing.T, o Options) (d *Disk, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d = open(t, newBase(t), filepath.Join(dir, "disk"), o)
	if err := d.Listen(filepath.Join(dir, "sock")); err != nil {
		t.Fatal(err)
	}
	return d, dir
}

const address = "nbd+unix:///?socket=sock"

func run(t *testing.T, dir string, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestQEMU has QEMU's own client use the disk.
func TestQEMU(t *testing.T) {
	d, dir := offered(t, Options{Size: testSize})
	info := run(t, dir, "qemu-img", "info", "--output=json", address)
	if !strings.Contains(info, `"virtual-size": 9437184`) {
		t.Error(info)
	}
	out := run(t, dir, "qemu-io", "-f", "raw", "-t", "writeback", address,
		"-c", "write -P 0x11 0 64k", "-c", "flush",
		"-c", "write -P 0x22 512 1k", "-c", "write -f -P 0x33 2M 512",
		"-c", "write -z 1M 100k", "-c", "discard 3M 64k",
		"-c", "read -P 0x22 512 1k", "-c", "read -P 0x11 1536 2k", "-c", "read -P 0 1M 100k")
	if strings.Contains(out, "ailed") || strings.Contains(out, "rror") {
		t.Error(out)
	}
	run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "raw", address, "copy")
	copied, err := os.ReadFile(filepath.Join(dir, "copy"))
	if err != nil || !bytes.Equal(copied, contents(t, d)) {
		t.Error("qemu-img reads another disk", err)
	}
}

// TestQEMUCut cuts the power under QEMU's client.
func TestQEMUCut(t *testing.T) {
	d, dir := offered(t, Options{Size: testSize})
	base := d.durable.base.name
	// A client that ends in peace flushes; one that is killed does not.
	cmd := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", "-t", "writeback", address,
		"-c", "write -P 0x11 0 64k", "-c", "flush", "-c", "write -P 0x22 0 64k", "-c", "write -P 0x33 1M 512", "-c", "sleep 60000")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	for i := 0; d.Ops() < 4; i++ {
		if i == 500 {
			t.Fatal("the writes do not arrive")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := d.Cut(KeepNone); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	_ = cmd.Wait() // killed, so an error
	if _, err := os.Stat(filepath.Join(dir, "sock")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is still there:", err)
	}
	d = open(t, base, filepath.Join(dir, "disk"), Options{})
	b := contents(t, d)
	if !bytes.Equal(b[:64<<10], bytes.Repeat([]byte{0x11}, 64<<10)) {
		t.Error("what was flushed is not there")
	}
	if b[1<<20] != 0 {
		t.Error("what was not flushed is there")
	}
}

// client does the handshake by EXPORT_NAME, which QEMU no longer uses.
func client(t *testing.T, dir string) net.Conn {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/sock", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	hello := make([]byte, 18)
	if _, err := io.ReadFull(c, hello); err != nil || string(hello[:8]) != "NBDMAGIC" || string(hello[8:16]) != "IHAVEOPT" {
		t.Fatalf("%q, %v", hello, err)
	}
	c.Write(append([]byte{0, 0, 0, 3}, optionBytes(optExportName, nil)...))
	export := make([]byte, 10)
	if _, err := io.ReadFull(c, export); err != nil || binary.BigEndian.Uint64(export) != testSize {
		t.Fatalf("%x, %v", export, err)
	}
	return c
}

func optionBytes(code uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, code)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

func requestBytes(flags, command uint16, off uint64, n uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, 4711)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, off), n)
}

func TestBadRequests(t *testing.T) {
	_, dir := offered(t, Options{Size: testSize})
	c := client(t, dir)
	for _, r := range []struct {
		flags, command uint16
		off            uint64
		n              uint32
		want           uint32
	}{
		{0, cmdRead, testSize - Sector, Sector, 0},
		{0, cmdRead, testSize, Sector, errInval},
		{0, cmdRead, 1<<64 - Sector, Sector, errInval},
		{0, cmdRead, 0, maxPayload + Sector, errInval},
		{0, cmdRead, 1, Sector, errInval},
		{0, cmdTrim, 0, 1, errInval},
		{0, cmdTrim, Sector, 1<<32 - Sector, errInval},
		{0, cmdWriteZeroes, testSize, Sector, errNoSpace},
		{0, cmdWrite, testSize, Sector, errNoSpace},
		{0x80, cmdFlush, 0, 0, errInval},
		{0, 7, 0, 0, errNotSup},
		{0, 0xffff, 0, 0, errNotSup},
		{0, cmdFlush, 0, 0, 0},
	} {
		b := requestBytes(r.flags, r.command, r.off, r.n)
		if r.command == cmdWrite {
			b = append(b, make([]byte, r.n)...)
		}
		c.Write(b)
		reply := make([]byte, 16)
		if _, err := io.ReadFull(c, reply); err != nil {
			t.Fatal(err)
		}
		got := binary.BigEndian.Uint32(reply[4:])
		if got != r.want || binary.BigEndian.Uint64(reply[8:]) != 4711 {
			t.Errorf("%+v: error %d", r, got)
		}
		if r.command == cmdRead && got == 0 {
			io.CopyN(io.Discard, c, int64(r.n))
		}
	}
	c.Write(requestBytes(0, cmdWrite, 0, maxPayload+1))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("a write too long for memory was not hung up on")
	}
}

// FuzzSession feeds a session anything; it must end, and touch nothing beyond
// its disk.
func FuzzSession(f *testing.F) {
	start := append([]byte{0, 0, 0, 3}, optionBytes(optList, nil)...)
	goData := []byte{0, 0, 0, 0, 0, 1, 0, 3}
	f.Add(append(append(bytes.Clone(start), optionBytes(optGo, goData)...), requestBytes(0, cmdRead, 0, 4096)...))
	f.Add(append(append(bytes.Clone(start), optionBytes(optGo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0})...), optionBytes(optAbort, nil)...))
	f.Add(append(append(append(bytes.Clone(start), optionBytes(optExportName, nil)...), requestBytes(1, cmdWrite, 0, 512)...), make([]byte, 512)...))
	f.Add(append(append(bytes.Clone(start), optionBytes(optExportName, nil)...), requestBytes(0, cmdWriteZeroes, 512, 1<<31)...))
	base := newBase(f)
	d := open(f, base, filepath.Join(f.TempDir(), "disk"), Options{Size: testSize})
	f.Fuzz(func(t *testing.T, in []byte) {
		_ = d.session(&script{in: bytes.NewReader(in)}) // any error is right
		if len(d.pending) > 100 {
			d.Do(Op{Kind: Flush}, nil)
		}
	})
}

// script is a connection whose client has said all already.
type script struct {
	net.Conn
	in *bytes.Reader
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { return len(p), nil }
func (s *script) SetDeadline(time.Time) error { return nil }

func FuzzParse(f *testing.F) {
	f.Add(requestBytes(1, cmdTrim, 512, 512), int64(testSize))
	f.Fuzz(func(t *testing.T, in []byte, size int64) {
		parseGo(in)
		var b [28]byte
		copy(b[:], in)
		r, err := parseRequest(b)
		if err != nil || size < 0 || r.check(size) != 0 {
			return
		}
		op, changes := r.op()
		if (!changes || op.Kind != Flush) && (op.Off < 0 || op.Len < 0 || op.Off > size || op.Len > size-op.Off) {
			t.Errorf("%+v on a disk of %d passes", r, size)
		}
	})
}
