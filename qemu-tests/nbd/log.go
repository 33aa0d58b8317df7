package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A log is a header (magic, size of the disk) and a record for each operation:
// kind, 1 if FUA, six zero bytes, offset, length, all little-endian, then the
// data of a write.
const (
	logMagic   = "holdfast log 1\n\x00"
	logHeader  = len(logMagic) + 8
	recordSize = 24
)

type logWriter struct {
	f *os.File
	w *bufio.Writer
}

func createLog(name string, size int64) (*logWriter, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	l := &logWriter{f, bufio.NewWriterSize(f, 1<<20)}
	l.w.Write(binary.LittleEndian.AppendUint64([]byte(logMagic), uint64(size)))
	return l, nil // a bufio.Writer keeps its error for the next call
}

func (l *logWriter) add(op Op, data []byte) error {
	var r [recordSize]byte
	r[0] = byte(op.Kind)
	if op.FUA {
		r[1] = 1
	}
	binary.LittleEndian.PutUint64(r[8:], uint64(op.Off))
	binary.LittleEndian.PutUint64(r[16:], uint64(op.Len))
	l.w.Write(r[:])
	if _, err := l.w.Write(data); err != nil {
		return fmt.Errorf("cannot write log: %w", err)
	}
	return nil
}

func (l *logWriter) close() error { return errors.Join(l.w.Flush(), l.f.Close()) }

// Log is the record of what was done to a disk from Open to Cut or Close.
type Log struct {
	f    *os.File
	size int64
	ops  []Op
	data []int64 // where in f the data of each is
}

// OpenLog reads the operations, not their data, of a log that is complete.
func OpenLog(name string) (*Log, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	l := &Log{f: f}
	if err := l.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read log %s: %w", name, err)
	}
	return l, nil
}

func (l *Log) read() error {
	fi, err := l.f.Stat()
	if err != nil {
		return err
	}
	var head [logHeader]byte
	if _, err := l.f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	l.size = int64(binary.LittleEndian.Uint64(head[len(logMagic):]))
	if string(head[:len(logMagic)]) != logMagic || l.size < 0 || l.size > MaxSize {
		return errors.New("not a log of a disk")
	}
	for at := int64(logHeader); at < fi.Size(); {
		var r [recordSize]byte
		if _, err := l.f.ReadAt(r[:], at); err != nil {
			return fmt.Errorf("the record at %d is cut short: %w", at, err)
		}
		at += recordSize
		op := Op{Kind(r[0]), r[1] != 0, int64(binary.LittleEndian.Uint64(r[8:])), int64(binary.LittleEndian.Uint64(r[16:]))}
		if op.Kind < Write || op.Kind > Flush || r[1] > 1 || op.Off < 0 || op.Len < 0 ||
			op.Off%Sector != 0 || op.Len%Sector != 0 || op.Len > l.size || op.Off > l.size-op.Len {
			return fmt.Errorf("the record at %d is damaged", at-recordSize)
		}
		l.ops, l.data = append(l.ops, op), append(l.data, at)
		if op.Kind == Write {
			if op.Len > fi.Size()-at {
				return fmt.Errorf("the data at %d is cut short", at)
			}
			at += op.Len
		}
	}
	return nil
}

// Close closes the file; states of the log can no longer be read then.
func (l *Log) Close() error { return l.f.Close() }

// Size is the disk's, in bytes.
func (l *Log) Size() int64 { return l.size }

// Len is the number of operations.
func (l *Log) Len() int { return len(l.ops) }

// Op is the operation i, counted from 0.
func (l *Log) Op(i int) Op { return l.ops[i] }

// Data is that of operation i; only a Write has any.
func (l *Log) Data(i int) ([]byte, error) {
	if l.ops[i].Kind != Write {
		return nil, nil
	}
	b := make([]byte, l.ops[i].Len)
	if _, err := l.f.ReadAt(b, l.data[i]); err != nil {
		return nil, fmt.Errorf("cannot read log: %w", err)
	}
	return b, nil
}

// Altered is the log of a disk that does not do as it is told: of the
// operations of l those that order names, in its order, and none of them is
// durable by itself. It shares the file of l.
func (l *Log) Altered(order []int) *Log {
	a := &Log{f: l.f, size: l.size}
	for _, i := range order {
		op := l.ops[i]
		op.FUA = false
		a.ops, a.data = append(a.ops, op), append(a.data, l.data[i])
	}
	return a
}
