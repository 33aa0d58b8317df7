package agent

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

func TestBackupDue(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	ago := func(h int) *status.Backup { return &status.Backup{Time: now.Add(-time.Duration(h) * time.Hour)} }
	for _, c := range []struct {
		name         string
		phase        string
		last         *status.Backup
		due, overdue bool
	}{
		{"the first", status.Healthy, nil, true, false},
		{"none while it starts", status.EngineUp, nil, false, false},
		{"not yet", status.Healthy, ago(23), false, false},
		{"a day later", status.Healthy, ago(24), true, false},
		{"one component is down", status.Degraded, ago(24), true, false},
		{"two days later", status.Healthy, ago(48), true, true},
		{"long off", status.Refused, ago(48), false, true},
		{"the clock was wrong", status.Healthy, ago(-5), true, false},
	} {
		due, overdue := backupDue(node.Backups{EveryHours: 24, Keep: 7}, status.Status{Phase: c.phase, Backup: c.last}, now)
		if due != c.due || overdue != c.overdue {
			t.Errorf("%s: due %v, overdue %v", c.name, due, overdue)
		}
	}
}

// The oldest go, of this site alone, and what did not come to its end.
func TestDropBackups(t *testing.T) {
	dir := t.TempDir()
	stay := []string{
		"demo-10-20261127T120000Z.holdfast-backup", "demo-9-20261126T120000Z.holdfast-backup",
		"demo-2-1-20200101T000000Z.holdfast-backup", // of the site demo-2
		"other-1-20200101T000000Z.holdfast-backup", "recovery.key",
	}
	for _, name := range append(slices.Clone(stay), "demo-9-20261127T120000Z.holdfast-backup.part", "demo-9-20261125T120000Z.holdfast-backup", "demo-2-20200101T000000Z.holdfast-backup") {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &agent{Reporter: status.New(filepath.Join(t.TempDir(), "s"), nil, slog.New(slog.NewTextHandler(io.Discard, nil)), time.Now)}
	if err := a.dropBackups(stick{dir}, "demo", 2); err != nil {
		t.Fatal(err)
	}
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range es {
		got = append(got, e.Name())
	}
	slices.Sort(stay)
	if !slices.Equal(got, stay) {
		t.Errorf("there are %q, want %q", got, stay)
	}
}
