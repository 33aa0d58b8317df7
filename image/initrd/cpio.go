package initrd

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"holdfast.dev/holdfast/image/rootfs"
)

// WriteCPIO writes t as the kernel's initramfs format: cpio "newc", all files
// owned by root, numbered in the tree's order. The kernel's buffer-format.rst
// is the reference; extended attributes have no place in it and are left out.
func WriteCPIO(w io.Writer, t *rootfs.Tree) error {
	c := &cpioWriter{w: bufio.NewWriterSize(w, 1<<16)}
	for _, f := range t.Files() {
		if err := c.file(f); err != nil {
			return fmt.Errorf("cannot write /%s to the initrd: %w", f.Path, err)
		}
	}
	if err := c.header(rootfs.File{Path: "TRAILER!!!"}, 0, 0); err != nil {
		return fmt.Errorf("cannot write the initrd: %w", err)
	}
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("cannot write the initrd: %w", err)
	}
	return nil
}

type cpioWriter struct {
	w     *bufio.Writer
	n     int64 // bytes written
	inode uint32
}

func (c *cpioWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (c *cpioWriter) file(f rootfs.File) error {
	c.inode++
	size := f.Size()
	if f.Type() == rootfs.TypeSymlink {
		size = int64(len(f.Target))
	}
	if size > math.MaxUint32 {
		return fmt.Errorf("%d bytes: the format ends at 4 GiB", size)
	}
	if f.MTime < 0 || f.MTime > math.MaxUint32 {
		return fmt.Errorf("time %d: the format has 32 bits", f.MTime)
	}
	if err := c.header(f, c.inode, size); err != nil {
		return err
	}
	switch f.Type() {
	case rootfs.TypeSymlink:
		if _, err := io.WriteString(c, f.Target); err != nil {
			return err
		}
	case rootfs.TypeRegular:
		r, err := f.Open()
		if err != nil {
			return err
		}
		n, err := io.Copy(c, io.LimitReader(r, size))
		r.Close()
		if err != nil {
			return err
		}
		if n != size {
			return fmt.Errorf("%d bytes where %d were announced: %w", n, size, io.ErrUnexpectedEOF)
		}
	}
	return c.pad()
}

func (c *cpioWriter) header(f rootfs.File, inode uint32, size int64) error {
	links := 1
	if f.IsDir() {
		links = 2
	}
	_, err := fmt.Fprintf(c, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		inode, f.Mode, 0, 0, links, f.MTime, size, 0, 0, f.Major, f.Minor, len(f.Path)+1, 0, f.Path)
	if err != nil {
		return err
	}
	return c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *cpioWriter) pad() error {
	_, err := c.Write(make([]byte, (4-c.n%4)%4))
	return err
}

// Compress copies r to w in zstd, the same bytes for the same input.
func Compress(w io.Writer, r io.Reader) error {
	// One block at a time, since a concurrent encoder is free to cut
	// its input elsewhere. The window stays within what kernels allow.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return fmt.Errorf("cannot compress the initrd: %w", err)
	}
	if _, err := io.Copy(z, r); err != nil {
		return fmt.Errorf("cannot compress the initrd: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("cannot compress the initrd: %w", err)
	}
	return nil
}
