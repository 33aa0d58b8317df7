package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/lab"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/status"
)

// controlSocket is where `holdfast-agent apply` reaches `run`; root alone may.
const controlSocket = "/run/holdfast/control.sock"

// jobs are the updates and backups that were asked for, by the key of the
// request. A request that comes again, because its answer was lost, is the same
// job.
type jobs struct {
	mu  sync.Mutex
	all map[string]*job
}

// job is one of them; its fields are the answer.
type job struct {
	Done   bool           `json:"done"` // the update is admitted or refused, the backup made or failed
	Plan   *install.Plan  `json:"plan,omitempty"`
	Backup *status.Backup `json:"backup,omitempty"`
	Text   string         `json:"text,omitempty"` // the same, for people
	Error  string         `json:"error,omitempty"`
}

const maxJobs = 64

// ask starts the job of a key, or looks at it.
func (j *jobs) ask(key string, start func(done func(job)) error) (job, error) {
	if key == "" || len(key) > 64 {
		return job{}, errors.New("cannot begin: the request has no key")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if k, ok := j.all[key]; ok {
		if k.Error != "" {
			return job{}, errors.New(k.Error)
		}
		return *k, nil
	}
	if j.all == nil || len(j.all) >= maxJobs {
		j.all = map[string]*job{}
	}
	k := &job{}
	j.all[key] = k
	go func() {
		err := start(func(done job) {
			j.mu.Lock()
			defer j.mu.Unlock()
			*k = done
			k.Done = true
		})
		if err != nil {
			j.mu.Lock()
			defer j.mu.Unlock()
			k.Done, k.Error = true, err.Error()
		}
	}()
	return *k, nil
}

// apply answers a request for an update.
func (a *agent) apply(ctx context.Context, u *updates, restart context.CancelCauseFunc) func(lab.Request) (any, error) {
	return func(q lab.Request) (any, error) {
		return u.jobs.ask(q.Key, func(done func(job)) error {
			return a.takeBundle(ctx, u, bundleRequest{file: q.Bundle, dryRun: q.DryRun, reboot: q.Reboot}, restart, func(p install.Plan) { done(job{Plan: &p, Text: p.Text()}) })
		})
	}
}

// control answers on the socket until ctx ends.
func (a *agent) control(ctx context.Context, n lab.Node) {
	name := a.host.path(controlSocket)
	for ctx.Err() == nil {
		if err := a.controlOn(ctx, name, n); err != nil && ctx.Err() == nil {
			a.log.Warn("control socket", "error", err)
		}
		_ = a.host.Sleep(ctx, 5*time.Second)
	}
}

func (a *agent) controlOn(ctx context.Context, name string, n lab.Node) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.Chmod(name, 0o600); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			if err := lab.Serve(ctx, c, n); err != nil && ctx.Err() == nil {
				a.log.Warn("control socket", "error", err)
			}
		}()
	}
}

// errUnreachable is wrapped by errors about an agent that does not answer.
var errUnreachable = errors.New("the agent does not answer")

// askAgent sends one request to the agent that runs, and decodes its result.
func askAgent(h Host, q lab.Request, result any) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.path(controlSocket), Net: "unix"})
	if err != nil {
		return fmt.Errorf("%w: %w\nhint: is holdfast-agent run active? Only root may ask it", errUnreachable, err)
	}
	defer c.Close()
	return lab.Ask(c, q, result)
}
