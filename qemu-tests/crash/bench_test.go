// Package crash_test takes the power away from a node in the middle of
// updates: in states replayed from the log of one update, and for real.
// docs/updates.md says what must come of it.
package crash_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/nbd"
)

// patience is for what takes less than a minute on a quiet machine.
const patience = 15 * time.Minute

// bench is a machine on a disk whose power can be cut.
type bench struct {
	dir  string
	disk *nbd.Disk
	vm   *lab.VM
	// begin opens the disk, over what it began as.
	begin func(name string, o nbd.Options) (*nbd.Disk, error)
	vars  string     // file of the firmware's variables to begin with; "" for new ones
	as    lab.Config // memory, processors, serial number and MAC, where not as usual
	lab   string     // directory below dir; "" is "lab"

	resets int // of an emulated machine that hung by no fault of its own
}

// onImage begins with a release's image, and room for /var behind it.
func onImage(image string, size int64) func(string, nbd.Options) (*nbd.Disk, error) {
	return func(name string, o nbd.Options) (*nbd.Disk, error) {
		o.Size = size
		return nbd.Open(image, name, o)
	}
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) labDir() string { return b.path(cmp.Or(b.lab, "lab")) }

// starting keeps two machines from choosing one port.
var starting sync.Mutex

// powerOn starts the machine; log, if not empty, is where its writes are
// recorded.
func (b *bench) powerOn(ctx context.Context, log string) (err error) {
	if b.disk, err = b.begin(b.path("disk"), nbd.Options{Log: log}); err != nil {
		return err
	}
	if err := os.MkdirAll(b.labDir(), 0o700); err != nil {
		return err
	}
	vars := filepath.Join(b.labDir(), "vars.fd")
	if _, err := os.Stat(vars); b.vars != "" && errors.Is(err, os.ErrNotExist) {
		if err := copyFile(vars, b.vars); err != nil {
			return err
		}
	}
	socket := filepath.Join(b.labDir(), "nbd.sock")
	if err := b.disk.Listen(socket); err != nil {
		return err
	}
	c := b.as
	c.Dir, c.Disk, c.SecureBoot = b.labDir(), socket, true
	c.MemoryMiB = cmp.Or(c.MemoryMiB, 1024)
	starting.Lock()
	defer starting.Unlock()
	b.vm, err = lab.Up(ctx, c, nil)
	return err
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// powerOff ends the machine, and then makes all durable that it wrote.
func (b *bench) powerOff() error {
	var errs []error
	if b.vm != nil {
		errs = append(errs, b.vm.Kill())
	}
	if b.disk != nil {
		errs = append(errs, b.disk.Close())
	}
	return errors.Join(errs...)
}

// cut takes the power away.
func (b *bench) cut(seed uint64) error {
	err := b.disk.Cut(seed)
	if b.vm != nil {
		err = errors.Join(err, b.vm.Kill())
	}
	return err
}

// end is the cleanup after a test.
func (b *bench) end(t *testing.T) {
	if err := b.powerOff(); err != nil {
		t.Log(err)
	}
}

// seen is what the agent says of itself and of the update.
type seen struct {
	lab.Status
	Step, Mode string
	Confirmed  int64
	Failed     string
}

func (b *bench) ask(ctx context.Context) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := b.vm.Status(ctx)
	if err != nil {
		return seen{}, err
	}
	doc, err := json.Marshal(s)
	if err != nil {
		return seen{}, err
	}
	var u struct {
		Update struct {
			Step, Mode string
			Confirmed  int64
			Failed     struct{ Reason string }
		}
	}
	err = json.Unmarshal(doc, &u)
	return seen{s, u.Update.Step, u.Update.Mode, u.Update.Confirmed, u.Update.Failed.Reason}, err
}

// waitFor asks until the node is as ok wants it.
func (b *bench) waitFor(ctx context.Context, what string, ok func(seen) bool) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last seen
	var err error
	for {
		s, askErr := b.ask(ctx)
		if askErr == nil {
			if last = s; ok(s) {
				return s, nil
			}
			if s.Phase == lab.PhaseRefused && s.Mode == "normal" {
				return s, fmt.Errorf("cannot see the node %s: it refused to start: %q", what, s.Faults)
			}
		} else {
			err = askErr
			reset, unstickErr := b.vm.Unstick(ctx)
			if unstickErr != nil {
				return last, unstickErr
			}
			if reset {
				b.resets++
			}
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("cannot see the node %s: release %d is %s, update %s %s, faults %q; last error: %w",
				what, last.Release.Number, last.Phase, last.Step, last.Mode, last.Faults, err)
		case <-time.After(time.Second):
		}
		if !b.vm.Running() {
			return last, fmt.Errorf("cannot see the node %s: the machine ended", what)
		}
	}
}

// atRest waits until the node is healthy and in no update.
func (b *bench) atRest(ctx context.Context) (seen, error) {
	return b.waitFor(ctx, "at rest", func(s seen) bool {
		return s.Healthy() && s.Step == "idle" && s.Mode != "trial" && s.Confirmed == s.Release.Number
	})
}
