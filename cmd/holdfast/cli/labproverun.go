package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/holdfast/bundles/install"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/qemu-tests/lab"
	"holdfast.dev/holdfast/qemu-tests/prove"
	"holdfast.dev/holdfast/qemu-tests/sink"
)

// proof is one recording in the making.
type proof struct {
	*app
	flags  proveFlags
	site   overlays.Site
	image  string
	router netip.Prefix
	update string

	vm         *lab.VM
	boots      int // power-ons
	accel      string
	tries      prove.Tries
	phases     []prove.Phase
	updated    *prove.Other
	recordings []string
	contacts   []sink.Contact
}

// run records the site from power-on until it is off again. Where the site does
// not get healthy, what follows is left out.
func (p *proof) run(ctx context.Context) (err error) {
	dir := filepath.Join(p.outDir(), "prove")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot record the site: %w", err)
	}
	if vm, err := lab.Open(dir); err == nil && vm.Running() {
		return fmt.Errorf("cannot record the site: %w: another proof runs in %s", lab.ErrRunning, dir)
	}
	n := p.site.Nodes[0]
	node, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return err
	}
	c := lab.Config{
		Dir: dir, Image: p.image, Serial: n.Match.Serial, MAC: n.Match.MAC, CPUs: p.flags.cpus, MemoryMiB: p.flags.memory,
		DiskGiB: p.flags.gb, Fresh: true, SecureBoot: true, Network: proofSock,
	}.WithDefaults()
	outside, err := sink.Listen(sink.Config{Socket: filepath.Join(dir, proofSock), Router: p.router, Machine: node.Addr(), MAC: c.MAC})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, outside.Close()) }()
	if p.vm, err = lab.Up(ctx, c, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	defer p.vm.Kill() // unless it is down already
	p.accel, p.boots = p.vm.Accel().Name, 1
	if port := p.vm.Port(6443); port != 0 {
		c.Forward = map[int]int{port: 6443}
		if err := outside.Forward(port, 6443); err != nil {
			return err
		}
	}
	c.Fresh = false
	p.say("recording every frame; the outside is at %s", p.router.Addr())
	if err := p.goThrough(ctx, c); err != nil {
		return err
	}
	if err := p.down(ctx); err != nil {
		return err
	}
	contacts, _ := outside.Contacts()
	p.contacts, p.recordings = contacts, p.vm.Captures()
	return nil
}

// goThrough is what the site goes through. Its errors are those of a recording
// that came to nothing.
func (p *proof) goThrough(ctx context.Context, c lab.Config) error {
	ok, err := p.phase(ctx, "first boot", func(ctx context.Context) error {
		if err := p.healthy(ctx); err != nil {
			return err
		}
		s, err := p.vm.Status(ctx)
		if err == nil && s.Release.Number != p.site.Release {
			err = fmt.Errorf("release %d runs, not %d", s.Release.Number, p.site.Release)
		}
		return err
	})
	if !ok {
		return err
	}
	part := p.flags.lasts
	if p.flags.jumps {
		part /= 3
	}
	for _, step := range []struct {
		what  string
		ahead time.Duration
	}{{"running", 0}, {"running, the clock 40 days ahead", 40 * 24 * time.Hour}, {"running, the clock two years back", -2 * 365 * 24 * time.Hour}} {
		if step.ahead != 0 {
			if !p.flags.jumps {
				break
			}
			ok, err := p.phase(ctx, "power cut, and "+strings.TrimPrefix(step.what, "running, "), func(ctx context.Context) error {
				if err := p.vm.Kill(); err != nil {
					return err
				}
				c.ClockAhead = step.ahead
				vm, err := lab.Up(ctx, c, slog.New(slog.DiscardHandler))
				if err != nil {
					return err
				}
				p.vm = vm
				p.boots++
				return p.healthy(ctx)
			})
			if !ok {
				return err
			}
		}
		if ok, err := p.phase(ctx, step.what+" for "+part.String(), func(ctx context.Context) error { return p.stay(ctx, part) }); !ok {
			return err
		}
	}
	if p.update != "" {
		if ok, err := p.phase(ctx, "update", p.takeUpdate); !ok {
			return err
		}
	}
	_, err = p.phase(ctx, "the end", func(ctx context.Context) error { return p.stay(ctx, counted) })
	return err
}

// phase does something, and notes how it went. It reports whether that was well;
// an error ends the recording.
func (p *proof) phase(ctx context.Context, what string, f func(context.Context) error) (ok bool, err error) {
	ph := prove.Phase{What: what, Began: p.Now().UTC(), Result: prove.Healthy}
	p.say("%s", what)
	err = f(ctx)
	if ctx.Err() != nil {
		return false, fmt.Errorf("the recording was broken off: %w", ctx.Err())
	}
	if err != nil {
		ph.Result = err.Error()
		p.say("%s: %v", what, err)
	}
	ph.Ended = p.Now().UTC()
	p.phases = append(p.phases, ph)
	return err == nil, nil
}

func (p *proof) say(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	if p.json {
		p.event(map[string]any{"event": "proof", "text": text})
		return
	}
	fmt.Fprintf(p.Stderr, "%s  %s\n", p.Now().UTC().Format("15:04:05"), text)
}

func (p *proof) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout)
	defer cancel()
	last := ""
	return p.vm.WaitHealthy(ctx, func(s lab.Status) {
		p.look(s)
		if line := strings.Join(append([]string{s.Phase}, s.Faults...), "; "); line != last && !p.json {
			last = line
			p.say("  %s", line)
		}
	})
}

// look takes what a status says of the outside.
func (p *proof) look(s lab.Status) { p.tries.Add(s.Outside) }

// mostUncounted is how long a node, which counts each minute, may take for it.
const mostUncounted = 5 * time.Minute

// stay looks at the site for a while; it has to be healthy after it, and to have
// gone on counting.
func (p *proof) stay(ctx context.Context, d time.Duration) error {
	began, told := p.Now(), p.Now()
	last, at := p.tries.Counted(), began
	until := began.Add(d)
	for left := d; left > 0; left = until.Sub(p.Now()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, 15*time.Second)):
		}
		if s, err := p.vm.Status(ctx); err == nil {
			p.look(s)
		} else if !p.vm.Running() {
			return err
		}
		if c := p.tries.Counted(); !c.Equal(last) {
			last, at = c, p.Now()
		} else if quiet := p.Now().Sub(at); quiet > mostUncounted {
			return fmt.Errorf("the node has not counted who reaches outside for %s", quiet.Round(time.Second))
		}
		if now := p.Now(); now.Sub(told) >= time.Minute {
			told = now
			p.say("  recorded %s of %s", now.Sub(began).Round(time.Second), d)
		}
	}
	return p.healthy(ctx)
}

func (p *proof) takeUpdate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout)
	defer cancel()
	doc, err := p.vm.Apply(ctx, p.update, lab.ApplyOptions{Reboot: true})
	if err != nil {
		return err
	}
	var plan install.Plan
	if err := json.Unmarshal(doc, &plan); err != nil {
		return fmt.Errorf("cannot read what the node answered: %w", err)
	}
	if err := p.waitUpdated(ctx, p.vm, []int64{int64(plan.To.Release)}, p.look); err != nil {
		return err
	}
	p.updated = &prove.Other{Release: int64(plan.To.Release), Index: string(plan.To.Index)}
	return nil
}

func (p *proof) down(ctx context.Context) error {
	if s, err := p.vm.Status(ctx); err == nil {
		p.look(s)
	}
	return p.vm.Down(ctx)
}
