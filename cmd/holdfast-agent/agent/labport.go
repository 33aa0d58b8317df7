package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"time"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/lab"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// labNode is what the lab may ask for.
func (a *agent) labNode(adminConf string, apply, backUp func(lab.Request) (any, error)) lab.Node {
	return lab.Node{
		Apply:   apply,
		Backup:  backUp,
		Restore: a.confirmed.confirm,
		Audit: func() (string, error) {
			var b strings.Builder
			err := printAudit(a.host, &b)
			return b.String(), err
		},
		Status: func() (any, error) {
			b, err := status.Encode(a.Get())
			return json.RawMessage(b), err
		},
		Kubeconfig: func() (string, error) {
			if adminConf == "" {
				return "", errors.New("this node has no Kubernetes")
			}
			b, err := os.ReadFile(a.host.path(adminConf))
			return string(b), err
		},
		Logs: func(ctx context.Context, unit string, lines int) (string, error) {
			var b strings.Builder
			err := a.host.Run(ctx, func(s string) { b.WriteString(s + "\n") }, "/usr/bin/journalctl", lab.JournalArgs(unit, lines)...)
			return b.String(), err
		},
		Power: func(ctx context.Context, verb string) error {
			a.Say("the lab asks for %s", verb)
			if verb == "reboot" {
				a.noteReboot()
			}
			return a.exec(ctx, "/usr/bin/systemctl", "--no-block", verb)
		},
	}
}

// labPort answers the lab for as long as the machine has its device.
func (a *agent) labPort(ctx context.Context, n lab.Node) {
	name := a.host.path(lab.Port)
	if _, err := os.Stat(name); err != nil {
		return // not in a lab
	}
	a.Say("the lab's port is open: this machine answers it")
	for ctx.Err() == nil {
		if err := a.answerOn(ctx, name, n); err != nil && ctx.Err() == nil {
			a.log.Warn("lab port", "error", err)
		}
		_ = a.host.Sleep(ctx, time.Second/2)
	}
}

// answerOn keeps the port open while nobody is at its other end, since what
// is sent to a closed port is lost; a read then ends at once.
func (a *agent) answerOn(ctx context.Context, name string, n lab.Node) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	for {
		if err := lab.Serve(ctx, f, n); err != nil {
			return err
		}
		if err := a.host.Sleep(ctx, time.Second/5); err != nil {
			return err
		}
	}
}
