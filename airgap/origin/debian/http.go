package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const tries = 3

// permanentError is one that another try would not mend.
type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// errGone is wrapped by errors about a file that the mirror does not have.
var errGone = errors.New("not on the mirror")

// errRange says that what was kept of a file cannot be continued.
var errRange = errors.New("the mirror cannot continue the transfer")

// retry calls f up to three times, waiting longer each time.
func (c *Client) retry(ctx context.Context, f func() error) error {
	wait := c.Backoff
	if wait == 0 {
		wait = time.Second
	}
	for i := 1; ; i++ {
		err := f()
		var permanent *permanentError
		if err == nil || errors.As(err, &permanent) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if i == tries {
			return fmt.Errorf("%w (tried %d times)", err, tries)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// body is an answer; it must be closed.
type body struct {
	stallReader
	start int64 // where in the file it begins: the offset asked for, or 0
	close func()
}

// request asks for u from an offset. A mirror that does not know ranges sends
// the file from its start. The body fails when it stalls.
func (c *Client) request(ctx context.Context, u string, offset int64) (*body, error) {
	stall := c.Stall
	if stall == 0 {
		stall = time.Minute
	}
	if strings.HasPrefix(u, "file:") {
		return openFile(ctx, u, offset, stall)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte for %v", stall)) })
	done := func() { timer.Stop(); cancel(nil) }
	resp, err := c.do(ctx, u, offset)
	if err != nil {
		err = cause(ctx, err)
		done()
		return nil, err
	}
	b := &body{stallReader: stallReader{ctx, resp.Body, timer, stall}, close: func() { resp.Body.Close(); done() }}
	if resp.StatusCode == http.StatusPartialContent {
		b.start = offset
	}
	return b, nil
}

// openFile is request for a mirror that is a directory of this machine, or a
// disk that was plugged in.
func openFile(ctx context.Context, u string, offset int64, stall time.Duration) (*body, error) {
	parsed, err := url.Parse(u)
	if err != nil {
		return nil, &permanentError{err}
	}
	f, err := os.Open(filepath.FromSlash(parsed.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &permanentError{fmt.Errorf("%w: no such file", errGone)}
	}
	if err != nil {
		return nil, &permanentError{err}
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = errors.New("not a regular file")
	case offset > fi.Size():
		f.Close()
		return nil, fmt.Errorf("%w: the file ends before", errRange)
	default:
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, &permanentError{err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// A read of a file cannot be cancelled: it ends, or the machine hangs.
	timer := time.AfterFunc(stall, func() {})
	return &body{stallReader{ctx, f, timer, stall}, offset, func() { f.Close(); timer.Stop(); cancel(nil) }}, nil
}

func (c *Client) do(ctx context.Context, u string, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, &permanentError{err}
	}
	// Sizes and offsets are those of the file, never of a compressed transfer.
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := checkStatus(resp, offset); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func checkStatus(resp *http.Response, offset int64) error {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return nil
	case offset > 0 && code == http.StatusPartialContent:
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", offset)) {
			return fmt.Errorf("%w: asked from %d, got %.60q", errRange, offset, got)
		}
		return nil
	case offset > 0 && code == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: %s", errRange, resp.Status)
	case code == http.StatusNotFound || code == http.StatusGone:
		return &permanentError{fmt.Errorf("%w: %s", errGone, resp.Status)}
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return fmt.Errorf("the mirror answered %s", resp.Status)
	}
	return &permanentError{fmt.Errorf("the mirror answered %s", resp.Status)}
}

type stallReader struct {
	ctx   context.Context
	r     io.Reader
	timer *time.Timer
	stall time.Duration
}

func (s *stallReader) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if n > 0 {
		s.timer.Reset(s.stall)
	}
	if err != nil && err != io.EOF {
		err = cause(s.ctx, err)
	}
	return n, err
}

// cause says why a context was cancelled, where that is what ended a request.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && ctx.Err() != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}
