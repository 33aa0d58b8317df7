package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// maxAnswer bounds what is read of one answer from QEMU or from the guest.
const maxAnswer = 16 << 20

// dial connects to the unix socket name in dir, whatever the length of dir.
func dial(ctx context.Context, dir, name string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
}

// qmp runs one command on QEMU's control socket and decodes its return value
// into result, unless that is nil. Protocol: QEMU, docs/interop/qmp-spec.
func qmp(ctx context.Context, dir, command string, result any) error {
	return qmpWith(ctx, dir, command, map[string]any{}, result)
}

// qmpWith is qmp of a command with arguments.
func qmpWith(ctx context.Context, dir, command string, arguments map[string]any, result any) error {
	if err := qmpRun(ctx, dir, command, arguments, result); err != nil {
		return fmt.Errorf("cannot run %s in the machine: %w", command, err)
	}
	return nil
}

func qmpRun(ctx context.Context, dir, command string, arguments map[string]any, result any) error {
	c, err := dial(ctx, dir, "qmp.sock")
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	dec := json.NewDecoder(io.LimitReader(c, maxAnswer))
	var m struct {
		QMP, Return json.RawMessage
		Error       *struct{ Class, Desc string }
	}
	if err := dec.Decode(&m); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	if m.QMP == nil {
		return errors.New("the socket does not speak QMP")
	}
	type execute struct {
		Execute   string         `json:"execute"`
		Arguments map[string]any `json:"arguments,omitempty"`
	}
	enc := json.NewEncoder(c)
	for _, run := range []execute{{Execute: "qmp_capabilities"}, {command, arguments}} {
		if err := enc.Encode(run); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		m.Return, m.Error = nil, nil
		for m.Return == nil && m.Error == nil { // events come in between
			if err := dec.Decode(&m); err != nil {
				return errors.Join(ctx.Err(), err)
			}
		}
		if m.Error != nil {
			return fmt.Errorf("%s: %s", m.Error.Class, m.Error.Desc)
		}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(m.Return, result)
}
