package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// tryFor is how long one connection waits for its answer. The port has no
// notion of a listener: bytes sent while the agent is away may be lost, so
// the question is asked again.
const tryFor = 5 * time.Second

// ErrRefused is wrapped by errors that the agent itself answered with.
var ErrRefused = errors.New("the agent refused")

// question is one line to the agent. It may be sent more than once; what must
// not be done twice carries a key.
type question struct {
	ID     int64  `json:"id"`
	Op     string `json:"op"`
	Key    string `json:"key,omitempty"`
	DryRun bool   `json:"dryRun,omitempty"`
	Reboot bool   `json:"reboot,omitempty"`
	Lines  int    `json:"lines,omitempty"` // of the journal
	Code   string `json:"code,omitempty"`  // of a backup
}

// ask puts a request to the agent and decodes the result, trying again on a
// new connection until ctx ends or the agent has answered.
func ask(ctx context.Context, dir string, q question, result any) error {
	op := q.Op
	var last error
	for {
		err := askOnce(ctx, dir, q, result)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrRefused) {
			return fmt.Errorf("cannot ask the agent for %s: %w", op, err)
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot ask the agent for %s: %w (%w)", op, last, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// askOnce makes one connection. Lines that are no answer to this request are
// skipped: they are late answers to a client that gave up.
func askOnce(ctx context.Context, dir string, q question, result any) error {
	limit := tryFor
	if q.Lines > 0 {
		limit *= 6 // a journal is long, and read from a disk
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := dial(ctx, dir, "lab.sock")
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	id := rand.Int64N(1 << 53) // kept exact by any JSON reader
	q.ID = id
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	// The leading newline ends whatever a client before us left half-written.
	if _, err := fmt.Fprintf(c, "\n%s\n", line); err != nil {
		return err
	}
	sc := bufio.NewScanner(c)
	sc.Buffer(nil, maxAnswer)
	for sc.Scan() {
		var a struct {
			ID     int64           `json:"id"`
			OK     bool            `json:"ok"`
			Result json.RawMessage `json:"result"`
			Error  string          `json:"error"`
		}
		if json.Unmarshal(sc.Bytes(), &a) != nil || a.ID != id {
			continue
		}
		if a.Error != "" || !a.OK {
			return fmt.Errorf("%w: %s", ErrRefused, a.Error)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(a.Result, result); err != nil {
			return fmt.Errorf("%w: its answer cannot be read: %w", ErrRefused, err)
		}
		return nil
	}
	if ctx.Err() != nil {
		return errors.New("no answer yet; it may still be starting")
	}
	return errors.Join(errors.New("the connection ended"), sc.Err())
}
