package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// consoles are where people are: /dev/console is the last of the kernel's
// alone, a serial line, and a machine may have a screen.
func consoles() []string { return []string{"/dev/console", "/dev/tty1"} }

// screens writes to all that can be opened.
type screens []*os.File

func openConsoles() (io.WriteCloser, error) {
	var out screens
	var errs []error
	for _, name := range consoles() {
		f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// Write succeeds if one of them takes it.
func (s screens) Write(b []byte) (int, error) {
	var last error
	good := false
	for _, f := range s {
		if _, err := f.Write(b); err != nil {
			last = err
		} else {
			good = true
		}
	}
	if !good {
		return 0, last
	}
	return len(b), nil
}

func (s screens) Close() error {
	var errs []error
	for _, f := range s {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// typedLines gives what is typed on any console until ctx ends.
func typedLines(ctx context.Context) <-chan string {
	lines := make(chan string)
	for _, name := range consoles() {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { f.Close() })
		go func() {
			defer stop()
			in := bufio.NewScanner(io.LimitReader(f, 64<<10))
			for in.Scan() {
				select {
				case lines <- in.Text():
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return lines
}
