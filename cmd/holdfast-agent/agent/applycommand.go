package agent

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/lab"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/update"
)

// applyCommand asks the agent that runs to take a bundle, and prints what it
// changes. Exit code 3: the bundle was refused.
func applyCommand(h Host, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("holdfast-agent apply", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage) }
	dryRun := fs.Bool("dry-run", false, "")
	reboot := fs.Bool("reboot", false, "")
	if err := fs.Parse(args); err != nil || fs.NArg() > 1 {
		fs.Usage()
		return 2
	}
	name := fs.Arg(0)
	if name != "" {
		abs, err := filepath.Abs(name)
		if err != nil {
			fmt.Fprintln(stderr, "holdfast-agent:", err)
			return 1
		}
		name = abs
	}
	j, err := awaitJob(h, lab.Request{Op: "apply", Key: rand.Text(), Bundle: name, DryRun: *dryRun, Reboot: *reboot})
	if err != nil {
		fmt.Fprintln(stderr, "holdfast-agent:", err)
		if errors.Is(err, errUnreachable) {
			return 1
		}
		return 3
	}
	fmt.Fprint(stdout, j.Text)
	if !*dryRun {
		fmt.Fprintln(stdout, "the update has begun: holdfast-agent status shows how far it is")
	}
	return 0
}

// awaitJob asks the agent that runs until it is done with a job.
func awaitJob(h Host, q lab.Request) (job, error) {
	for {
		var j job
		if err := askAgent(h, q, &j); err != nil || j.Done {
			return j, err
		}
		time.Sleep(time.Second)
	}
}

// backupCommand asks the agent that runs for a backup, and prints what became
// of it.
func backupCommand(h Host, server bool, w io.Writer) error {
	j, err := awaitJob(h, lab.Request{Op: "backup", Key: rand.Text(), Server: server})
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, j.Text)
	return err
}

// credentialsCommand gives the agent that runs the credentials that r has, and
// prints how the server took them.
func credentialsCommand(h Host, r io.Reader, w io.Writer) error {
	b, err := io.ReadAll(io.LimitReader(r, maxCredentials+1))
	if err != nil {
		return fmt.Errorf("cannot read the credentials: %w", err)
	}
	if len(b) > maxCredentials {
		return fmt.Errorf("cannot read the credentials: more than %d bytes", maxCredentials)
	}
	var text string
	if err := askAgent(h, lab.Request{Op: "credentials", Credentials: string(b)}, &text); err != nil {
		return err
	}
	_, err = io.WriteString(w, text)
	return err
}

// maxCredentials is less than a request may have, with what it needs besides.
const maxCredentials = 16 << 10 // bytes

// printAudit prints the audit log, all its files, and fails if one was changed.
func printAudit(h Host, w io.Writer) error {
	out := json.NewEncoder(w)
	err := install.ReadAudit(h.path(update.AuditFile), func(l install.Line) error { return out.Encode(l) })
	if errors.Is(err, os.ErrNotExist) {
		return nil // no update yet
	}
	return err
}
