package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// printf writes a line of a command's result.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.Stdout, format, args...) }

// event writes one JSON object as a line of standard output.
func (a *app) event(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte(`{"event":"error","error":"internal error: an event has no JSON form"}`)
	}
	fmt.Fprintf(a.Stdout, "%s\n", b)
}

// step says that a part of the work begins; the function returned says that
// it is done, and how long it took.
func (a *app) step(name string) (done func(note string)) {
	start := a.Now()
	if a.json {
		a.event(map[string]any{"event": "step", "step": name})
	}
	return func(note string) {
		took := a.Now().Sub(start)
		if a.json {
			a.event(map[string]any{"event": "done", "step": name, "note": note, "seconds": took.Seconds()})
			return
		}
		fmt.Fprintf(a.Stderr, "%-28s %s (%s)\n", name, note, took.Round(100*time.Millisecond))
	}
}

// progress returns a function that shows done of total bytes of a step.
func (a *app) progress(step string) func(done, total int64, item string) {
	begin, show := sync.OnceValue(a.Now), a.throttle()
	return func(done, total int64, item string) {
		start := begin()
		if !show() {
			return
		}
		rate := float64(done) / max(a.Now().Sub(start).Seconds(), 0.001)
		if a.json {
			a.event(map[string]any{"event": "progress", "step": step, "item": item, "done": done, "total": total, "bytesPerSecond": int64(rate)})
			return
		}
		left := "?"
		if rate > 0 && total >= done {
			left = (time.Duration(float64(total-done)/rate) * time.Second).String()
		}
		a.line(fmt.Sprintf("%s: %s of %s, %s/s, %s left: %s", step, size(done), size(total), size(int64(rate)), left, item))
	}
}

// counter returns a function that shows done of total things of a step, as
// often as progress does.
func (a *app) counter(step string) func(done, total int, item string) {
	show := a.throttle()
	return func(done, total int, item string) {
		if !show() {
			return
		}
		if a.json {
			a.event(map[string]any{"event": "progress", "step": step, "item": item, "done": done, "total": total})
			return
		}
		a.line(fmt.Sprintf("%s: %d of %d: %s", step, done, total, item))
	}
}

// throttle returns a function that says whether it is time to show progress:
// twice a second on a terminal, each five seconds elsewhere.
func (a *app) throttle() func() bool {
	var mu sync.Mutex
	last, every := a.Now(), 5*time.Second
	if a.terminal() {
		every = 500 * time.Millisecond
	}
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		now := a.Now()
		if now.Sub(last) < every {
			return false
		}
		last = now
		return true
	}
}

func (a *app) terminal() bool {
	f, ok := a.Stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// line shows a line of progress; on a terminal the next one takes its place.
func (a *app) line(s string) {
	if a.terminal() {
		fmt.Fprintf(a.Stderr, "\r\x1b[K%.120s\r", s)
	} else {
		fmt.Fprintln(a.Stderr, s)
	}
}

// size formats bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < 3 {
		f, i = f/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[i])
}
