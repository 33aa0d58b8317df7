package status_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

type console struct{ bytes.Buffer }

func (*console) Close() error { return nil }

func TestReporter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "status.json")
	var c console
	clock := time.Unix(100, 0).UTC()
	r := status.New(file, func() (io.WriteCloser, error) { return &c, nil }, slog.New(slog.DiscardHandler), func() time.Time { clock = clock.Add(time.Second); return clock })
	r.Phase(status.Network)
	since := r.Get().Since
	if err := r.Step("try", func() error { return errors.New("no") }); err == nil {
		t.Error("the error was lost")
	}
	if err := r.Step("do", func() error { return nil }); err != nil {
		t.Error(err)
	}
	r.Say("two\nlines\x1b[2J\u009b\r")
	if got := c.String(); got != "holdfast: do: done in 1.0 s\nholdfast: two\nholdfast: lines?[2J??\n" {
		t.Errorf("the console shows %q", got)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s status.Status
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.Phase != status.Network || !s.Since.Equal(since) || len(s.Timings) != 1 || s.Timings[0] != (status.Timing{Step: "do", Seconds: 1}) || s.Faults == nil {
		t.Errorf("%s", b)
	}
	if es, err := os.ReadDir(filepath.Dir(file)); err != nil || len(es) != 1 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}
