package http

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	tries    = 3               // without getting any further
	maxTries = 20              // in all
	maxWait  = 2 * time.Minute // that a server may ask for
)

// Permanent is an error that another try would not mend.
type Permanent struct{ Err error }

func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap is the error itself.
func (e *Permanent) Unwrap() error { return e.Err }

// busyError is an answer that says when to come back.
type busyError struct {
	error
	after time.Duration
}

func (e *busyError) Unwrap() error { return e.error }

// retry calls f until it succeeds: at most three times, waiting longer each
// time and as long as the server asks for. f reports whether it got further
// than ever before; then the count begins anew, up to twenty calls in all.
func (c *Client) retry(ctx context.Context, f func() (further bool, err error)) error {
	first := c.Backoff
	if first == 0 {
		first = time.Second
	}
	wait := first
	for n, all := 1, 1; ; n, all = n+1, all+1 {
		further, err := f()
		var permanent *Permanent
		if err == nil || errors.As(err, &permanent) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if further {
			n, wait = 1, first
		}
		if n == tries || all == maxTries {
			return fmt.Errorf("%w (tried %d times)", err, all)
		}
		pause := wait
		if busy := (*busyError)(nil); errors.As(err, &busy) {
			if busy.after > maxWait {
				return fmt.Errorf("%w; it asks to be left alone for %v", err, busy.after)
			}
			pause = max(wait, busy.after)
		}
		if pause >= noticeable && c.Waiting != nil {
			c.Waiting(err, pause)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		wait *= 2
	}
}

// noticeable is a pause that a user should hear of.
const noticeable = 5 * time.Second

// after is what a server says in Retry-After, in seconds or as a date; 0
// where it says nothing of use.
func after(h http.Header, now func() time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now()))
	}
	return 0
}
