package crash_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ack is a row that PostgreSQL acknowledged when the disk had done so many
// operations: a cut after as many, or more, must leave it.
type ack struct{ Row, Ops int }

// writer inserts rows, numbered from 1, one after the other.
type writer struct {
	*bench
	acks []ack
	sent int
}

// start writes until stop is called, over and over where the database goes away
// in between.
func (w *writer) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = w.session(ctx) // the node reboots, say
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
		}
	}()
	return func() { cancel(); <-done }
}

// session writes until something fails or a row takes too long.
func (w *writer) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, err := w.psqlCommand(ctx)
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	for lines := bufio.NewScanner(out); ctx.Err() == nil; {
		w.sent++
		// What the server returns, it returns after the commit.
		if _, err := fmt.Fprintf(in, "insert into kept values (%d) returning id;\n", w.sent); err != nil {
			return err
		}
		late := time.AfterFunc(30*time.Second, cancel)
		if !lines.Scan() {
			return lines.Err()
		}
		ops := w.disk.Ops()
		late.Stop()
		if lines.Text() != strconv.Itoa(w.sent) {
			return fmt.Errorf("psql says %q", lines.Text())
		}
		w.acks = append(w.acks, ack{w.sent, ops})
		time.Sleep(50 * time.Millisecond)
	}
	return ctx.Err()
}

// psqlCommand is psql in the database's pod, its statements on standard input.
// The kubectl is the release's, which "holdfast lab kubectl" puts into the lab's
// directory; it is started without it, to be killed alone.
func (b *bench) psqlCommand(ctx context.Context) (*exec.Cmd, error) {
	find := func() string {
		names, _ := filepath.Glob(filepath.Join(b.labDir(), "kubectl-*"))
		return strings.Join(names, "")
	}
	if find() == "" {
		if out, err := command("-C", b.dir, "lab", "kubectl", "version", "--client").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("holdfast lab kubectl: %w\n%s", err, out)
		}
	}
	cmd := exec.CommandContext(ctx, find(), "exec", "-i", "-n", "postgresql", "postgresql-0", "--",
		"psql", "-h", "/run/postgresql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(b.labDir(), "kubeconfig"))
	return cmd, nil
}

// psql asks the database; a pod that starts just then is asked again.
func (b *bench) psql(ctx context.Context, statement string) (string, error) {
	var err error
	for range 10 {
		var cmd *exec.Cmd
		if cmd, err = b.psqlCommand(ctx); err != nil {
			return "", err
		}
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(statement+";\n"), &out, &errs
		if err = cmd.Run(); err == nil {
			return out.String(), nil
		}
		err = fmt.Errorf("psql: %w: %s", err, errs.String())
		time.Sleep(5 * time.Second)
	}
	return "", err
}
