package agent

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"time"

	"holdfast.dev/holdfast/agent/kubeadm"
	"holdfast.dev/holdfast/agent/lab"
	"holdfast.dev/holdfast/agent/status"
)

// labPort answers the lab for as long as the machine has its device.
func (a *agent) labPort(ctx context.Context) {
	name := a.host.path(lab.Port)
	n := lab.Node{
		Status: func() (any, error) {
			b, err := status.Encode(a.Get())
			return json.RawMessage(b), err
		},
		Kubeconfig: func() (string, error) {
			b, err := os.ReadFile(a.host.path(kubeadm.AdminConf))
			return string(b), err
		},
		Logs: func(ctx context.Context, unit string, lines int) (string, error) {
			var b strings.Builder
			err := a.host.Run(ctx, func(s string) { b.WriteString(s + "\n") }, "/usr/bin/journalctl", lab.JournalArgs(unit, lines)...)
			return b.String(), err
		},
		Power: func(ctx context.Context, verb string) error {
			a.Say("the lab asks for %s", verb)
			return a.exec(ctx, "/usr/bin/systemctl", "--no-block", verb)
		},
	}
	if _, err := os.Stat(name); err != nil {
		return // not in a lab
	}
	a.Say("the lab's port is open: this machine answers it")
	for ctx.Err() == nil {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil {
			stop := context.AfterFunc(ctx, func() { f.Close() })
			err = lab.Serve(ctx, f, n)
			stop()
			f.Close()
		}
		if err != nil {
			a.log.Warn("lab port", "error", err)
		}
		// With nobody at the other end a read ends at once.
		if a.host.Sleep(ctx, time.Second/2) != nil {
			return
		}
	}
}
