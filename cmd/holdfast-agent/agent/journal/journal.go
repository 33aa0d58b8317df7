// Package journal turns journalctl's JSON into files as containerd writes them
// for containers, so that whatever reads those can read the node's journal too:
// DIR/JOURNAL_NODE_UID/UNIT/0.log. No namespace of a cluster has that name.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// Namespace stands where others have that of their pod.
	Namespace = "JOURNAL"

	uid       = "00000000-0000-0000-0000-000000000000" // who reads wants one
	mostBytes = 2 << 20                                // of a file; then it is put aside, in the place of the one before
	mostUnits = 64                                     // that have files of their own; the rest share one
	others    = "others"
	unknown   = "unknown"
)

// Writer has the files. It is for one goroutine.
type Writer struct {
	dir   string
	files map[string]*file
}

type file struct {
	*os.File
	size int64
}

// NewWriter writes below dir, for the node of that name.
func NewWriter(dir, node string) *Writer {
	return &Writer{filepath.Join(dir, Namespace+"_"+node+"_"+uid), map[string]*file{}}
}

// entry is what journalctl prints of one.
type entry struct {
	Cursor   string          `json:"__CURSOR"`
	Time     string          `json:"__REALTIME_TIMESTAMP"` // microseconds
	Message  json.RawMessage `json:"MESSAGE"`              // a string, or bytes as numbers; null if it is too long
	Unit     json.RawMessage `json:"_SYSTEMD_UNIT"`        // a string; a list if a message has several
	Identity json.RawMessage `json:"SYSLOG_IDENTIFIER"`
}

// Write writes one entry, and returns its cursor: where to go on behind it. A
// line that is none is left out.
func (w *Writer) Write(line []byte) (cursor string, err error) {
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		return "", nil // journalctl's own words
	}
	us, err := strconv.ParseInt(e.Time, 10, 64)
	if err != nil {
		return e.Cursor, nil
	}
	at := time.UnixMicro(us).UTC()
	f, err := w.file(unitOf(e), at)
	if err != nil {
		return "", err
	}
	for text := range strings.Lines(textOf(e.Message)) {
		n, err := fmt.Fprintf(f, "%s stdout F %s\n", at.Format(time.RFC3339Nano), strings.TrimRight(text, "\n"))
		f.size += int64(n)
		if err != nil {
			return "", fmt.Errorf("cannot write the journal: %w", err)
		}
	}
	return e.Cursor, nil
}

var notName = regexp.MustCompile(`[^a-z0-9-]+`)

// unitOf is the name of a unit without its kind, or of what says it is none.
func unitOf(e entry) string {
	name := textOf(e.Unit)
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		name = name[:i]
	}
	if name == "" {
		name = textOf(e.Identity)
	}
	name = strings.Trim(notName.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if name == "" {
		return unknown
	}
	return name[:min(len(name), 63)]
}

// textOf reads a field.
func textOf(b json.RawMessage) string {
	var s string
	if json.Unmarshal(b, &s) == nil {
		return s
	}
	var numbers []int
	if json.Unmarshal(b, &numbers) == nil {
		var raw []byte
		for _, n := range numbers {
			raw = append(raw, byte(n))
		}
		return strings.ToValidUTF8(string(raw), "\uFFFD")
	}
	var several []string
	if json.Unmarshal(b, &several) == nil && len(several) > 0 {
		return several[0]
	}
	return ""
}

// file gives the file of a unit, which has room.
func (w *Writer) file(unit string, at time.Time) (*file, error) {
	if w.files[unit] == nil && len(w.files) >= mostUnits {
		unit = others
	}
	f := w.files[unit]
	if f != nil && f.size < mostBytes {
		return f, nil
	}
	name := filepath.Join(w.dir, unit, "0.log")
	if f != nil {
		delete(w.files, unit)
		if err := errors.Join(f.Close(), aside(name, at)); err != nil {
			return nil, fmt.Errorf("cannot put a file of the journal aside: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return nil, fmt.Errorf("cannot write the journal: %w", err)
	}
	o, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot write the journal: %w", err)
	}
	fi, err := o.Stat()
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	f = &file{o, fi.Size()}
	w.files[unit] = f
	return f, nil
}

// aside gives a file a name as the kubelet gives to those that are full, and
// removes the one that had been put aside before.
func aside(name string, at time.Time) error {
	before, err := filepath.Glob(name + ".*")
	if err != nil {
		return err
	}
	for _, b := range before {
		if err := os.Remove(b); err != nil {
			return err
		}
	}
	return os.Rename(name, name+at.Format(".20060102-150405"))
}
