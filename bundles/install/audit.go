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
// it. That lines are missing at the end, the log itself cannot show.
type Line struct {
	Time time.Time `json:"time"`
	// Prev is the hash of all bytes from the last whole line on to this one,
	// without the newline before it: of that line, if none is torn. In the first
	// line it is all 0.
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
	if err := appendAudit(name, now, e); err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}

func appendAudit(name string, now time.Time, e Event) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	b, err := nextLine(f, size, now, e)
	if err != nil {
		return err
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

// VerifyAudit reads a log to its end, and checks that its lines follow from
// each other. An error wrapping ErrTorn is about the last line alone.
func VerifyAudit(r io.Reader) error { return ReadAudit(r, func(Line) error { return nil }) }

// ReadAudit is VerifyAudit that gives each good line; those given before an
// error are good. Memory does not grow with the log.
func ReadAudit(r io.Reader, each func(Line) error) error {
	in := bufio.NewReaderSize(r, maxLine+2)
	var before []byte // the last whole line, and what is torn after it
	torn := false
	for n := 1; ; n++ {
		fail := func(err error) error { return fmt.Errorf("cannot verify the audit log: line %d: %w", n, err) }
		b, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF && len(b) == 0 && !torn:
			return nil
		case err == io.EOF && len(b) == 0:
			n--
			return fail(fmt.Errorf("%w: it is not whole", ErrTorn))
		case err == bufio.ErrBufferFull:
			return fail(fmt.Errorf("more than %d bytes", maxLine))
		case err != nil && err != io.EOF:
			return fmt.Errorf("cannot read the audit log: %w", err)
		}
		l, bad := parseLine(bytes.TrimSuffix(b, []byte("\n")))
		if bad == nil {
			if bad := follows(l, before, torn); bad != nil {
				return fail(bad)
			}
			if err := each(l); err != nil {
				return err
			}
			before, torn = append(before[:0], b...), false
		} else {
			before, torn = append(before, b...), true
		}
		if len(before) > maxTail {
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
