package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/journal"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// The journal is followed from where it was left, and from the boot on where
// that cannot be found.
func TestFollowJournal(t *testing.T) {
	var args [][]string
	var lines []string
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	h := Host{Root: t.TempDir(), Now: time.Now, Run: func(_ context.Context, line func(string), _ string, arg ...string) error {
		args = append(args, arg)
		for _, l := range lines {
			line(l)
		}
		return errors.New("exit status 1")
	}}
	a := &agent{Reporter: status.New(filepath.Join(h.Root, "s"), nil, log, time.Now), host: h, log: log}
	w := journal.NewWriter(h.path(journalDir), "node1")
	follow := func(said ...string) {
		t.Helper()
		lines = said
		if err := a.followJournal(t.Context(), w); err == nil {
			t.Error("that journalctl ended is not told")
		}
	}
	const entry = `{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1700000000000000","_SYSTEMD_UNIT":"kubelet.service","MESSAGE":"hello"}`
	follow(entry)
	follow("Failed to seek to cursor") // the journal of that boot is gone
	follow(entry)
	for i, want := range []string{"--boot", "--after-cursor=s=1;i=2", "--boot"} {
		if !slices.Contains(args[i], want) {
			t.Errorf("%d: journalctl %q, want %s", i, args[i], want)
		}
	}
	found, err := filepath.Glob(h.path(journalDir) + "/*/kubelet/0.log")
	if err != nil || len(found) != 1 {
		t.Fatalf("files: %q, %v", found, err)
	}
	if b, err := os.ReadFile(found[0]); err != nil || strings.Count(string(b), " hello\n") != 2 {
		t.Errorf("%q, %v", b, err)
	}
	// A disk that is full ends it, rather than losing lines.
	if err := os.RemoveAll(h.path(journalCursor)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(h.path(journalCursor)+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	lines = []string{entry}
	if err := a.followJournal(t.Context(), w); err == nil || strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("a cursor that cannot be kept: %v", err)
	}
}
