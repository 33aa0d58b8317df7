package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The log is audit.log, and audit.log.N before it, where N only grows: with
// each file that is full, audit.log becomes the highest N. Together they are
// one log, as if the files were joined, with a newline where one lacks it at its
// end.
const (
	maxLog   = 1 << 20 // bytes after which a file gets no further line; a few hundred updates
	keptLogs = 8       // files beside audit.log
)

// ReadAudit checks that the lines of the log follow from each other, through
// all its files from the oldest on, and gives each good line; those given
// before an error are good. An error wrapping ErrTorn is about the last line
// alone; one wrapping os.ErrNotExist says that there is no log yet. Once the
// oldest files were removed, what the first line of the rest follows from is
// not known.
func ReadAudit(name string, each func(Line) error) error { return readAudit(name, keptLogs, each) }

func readAudit(name string, kept int, each func(Line) error) error {
	files, err := openAudit(name)
	if err != nil {
		return fmt.Errorf("cannot read the audit log: %w", err)
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	full := len(files)
	if files[full-1].Name() == name {
		full--
	}
	c := chain{each: each, cut: files[0].number > 1}
	for i, f := range files {
		// Only those are removed that are more than kept.
		if i == 0 && c.cut && full < kept || i > 0 && f.number != files[i-1].number+1 {
			return fmt.Errorf("cannot verify the audit log: files before %s are missing\nhint: the log was changed, or is damaged; compare it with a copy kept elsewhere", filepath.Base(f.Name()))
		}
		if err := c.read(io.LimitReader(f, f.size), i == len(files)-1); err != nil {
			return fmt.Errorf("cannot verify the audit log: %s: %w", filepath.Base(f.Name()), err)
		}
	}
	return nil
}

// logFile is a file of the log, open.
type logFile struct {
	*os.File
	number int   // audit.log has the one after the highest
	size   int64 // when it was opened
}

// openAudit opens the files of the log as they are at one moment, the oldest
// first. There is at least one.
func openAudit(name string) (files []logFile, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	// While it is locked, no file is moved; who prints slowly holds no lock.
	current, err := lockAudit(name, os.O_RDONLY, syscall.LOCK_SH)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	missing := err
	numbers, err := numbered(name)
	if err != nil {
		if current != nil {
			current.Close()
		}
		return nil, err
	}
	add := func(f *os.File, n int) error {
		size, err := f.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		files = append(files, logFile{f, n, size})
		return err
	}
	next := 1
	for _, n := range numbers {
		f, err := os.Open(numberedName(name, n))
		if err == nil {
			err = add(f, n)
		}
		if err != nil {
			if current != nil {
				current.Close()
			}
			return files, err
		}
		next = n + 1
	}
	if current == nil { // power went before the new file was there
		if len(files) == 0 {
			return nil, missing
		}
		return files, nil
	}
	if err := add(current, next); err != nil {
		return files, err
	}
	return files, syscall.Flock(int(current.Fd()), syscall.LOCK_UN)
}

func numberedName(name string, n int) string { return name + "." + strconv.Itoa(n) }

// numbered are the numbers of the files before audit.log, rising.
func numbered(name string) ([]int, error) {
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(name)+".")
		if n, err := strconv.Atoi(suffix); ok && err == nil && n > 0 && strconv.Itoa(n) == suffix {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// lockAudit opens and locks audit.log; the file that it returns still has that
// name.
func lockAudit(name string, flag, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, flag, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), how); err != nil {
			f.Close()
			return nil, err
		}
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if there, err := os.Stat(name); err == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close() // another process moved it meanwhile
	}
}

// rotate gives audit.log its number when it is full, and removes the oldest
// files beyond those that are kept. Power may go anywhere: a line that begins a
// file finds what it follows from in the file with the highest number, and what
// was to be removed is removed with the next line.
func rotate(name string, most int64, kept int) error {
	f, err := lockAudit(name, os.O_RDONLY, syscall.LOCK_EX)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	numbers, err := numbered(name)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size >= most {
		next := 1
		if len(numbers) > 0 {
			next = numbers[len(numbers)-1] + 1
		}
		if err := os.Rename(name, numberedName(name, next)); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(name)); err != nil {
			return err
		}
		numbers = append(numbers, next)
	}
	for _, n := range numbers[:max(0, len(numbers)-kept)] {
		if err := os.Remove(numberedName(name, n)); err != nil {
			return err
		}
	}
	return nil
}

// joined is what a line appended to f, audit.log of that size, may have to name:
// f, and where that holds no whole line for certain the end of the file before.
func joined(f io.ReaderAt, size int64, name string) (*io.SectionReader, error) {
	if size > maxTail {
		return io.NewSectionReader(f, 0, size), nil
	}
	numbers, err := numbered(name)
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return io.NewSectionReader(f, 0, size), nil
	}
	old, err := os.Open(numberedName(name, numbers[len(numbers)-1]))
	if err != nil {
		return nil, err
	}
	defer old.Close()
	end, err := old.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	// One byte more than is looked at, so that it is seen to be cut.
	b := make([]byte, min(end, maxTail+1), maxTail+2+size)
	if _, err := old.ReadAt(b, end-int64(len(b))); err != nil {
		return nil, err
	}
	if size > 0 && len(b) > 0 && !bytes.HasSuffix(b, []byte("\n")) {
		b = append(b, '\n')
	}
	mine := make([]byte, size)
	if _, err := f.ReadAt(mine, 0); err != nil && size > 0 {
		return nil, err
	}
	b = append(b, mine...)
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), nil
}
