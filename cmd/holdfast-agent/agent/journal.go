package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/atomicfile"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/journal"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/node"
)

const (
	journalDir    = "/var/log/holdfast"
	journalCursor = "/var/lib/holdfast/journal.cursor"
	journalSave   = 5 * time.Second
	journalAgain  = 10 * time.Second
)

// keepJournal writes what units of the node say where the release's collector
// reads, until ctx ends.
func (a *agent) keepJournal(ctx context.Context, n node.Node) {
	w := journal.NewWriter(a.host.path(journalDir), n.Name)
	for ctx.Err() == nil {
		if err := a.followJournal(ctx, w); err != nil && ctx.Err() == nil {
			a.log.Error("journal", "error", err)
		}
		_ = a.host.Sleep(ctx, journalAgain)
	}
}

// followJournal goes on where it was left. Its files are not synced: a power cut
// may cost the last lines, or bring some of them again.
func (a *agent) followJournal(ctx context.Context, w *journal.Writer) error {
	from := "--boot"
	if b, err := os.ReadFile(a.host.path(journalCursor)); err == nil {
		from = "--after-cursor=" + strings.TrimSpace(string(b))
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var saved time.Time
	entries := 0
	err := a.host.Run(ctx, func(line string) {
		cursor, err := w.Write([]byte(line))
		if cursor != "" {
			entries++
		}
		if err == nil && cursor != "" && a.host.Now().Sub(saved) >= journalSave {
			saved = a.host.Now()
			err = a.saveCursor(cursor)
		}
		if err != nil {
			stop(err)
		}
	}, "/usr/bin/journalctl", "--follow", "--lines=all", "--no-pager", "--output=json",
		"--output-fields=MESSAGE,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER", from)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err == nil {
		err = errors.New("journalctl ended")
	}
	if entries == 0 {
		// A cursor that the journal has no more must not keep the rest back.
		err = errors.Join(err, os.RemoveAll(a.host.path(journalCursor)))
	}
	return err
}

func (a *agent) saveCursor(c string) error {
	name := a.host.path(journalCursor)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(name, []byte(c+"\n"), 0o644)
}
