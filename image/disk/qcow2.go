package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// The qcow2 format is described in QEMU's docs/interop/qcow2.txt.
const (
	clusterBits    = 16
	clusterSize    = int64(1) << clusterBits
	perTable       = clusterSize / 8 // entries of an L1, L2 or refcount table in a cluster
	perRefcounts   = clusterSize / 2 // 16-bit counts in a cluster
	flagCopied     = uint64(1) << 63 // of a cluster with one reference
	qcow2Header    = 104
	refcountOrder  = 4 // 16 bits
	qcow2Version   = 3
	maxQcow2L1Size = 1 << 16
)

// WriteQcow2 makes a qcow2 image (version 3, not compressed) at dst of the raw
// image at rawPath. What is a hole or zero there is not allocated.
func WriteQcow2(dst, rawPath string) error {
	raw, err := os.Open(rawPath)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", dst, err)
	}
	defer raw.Close()
	return create(dst, func(f *os.File) error { return writeQcow2(f, raw) })
}

func writeQcow2(f, raw *os.File) error {
	fi, err := raw.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if size <= 0 || size%sectorSize != 0 || size > maxQcow2L1Size*perTable*clusterSize {
		return fmt.Errorf("a raw image of %d bytes", size)
	}
	w := qcow2{f: f, used: 1, l2: make([]uint64, alignUp(alignUp(size, clusterSize)/clusterSize, perTable))}
	if err := w.copyData(raw, size); err != nil {
		return err
	}
	return w.finish(size)
}

// qcow2 is an image being written: data first, as it comes, then the tables.
type qcow2 struct {
	f    *os.File
	used int64    // clusters so far, the header's included
	l2   []uint64 // where each of the guest's clusters lies, 0 if nowhere
}

func (w *qcow2) copyData(raw *os.File, size int64) error {
	buf := make([]byte, clusterSize)
	next := int64(0) // a cluster may be part of two extents
	return eachExtent(raw, size, func(from, to int64) error {
		from = max(from/clusterSize*clusterSize, next)
		to = min(alignUp(to, clusterSize), size)
		next = max(next, alignUp(to, clusterSize))
		return eachPiece(raw, from, to, buf, func(p []byte, at int64) error {
			if isZero(p) {
				return nil
			}
			w.l2[at/clusterSize] = uint64(w.used*clusterSize) | flagCopied
			return w.append(p)
		})
	})
}

// append writes p into clusters of its own.
func (w *qcow2) append(p []byte) error {
	if _, err := w.f.WriteAt(p, w.used*clusterSize); err != nil {
		return err
	}
	w.used += alignUp(int64(len(p)), clusterSize) / clusterSize
	return nil
}

// appendTable writes a table of big-endian entries.
func (w *qcow2) appendTable(entries []uint64) error {
	b := make([]byte, 0, len(entries)*8)
	for _, e := range entries {
		b = binary.BigEndian.AppendUint64(b, e)
	}
	return w.append(b)
}

func (w *qcow2) finish(size int64) error {
	l1 := make([]uint64, int64(len(w.l2))/perTable)
	for i := range l1 {
		table := w.l2[int64(i)*perTable : int64(i+1)*perTable]
		empty := true
		for _, e := range table {
			empty = empty && e == 0
		}
		if empty {
			continue
		}
		l1[i] = uint64(w.used*clusterSize) | flagCopied
		if err := w.appendTable(table); err != nil {
			return err
		}
	}
	l1At := w.used * clusterSize
	if err := w.appendTable(l1); err != nil {
		return err
	}
	refcountsAt, refcountClusters, err := w.appendRefcounts()
	if err != nil {
		return err
	}
	be := binary.BigEndian
	h := make([]byte, qcow2Header+8) // an empty extension ends the header
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], qcow2Version)
	be.PutUint32(h[20:], clusterBits)
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], uint32(len(l1)))
	be.PutUint64(h[40:], uint64(l1At))
	be.PutUint64(h[48:], uint64(refcountsAt))
	be.PutUint32(h[56:], uint32(refcountClusters))
	be.PutUint32(h[96:], refcountOrder)
	be.PutUint32(h[100:], qcow2Header)
	_, err = w.f.WriteAt(h, 0)
	return errors.Join(err, w.f.Truncate(w.used*clusterSize))
}

// appendRefcounts writes a count of one for each cluster, those of the counts
// themselves included.
func (w *qcow2) appendRefcounts() (at, tableClusters int64, err error) {
	blocks, tables := int64(0), int64(0)
	for {
		b := alignUp(w.used+blocks+tables, perRefcounts) / perRefcounts
		t := alignUp(b, perTable) / perTable
		if b == blocks && t == tables {
			break
		}
		blocks, tables = b, t
	}
	total := w.used + blocks + tables
	table := make([]uint64, tables*perTable)
	for i := range blocks {
		table[i] = uint64(w.used * clusterSize)
		b := make([]byte, clusterSize)
		for j := range min(perRefcounts, total-i*perRefcounts) {
			binary.BigEndian.PutUint16(b[j*2:], 1)
		}
		if err := w.append(b); err != nil {
			return 0, 0, err
		}
	}
	at = w.used * clusterSize
	return at, tables, w.appendTable(table)
}
