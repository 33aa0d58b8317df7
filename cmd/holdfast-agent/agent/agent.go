// Package agent is the daemon on every node: `serve` offers the release's
// images to containerd, `run` makes of a booted machine the node that the
// release says it is.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"holdfast.dev/holdfast/airgap/serve"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

const (
	statusFile = "/run/holdfast/status.json"
	listenAt   = "127.0.0.1:5001"
)

const usage = `usage: holdfast-agent [--root DIR] COMMAND

commands:
  serve            offer the images of verified releases on ` + listenAt + `
  run              bring up this node and its platform, and keep watch
  status [--json]  print how this node is
  apply [--dry-run] [--reboot] [BUNDLE]
                   verify a bundle and update this node from it; without BUNDLE,
                   the one on the stick labelled HOLDFAST. --dry-run says what
                   would change, and how long it is likely to take; --reboot has
                   the node reboot also where only manifests and images change
  backup [--server]
                   write the state of this site onto the stick labelled HF-BACKUP,
                   or to the server that the release names
  backup credentials
                   take what the server lets this node in by from standard input,
                   as a file with aws_access_key_id and aws_secret_access_key
  audit            print the log of updates, after checking that it is whole
`

// Main runs the program and returns its exit code. machine makes the Host for
// a root directory.
func Main(ctx context.Context, args []string, machine func(root string) Host, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("holdfast-agent", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage) }
	root := fs.String("root", "/", "")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	h := machine(*root)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey {
			return slog.Attr{} // the journal has its own
		}
		return at
	}}))
	var err error
	switch cmd := fs.Arg(0); {
	case cmd == "serve" && fs.NArg() == 1:
		err = serveImages(ctx, h, log)
	case cmd == "run" && fs.NArg() == 1:
		err = run(ctx, h, log)
	case cmd == "status" && fs.NArg() == 1:
		err = printStatus(h, stdout, false)
	case cmd == "status" && fs.NArg() == 2 && fs.Arg(1) == "--json":
		err = printStatus(h, stdout, true)
	case cmd == "apply":
		return applyCommand(h, fs.Args()[1:], stdout, stderr)
	case cmd == "backup" && fs.NArg() == 1:
		err = backupCommand(h, false, stdout)
	case cmd == "backup" && fs.NArg() == 2 && fs.Arg(1) == "--server":
		err = backupCommand(h, true, stdout)
	case cmd == "backup" && fs.NArg() == 2 && fs.Arg(1) == "credentials":
		err = credentialsCommand(h, stdin, stdout)
	case cmd == "audit" && fs.NArg() == 1:
		err = printAudit(h, stdout)
	default:
		fs.Usage()
		return 2
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "holdfast-agent:", err)
		return 1
	}
	return 0
}

func printStatus(h Host, w io.Writer, asJSON bool) error {
	b, err := os.ReadFile(h.path(statusFile))
	if err != nil {
		return fmt.Errorf("cannot read status: %w\nhint: is holdfast-agent run active?", err)
	}
	if asJSON {
		_, err = w.Write(b)
		return err
	}
	var s status.Status
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("cannot read status: %w", err)
	}
	_, err = io.WriteString(w, status.Text(s))
	return err
}

// serveImages serves until ctx ends. What cannot be verified is not served,
// and looked at again when a layout changes.
func serveImages(ctx context.Context, h Host, log *slog.Logger) error {
	l, err := net.Listen("tcp", listenAt)
	if err != nil {
		return fmt.Errorf("cannot serve images: %w", err)
	}
	s := &http.Server{
		Handler:           serve.Handler(serve.Options{Layouts: h.layouts(), Roots: h.served, Log: log}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	h.notify("READY=1", "STATUS=serving on "+listenAt)
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve images: %w", err)
	}
	return nil
}
