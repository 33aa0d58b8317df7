package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// Console returns the serial console's log from its beginning.
func (vm *VM) Console() (io.ReadCloser, error) {
	f, err := os.Open(vm.path("console.log"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the console: %w", err)
	}
	return f, nil
}

// detach is Ctrl-], as in telnet.
const detach = 0x1d

// Attach joins in and out with the serial console until Ctrl-] is read from
// in, ctx ends, or the machine does. The end of in alone does not end it. A
// read of in may be left waiting when Attach returns. The console has one
// client at a time; a second sees nothing until the first has gone.
func (vm *VM) Attach(ctx context.Context, in io.Reader, out io.Writer) error {
	if err := vm.running(); err != nil {
		return err
	}
	c, err := dial(ctx, vm.dir, "console.sock")
	if err != nil {
		return fmt.Errorf("cannot open the console: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	left := make(chan struct{})
	go func() {
		buf := make([]byte, 1024)
		for {
			n, err := in.Read(buf)
			i := bytes.IndexByte(buf[:n], detach)
			if i >= 0 {
				n = i
			}
			if _, werr := c.Write(buf[:n]); i >= 0 {
				close(left)
				c.Close()
				return
			} else if err != nil || werr != nil {
				return
			}
		}
	}()
	_, err = io.Copy(out, c)
	select {
	case <-left:
		return nil
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !vm.Running() {
		return nil
	}
	return err
}

// Expect waits until text comes on the console, and remembers the place after
// it: the next Expect looks from there on. Colours and other terminal controls
// are not seen. On a time-out the error has the console's last 40 lines.
func (vm *VM) Expect(ctx context.Context, text string, timeout time.Duration) error {
	_, err := vm.ExpectRegexp(ctx, regexp.MustCompile(regexp.QuoteMeta(text)), timeout)
	return err
}

// SkipConsole makes the next Expect look only at what comes from now on.
func (vm *VM) SkipConsole() { vm.offset = sizeOf(vm.path("console.log")) }

// ExpectRegexp is Expect of a pattern; it returns the match and its groups.
func (vm *VM) ExpectRegexp(ctx context.Context, re *regexp.Regexp, timeout time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for size := int64(-1); ; {
		alive := vm.Running() // before the read: a dead machine has said all
		if now := sizeOf(vm.path("console.log")); now != size {
			size = now
			m, err := vm.match(re)
			if m != nil || err != nil {
				return m, err
			}
		}
		var why error
		select {
		case <-ctx.Done():
			why = ctx.Err()
		case <-time.After(100 * time.Millisecond):
			if alive {
				continue
			}
			why = ErrNotRunning
		}
		return nil, fmt.Errorf("cannot find %q on the console: %w; its end:\n%s", re, why, tail(vm.path("console.log"), 40))
	}
}

// match looks in what came since the last match.
func (vm *VM) match(re *regexp.Regexp) ([]string, error) {
	f, err := os.Open(vm.path("console.log"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(vm.offset, io.SeekStart); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err != nil {
		return nil, err
	}
	text, at := strip(raw)
	m := re.FindSubmatchIndex(text)
	if m == nil {
		return nil, nil
	}
	end := int64(0)
	if m[1] > 0 {
		end = int64(at[m[1]-1]) + 1
	}
	vm.offset += end
	groups := make([]string, len(m)/2)
	for i := range groups {
		if m[2*i] >= 0 {
			groups[i] = string(text[m[2*i]:m[2*i+1]])
		}
	}
	return groups, nil
}

// controls are ECMA-48's CSI and OSC sequences, other escapes, and carriage
// returns.
var controls = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z^-~]|\r`)

// strip removes the controls and says where in raw each byte left was.
func strip(raw []byte) (text []byte, at []int) {
	from := 0
	keep := func(to int) {
		for i := from; i < to; i++ {
			text, at = append(text, raw[i]), append(at, i)
		}
	}
	for _, m := range controls.FindAllIndex(raw, -1) {
		keep(m[0])
		from = m[1]
	}
	keep(len(raw))
	return text, at
}

func plain(raw []byte) string {
	text, _ := strip(raw)
	return strings.ToValidUTF8(string(text), "?")
}
