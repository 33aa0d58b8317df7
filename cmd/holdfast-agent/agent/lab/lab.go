// Package lab answers requests that come over the lab's virtio-serial port:
// one JSON line each way. The zone decides whether it is used at all.
package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// Port is the device of the lab's port.
const Port = "/dev/virtio-ports/dev.holdfast.lab"

// maxLine bounds a request.
const maxLine = 64 << 10

// Request is one line from the lab.
type Request struct {
	ID    int64  `json:"id"`
	Op    string `json:"op"`    // status, kubeconfig, logs, reboot, poweroff, apply, audit, backup, credentials, restore
	Unit  string `json:"unit"`  // of logs; empty for the whole journal
	Lines int    `json:"lines"` // of logs; 0 means 100

	// Of apply and backup. A request that comes again with its key is answered
	// with what became of the first.
	Key    string `json:"key"`
	Bundle string `json:"bundle"` // a file on the node; empty for the one on the stick
	DryRun bool   `json:"dryRun"`
	Reboot bool   `json:"reboot"` // also into a release that needs none

	Server bool   `json:"server"` // of backup: to the server that the release names, not onto the stick
	Code   string `json:"code"`   // of restore: which backup

	Credentials string `json:"credentials,omitempty"` // of credentials: the file; a secret
}

// Answer is one line to the lab.
type Answer struct {
	ID     int64  `json:"id"`
	OK     bool   `json:"ok,omitempty"`
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Node is what the port gives access to. What is nil is refused.
type Node struct {
	Apply  func(q Request) (any, error)
	Audit  func() (string, error) // the log of updates, checked
	Backup func(q Request) (any, error)
	// Credentials takes what a server for backups lets the node in by.
	Credentials func(file string) (string, error)
	Restore     func(code string) error // confirms what the console asks for
	Status      func() (any, error)
	Kubeconfig  func() (string, error)
	Logs        func(ctx context.Context, unit string, lines int) (string, error)
	Power       func(ctx context.Context, verb string) error // reboot or poweroff
}

// Serve answers the requests of rw until it ends. A line that is no request is
// answered with an error; one that is too long ends it.
func Serve(ctx context.Context, rw io.ReadWriter, n Node) error {
	in := bufio.NewScanner(rw)
	in.Buffer(make([]byte, 4096), maxLine)
	for in.Scan() {
		if len(in.Bytes()) == 0 {
			continue
		}
		var q Request
		a := Answer{}
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			a.Error = "cannot read request: " + err.Error()
		} else {
			a = n.answer(ctx, q)
		}
		b, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("cannot answer the lab: %w", err)
		}
		if _, err := rw.Write(append(b, '\n')); err != nil {
			return fmt.Errorf("cannot answer the lab: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return in.Err()
}

func (n Node) answer(ctx context.Context, q Request) Answer {
	r, err := n.do(ctx, q)
	if err != nil {
		return Answer{ID: q.ID, Error: err.Error()}
	}
	return Answer{ID: q.ID, OK: true, Result: r}
}

// Ask sends a request and decodes the result of its answer.
func Ask(rw io.ReadWriter, q Request, result any) error {
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if _, err := rw.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("cannot ask for %s: %w", q.Op, err)
	}
	line, err := bufio.NewReader(rw).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("cannot ask for %s: %w", q.Op, err)
	}
	var a struct {
		Result json.RawMessage `json:"result"`
		Error  string          `json:"error"`
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("cannot ask for %s: %w", q.Op, err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return json.Unmarshal(a.Result, result)
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:\\-]{0,127}$`)

func (n Node) do(ctx context.Context, q Request) (any, error) {
	refused := map[string]bool{"kubeconfig": n.Kubeconfig == nil, "logs": n.Logs == nil, "reboot": n.Power == nil, "poweroff": n.Power == nil, "apply": n.Apply == nil, "audit": n.Audit == nil,
		"backup": n.Backup == nil, "credentials": n.Credentials == nil, "restore": n.Restore == nil}
	if refused[q.Op] {
		return nil, fmt.Errorf("cannot do %q here", q.Op)
	}
	switch q.Op {
	case "status":
		return n.Status()
	case "apply":
		return n.Apply(q)
	case "audit":
		return n.Audit()
	case "backup":
		return n.Backup(q)
	case "credentials":
		return n.Credentials(q.Credentials)
	case "restore":
		return q.Op, n.Restore(q.Code)
	case "kubeconfig":
		return n.Kubeconfig()
	case "logs":
		if q.Unit != "" && !unitName.MatchString(q.Unit) {
			return nil, errors.New("cannot read logs: no unit has that name")
		}
		if q.Lines <= 0 {
			q.Lines = 100
		}
		return n.Logs(ctx, q.Unit, min(q.Lines, 10_000))
	case "reboot", "poweroff":
		return q.Op, n.Power(ctx, q.Op)
	}
	return nil, fmt.Errorf("cannot do %q: not one of status, kubeconfig, logs, reboot, poweroff, apply, audit, backup, credentials, restore", q.Op)
}

// JournalArgs are the arguments of journalctl for the last lines of a unit.
func JournalArgs(unit string, lines int) []string {
	arg := []string{"--no-pager", "--output=short-iso", "--lines=" + strconv.Itoa(lines)}
	if unit != "" {
		arg = append(arg, "--unit="+unit)
	}
	return arg
}
