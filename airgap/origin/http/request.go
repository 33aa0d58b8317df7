// Package http brings bytes whose digest and size are known into the store:
// over HTTP, or from files that a URL names. Transfers are parallel, bounded in
// tries, and resumed; one that failed keeps one file at most, which the next
// call continues. Debian packages and the blobs of registries come in this way.
package http

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

// ErrGone is wrapped by errors about a file that a server does not have.
var ErrGone = errors.New("not there")

// errRange says that what was kept of a file cannot be continued.
var errRange = errors.New("the server cannot continue the transfer")

// Client is how servers are reached; its zero value works.
type Client struct {
	HTTP    *http.Client  // without a time-out of its own; nil means http.DefaultClient
	Backoff time.Duration // before the second try, doubled for each that follows; 0 means one second
	Stall   time.Duration // a transfer without a byte for so long is given up; 0 means one minute
	Workers int           // transfers at once; 0 means six

	// Waiting, if set, hears of pauses that a user would take for a hang.
	Waiting func(why error, pause time.Duration)
}

// Source is a place that a file may be had from.
type Source struct {
	URL    string       // http, https, or file for one of this machine
	HTTP   *http.Client // nil means the client's
	Accept string       // media types, for servers that have a file in several
}

// Size asks how large a file is, in bytes.
func (c *Client) Size(ctx context.Context, src Source) (int64, error) {
	var n int64
	err := c.retry(ctx, func() (bool, error) {
		b, err := c.request(ctx, src, 0)
		if err != nil {
			return false, err
		}
		defer b.close()
		if n = b.length; n < 0 {
			err = &Permanent{errors.New("the server does not say how large it is")}
		}
		return false, err
	})
	if err != nil {
		return 0, fmt.Errorf("cannot fetch %s: %w", src.URL, err)
	}
	return n, nil
}

// Answer is a small file as a server gave it.
type Answer struct {
	Body   []byte
	Header http.Header
}

// Get reads a file of at most limit bytes whole, trying again where that may
// help.
func (c *Client) Get(ctx context.Context, src Source, limit int64) (Answer, error) {
	var a Answer
	err := c.retry(ctx, func() (bool, error) {
		b, err := c.request(ctx, src, 0)
		if err != nil {
			return false, err
		}
		defer b.close()
		a.Header = b.header
		a.Body, err = io.ReadAll(io.LimitReader(b, limit+1))
		if err == nil && int64(len(a.Body)) > limit {
			err = &Permanent{fmt.Errorf("over the %d bytes expected", limit)}
		}
		return false, err
	})
	if err != nil {
		return Answer{}, fmt.Errorf("cannot fetch %s: %w", src.URL, err)
	}
	return a, nil
}

// body is an answer; it must be closed.
type body struct {
	stallReader
	start  int64 // where in the file it begins: the offset asked for, or 0
	length int64 // of what follows; -1 if it is not said
	header http.Header
	close  func()
}

// request asks for a file from an offset. A server that does not know ranges
// sends it from its start. The body fails when it stalls.
func (c *Client) request(ctx context.Context, src Source, offset int64) (*body, error) {
	stall := c.Stall
	if stall == 0 {
		stall = time.Minute
	}
	if strings.HasPrefix(src.URL, "file:") {
		return openFile(ctx, src.URL, offset, stall)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte for %v", stall)) })
	done := func() { timer.Stop(); cancel(nil) }
	resp, err := c.do(ctx, src, offset)
	if err != nil {
		err = cause(ctx, err)
		done()
		return nil, err
	}
	b := &body{stallReader: stallReader{ctx, resp.Body, timer, stall}, header: resp.Header, length: resp.ContentLength, close: func() { resp.Body.Close(); done() }}
	if resp.StatusCode == http.StatusPartialContent {
		b.start = offset
	}
	return b, nil
}

// openFile is request for a directory of this machine, or a disk that was
// plugged in.
func openFile(ctx context.Context, u string, offset int64, stall time.Duration) (*body, error) {
	parsed, err := url.Parse(u)
	if err != nil {
		return nil, &Permanent{err}
	}
	f, err := os.Open(filepath.FromSlash(parsed.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Permanent{fmt.Errorf("%w: no such file", ErrGone)}
	}
	if err != nil {
		return nil, &Permanent{err}
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
		return nil, &Permanent{err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// A read of a file cannot be cancelled: it ends, or the machine hangs.
	timer := time.AfterFunc(stall, func() {})
	return &body{stallReader: stallReader{ctx, f, timer, stall}, start: offset, length: fi.Size() - offset, close: func() { f.Close(); timer.Stop(); cancel(nil) }}, nil
}

func (c *Client) do(ctx context.Context, src Source, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src.URL, nil)
	if err != nil {
		return nil, &Permanent{err}
	}
	if src.Accept != "" {
		req.Header.Set("Accept", src.Accept)
	}
	// Sizes and offsets are those of the file, never of a compressed transfer.
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	client := http.DefaultClient
	switch {
	case src.HTTP != nil:
		client = src.HTTP
	case c.HTTP != nil:
		client = c.HTTP
	}
	resp, err := client.Do(req)
	if err != nil {
		// Where a redirect led to is left out: such a URL may itself be a
		// credential.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
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
		return &Permanent{fmt.Errorf("%w: %s", ErrGone, resp.Status)}
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return &busyError{fmt.Errorf("the server answered %s", resp.Status), after(resp.Header, time.Now)}
	}
	return &Permanent{fmt.Errorf("the server answered %s", resp.Status)}
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
