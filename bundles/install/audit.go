package install

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Line is a line of the audit log. Each names the SHA-256 of the line before,
// so that no line can be changed, taken out or put in without the ones after
// it. That lines are missing at the end, the log itself cannot show. A log that
// has grown goes on in a new file, whose first line names the last one of the
// file before; see ReadAudit.
type Line struct {
	Time time.Time `json:"time"`
	// Prev is the hash of all bytes from the last whole line on to this one,
	// without the newline before it: of that line, if none is torn. In the very
	// first line it is all 0.
	Prev string `json:"prev"`
	// Torn says that what is before is not whole: power went while it was
	// written.
	Torn bool `json:"torn,omitempty"`
	Event
}

const (
	maxLine   = 16 << 10
	maxTail   = 64 << 10 // bytes of the last whole line and torn ones after it
	maxReason = 2 << 10  // bytes of a reason that are kept
)

// ErrTorn is wrapped by the error about a log whose last line is not whole and
// that is good before it. The next AppendAudit marks it.
var ErrTorn = errors.New("torn")

var noLine = hex.EncodeToString(make([]byte, sha256.Size))

// AppendAudit adds a line to the log, and returns when it is on disk.
func AppendAudit(name string, now time.Time, e Event) error {
	if err := appendAudit(name, now, e, maxLog, keptLogs); err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}

func appendAudit(name string, now time.Time, e Event, most int64, kept int) error {
	if err := rotate(name, most, kept); err != nil {
		return err
	}
	f, err := lockAudit(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	before, err := joined(f, size, name)
	if err != nil {
		return err
	}
	b, err := nextLine(before, before.Size(), now, e)
	if err != nil {
		return err
	}
	if size == 0 { // what the file before lacks is not for this one
		b = bytes.TrimPrefix(b, []byte("\n"))
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || size > 0 {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// nextLine is what is appended to a log of that size.
func nextLine(r io.ReaderAt, size int64, now time.Time, e Event) ([]byte, error) {
	last, torn, err := tail(r, size)
	if err != nil {
		return nil, err
	}
	l := Line{Time: now.UTC(), Prev: noLine, Torn: torn, Event: e}
	l.What, l.Reason, l.Index = cutText(e.What, maxReason/16), cutText(e.Reason, maxReason), cutText(e.Index, maxReason/16)
	if size > 0 {
		l.Prev = lineHash(bytes.TrimSuffix(last, []byte("\n")))
	}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	if size > 0 && !bytes.HasSuffix(last, []byte("\n")) {
		b = append([]byte{'\n'}, b...)
	}
	return append(b, '\n'), nil
}

// tail is the last whole line of a log of that size, with what is torn after it.
func tail(r io.ReaderAt, size int64) (last []byte, torn bool, err error) {
	b := make([]byte, min(size, maxTail))
	if n, err := r.ReadAt(b, size-int64(len(b))); n < len(b) {
		return nil, false, errors.Join(err, io.ErrUnexpectedEOF)
	}
	for end := len(b); end > 0; {
		begin := bytes.LastIndexByte(bytes.TrimSuffix(b[:end], []byte("\n")), '\n') + 1
		if begin == 0 && int64(len(b)) < size {
			break // cut here, not there
		}
		if _, err := parseLine(bytes.TrimSuffix(b[begin:end], []byte("\n"))); err == nil {
			return b[begin:], torn, nil
		}
		torn, end = true, begin
	}
	if int64(len(b)) < size {
		return nil, false, fmt.Errorf("its last %d bytes have no whole line\nhint: keep the file elsewhere, and remove it", len(b))
	}
	return b, torn, nil
}

func lineHash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

func cutText(s string, limit int) string {
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}

// parseLine reads a line that is whole.
func parseLine(b []byte) (Line, error) {
	var l Line
	if len(b) > maxLine {
		return l, fmt.Errorf("more than %d bytes", maxLine)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, err
	}
	if !hashForm.MatchString(l.Prev) || l.What == "" || l.Time.IsZero() {
		return l, errors.New("no line of an audit log")
	}
	return l, nil
}

// VerifyAudit reads a log of one file to its end, and checks that its lines
// follow from each other. An error wrapping ErrTorn is about the last line alone.
func VerifyAudit(r io.Reader) error {
	if err := (&chain{each: func(Line) error { return nil }}).read(r, true); err != nil {
		return fmt.Errorf("cannot verify the audit log: %w", err)
	}
	return nil
}

// chain checks lines, which may lie in several files one after another.
type chain struct {
	cut    bool   // the files before the first are gone, and what that follows from
	before []byte // the last whole line, and what is torn after it
	torn   bool
	each   func(Line) error // is given the good lines; those before an error are good
}

// read reads one more file, to its end. Memory does not grow with it. In the last
// file, nothing may be torn at its end.
func (c *chain) read(r io.Reader, last bool) error {
	in := bufio.NewReaderSize(r, maxLine+2)
	for n := 1; ; n++ {
		fail := func(err error) error { return fmt.Errorf("line %d: %w", n, err) }
		b, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF && len(b) == 0 && (!c.torn || !last):
			return nil
		case err == io.EOF && len(b) == 0:
			n--
			return fail(fmt.Errorf("%w: it is not whole", ErrTorn))
		case err == bufio.ErrBufferFull:
			return fail(fmt.Errorf("more than %d bytes", maxLine))
		case err != nil && err != io.EOF:
			return fmt.Errorf("cannot read it: %w", err)
		}
		// The line that would have ended it begins another file.
		end := err == io.EOF && !last
		l, bad := parseLine(bytes.TrimSuffix(b, []byte("\n")))
		if bad == nil {
			if bad := follows(l, c.before, c.torn); bad != nil && !c.cut {
				return fail(bad)
			}
			if err := c.each(l); err != nil {
				return err
			}
			c.before, c.torn, c.cut = append(c.before[:0], b...), false, false
		} else {
			c.before, c.torn = append(c.before, b...), true
		}
		if end {
			c.before = append(c.before, '\n')
			return nil
		}
		if len(c.before) > maxTail {
			return fail(fmt.Errorf("more than %d bytes without a whole line: %w", maxTail, bad))
		}
		if err == io.EOF {
			return fail(fmt.Errorf("%w: it has no end", ErrTorn))
		}
	}
}

// follows checks that a line names what is before it.
func follows(l Line, before []byte, torn bool) error {
	want := noLine
	if len(before) > 0 {
		want = lineHash(bytes.TrimSuffix(before, []byte("\n")))
	}
	if l.Prev != want {
		return errors.New("it does not follow from the line before\nhint: the log was changed, or is damaged; compare it with a copy kept elsewhere")
	}
	if l.Torn != torn {
		return fmt.Errorf("it says of the line before that torn is %v; that is not so", l.Torn)
	}
	return nil
}
