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

// progress returns a function that shows done of total bytes of a step, at
// most twice a second on a terminal, and each five seconds elsewhere.
func (a *app) progress(step string) func(done, total int64, item string) {
	var mu sync.Mutex
	start, last := a.Now(), a.Now()
	every := 5 * time.Second
	f, _ := a.Stderr.(*os.File)
	tty := f != nil && term.IsTerminal(int(f.Fd()))
	if tty {
		every = 500 * time.Millisecond
	}
	return func(done, total int64, item string) {
		mu.Lock()
		defer mu.Unlock()
		now := a.Now()
		if now.Sub(last) < every {
			return
		}
		last = now
		rate := float64(done) / max(now.Sub(start).Seconds(), 0.001)
		if a.json {
			a.event(map[string]any{"event": "progress", "step": step, "item": item, "done": done, "total": total, "bytesPerSecond": int64(rate)})
			return
		}
		left := "?"
		if rate > 0 && total >= done {
			left = (time.Duration(float64(total-done)/rate) * time.Second).String()
		}
		line := fmt.Sprintf("%s: %s of %s, %s/s, %s left: %s", step, size(done), size(total), size(int64(rate)), left, item)
		if tty {
			fmt.Fprintf(a.Stderr, "\r\x1b[K%.120s\r", line)
		} else {
			fmt.Fprintln(a.Stderr, line)
		}
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
