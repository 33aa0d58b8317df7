package install

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Unix(1700000000, 0)

func logOf(t testing.TB, whats ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "audit.log")
	for _, w := range whats {
		if err := AppendAudit(name, noon, Event{What: w, From: 1, To: 2, Reason: "because"}); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// grown is a log with one line more, made without a disk.
func grown(t testing.TB, b []byte, what string) []byte {
	t.Helper()
	l, err := nextLine(bytes.NewReader(b), int64(len(b)), noon, Event{What: what})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(b, l)
}

func TestAudit(t *testing.T) {
	name := logOf(t, "one", "two", "three")
	good := mustRead(t, name)
	var got []string
	err := ReadAudit(name, func(l Line) error { got = append(got, l.What); return nil })
	if err != nil || strings.Join(got, " ") != "one two three" {
		t.Fatalf("%v, %v", got, err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	for what, bad := range map[string][]byte{
		"changed":   bytes.Replace(good, []byte("one"), []byte("own"), 1),
		"taken out": bytes.Join([][]byte{lines[0], lines[2]}, nil),
		"headless":  bytes.Join(lines[1:], nil),
		"swapped":   bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil),
		"twice":     bytes.Join([][]byte{lines[0], lines[0]}, nil),
		"put in":    bytes.Join([][]byte{lines[0], []byte("x\n"), lines[1]}, nil),
		"no torn":   bytes.Replace(good, []byte(`"what":"two"`), []byte(`"torn":true,"what":"two"`), 1),
		"too long":  append(bytes.Clone(good), bytes.Repeat([]byte("x"), 2*maxLine)...),
	} {
		if err := VerifyAudit(bytes.NewReader(bad)); err == nil || errors.Is(err, ErrTorn) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// Power goes at every byte of a line, and again at every byte of the one that
// says so.
func TestATornLineIsMarked(t *testing.T) {
	whole := mustRead(t, logOf(t, "one", "two"))
	firstLine := bytes.IndexByte(whole, '\n') + 1
	for cut := 1; cut < len(whole); cut++ {
		if err := VerifyAudit(bytes.NewReader(whole[:cut])); cut != firstLine && !errors.Is(err, ErrTorn) {
			t.Fatalf("cut at %d: got %v", cut, err)
		}
		b := grown(t, whole[:cut], "after")
		torn := cut != firstLine && cut != firstLine-1 && cut != len(whole)-1 // those lack their newline at most
		if err := VerifyAudit(bytes.NewReader(b)); err != nil || bytes.Contains(b, []byte(`"torn":true`)) != torn {
			t.Fatalf("cut at %d: got %v\n%s", cut, err, b)
		}
		for again := cut + 1; again < len(b); again++ {
			b := grown(t, b[:again], "again")
			if err := VerifyAudit(bytes.NewReader(b)); err != nil {
				t.Fatalf("cut at %d and %d: got %v\n%s", cut, again, err, b)
			}
			// What came before the torn lines is still held by the chain.
			if firstLine < cut {
				if err := VerifyAudit(bytes.NewReader(bytes.Replace(b, []byte("one"), []byte("own"), 1))); err == nil {
					t.Fatal("a change was not seen")
				}
			}
		}
	}
}

func TestAuditBounds(t *testing.T) {
	name := logOf(t, "one")
	if err := AppendAudit(name, noon, Event{What: "long", Reason: strings.Repeat("\xff<", maxLine)}); err != nil {
		t.Fatal(err)
	}
	if err := AppendAudit(name, noon, Event{What: "last"}); err != nil {
		t.Fatal(err)
	}
	if err := VerifyAudit(bytes.NewReader(mustRead(t, name))); err != nil {
		t.Error(err)
	}
	mustWrite(t, name, bytes.Repeat([]byte("x\n"), maxTail))
	if err := AppendAudit(name, noon, Event{What: "more"}); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("appended to no log: %v", err)
	}
}

func FuzzAudit(f *testing.F) {
	good, err := os.ReadFile(logOf(f, "one", "two"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-5])
	f.Add([]byte("x\n\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := VerifyAudit(bytes.NewReader(b))
		if err != nil && !errors.Is(err, ErrTorn) {
			return
		}
		// What is good, or torn at the end only, goes on.
		l, err := nextLine(bytes.NewReader(b), int64(len(b)), noon, Event{What: "next"})
		if err != nil && len(b) > maxTail/2 {
			return
		}
		if err == nil {
			err = VerifyAudit(bytes.NewReader(slices.Concat(b, l)))
		}
		if err != nil {
			t.Errorf("%v\n%q", err, b)
		}
	})
}
