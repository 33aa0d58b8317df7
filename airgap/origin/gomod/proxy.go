// Package gomod fetches the Go toolchain and the modules of recipes through a
// Go module proxy. What comes in is checked against hashes that were locked
// (the toolchain's) or are part of the recipe (go.sum) before it is used.
package gomod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// ErrNotFound is wrapped by errors about a file that no proxy has.
var ErrNotFound = errors.New("not found")

// Proxy says where modules come from, in the words of the go command.
type Proxy struct {
	URLs string   // as GOPROXY: URLs separated by "," (next if not found) or "|" (next after any error)
	Env  []string // NAME=value: how to reach it, and the sum database

	// Progress, if set, hears of the toolchain's archive now and then; total
	// is -1 where the proxy does not say.
	Progress func(file string, done, total int64)
}

// passed are the settings that the go command needs to reach a proxy, all of
// them about the way there and none about what is built.
var passed = []string{"GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOAUTH", "NETRC",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// Config finds the module proxy: site (the mirror of site.yaml, may be empty),
// else GOPROXY of env, else what goEnv says, which is "go env" of a go command
// on this machine (nil where there is none). The other settings come from env
// and goEnv likewise. No proxy's name is built in.
func Config(env func(string) string, goEnv func() (map[string]string, error), site string) (Proxy, error) {
	var fromGo map[string]string
	var goErr error
	if goEnv != nil {
		fromGo, goErr = goEnv()
	}
	get := func(name string) string {
		if v := env(name); v != "" {
			return v
		}
		return fromGo[name]
	}
	p := Proxy{URLs: strings.TrimSpace(site)}
	if p.URLs == "" {
		p.URLs = get("GOPROXY")
	}
	const hint = "\nhint: name a Go module mirror in site.yaml, or set GOPROXY"
	entries, err := p.entries()
	if err != nil {
		return Proxy{}, fmt.Errorf("cannot use the Go module proxy: %w%s", err, hint)
	}
	if len(entries) == 0 {
		if p.URLs == "" && goErr != nil {
			return Proxy{}, fmt.Errorf("cannot find a Go module proxy: %w%s", goErr, hint)
		}
		return Proxy{}, fmt.Errorf("cannot find a Go module proxy: GOPROXY is %q%s", p.URLs, hint)
	}
	for _, name := range passed {
		if v := get(name); v != "" {
			p.Env = append(p.Env, name+"="+v)
		}
	}
	// The go command looks for the file in HOME, which it does not get.
	if home := env("HOME"); home != "" && get("NETRC") == "" {
		p.Env = append(p.Env, "NETRC="+filepath.Join(home, ".netrc"))
	}
	return p, nil
}

type entry struct {
	url      *url.URL
	anyError bool // the next entry is tried after any error
}

// entries are the proxies before "off" or "direct"; this package does not
// fetch from version control.
func (p Proxy) entries() ([]entry, error) {
	var out []entry
	for rest := p.URLs; rest != ""; {
		i := strings.IndexAny(rest, ",|")
		word, sep := rest, byte(',')
		if i >= 0 {
			word, sep, rest = rest[:i], rest[i], rest[i+1:]
		} else {
			rest = ""
		}
		word = strings.TrimSpace(word)
		if word == "off" || word == "direct" {
			break
		}
		if word == "" {
			continue
		}
		u, err := url.Parse(word)
		if err != nil {
			// The error of url.Parse would repeat a password.
			return nil, fmt.Errorf("an entry of GOPROXY is not a URL")
		}
		if u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "file" {
			return nil, fmt.Errorf("%q is not an https, http or file URL", u.Redacted())
		}
		out = append(out, entry{u, sep == '|'})
	}
	return out, nil
}

// get writes the file of that name below the proxies into w, at most limit bytes.
// w is emptied before each attempt.
func (p Proxy) get(ctx context.Context, name string, limit int64, w *os.File) error {
	entries, err := p.entries()
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("no Go module proxy is configured\nhint: name a Go module mirror in site.yaml, or set GOPROXY")
	}
	var errs []error
	for _, e := range entries {
		u := e.url.JoinPath(name)
		err := getRetrying(ctx, u, limit, w, p.Progress)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("cannot fetch %s: %w", u.Redacted(), err))
		if !e.anyError && !errors.Is(err, ErrNotFound) || ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

const attempts = 3

func getRetrying(ctx context.Context, u *url.URL, limit int64, w *os.File, progress func(string, int64, int64)) error {
	var err error
	for i := range attempts {
		if i > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(i) * time.Second):
			}
		}
		var again bool
		if again, err = getOnce(ctx, u, limit, w, progress); err == nil || !again {
			return err
		}
	}
	return fmt.Errorf("%w (tried %d times)", err, attempts)
}

// stall is how long a proxy may say nothing.
const stall = time.Minute

var errStalled = fmt.Errorf("nothing came for %v", stall)

// getOnce says with its error whether another try could help.
func getOnce(ctx context.Context, u *url.URL, limit int64, w *os.File, progress func(string, int64, int64)) (again bool, err error) {
	if _, err := w.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	if err := w.Truncate(0); err != nil {
		return false, err
	}
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()

	body, size, again, err := open(attempt, u)
	if err == nil {
		defer body.Close()
		if size > limit {
			return false, fmt.Errorf("%d bytes, more than the %d allowed", size, limit)
		}
		r := &reader{r: body, watch: watch, tell: func(done int64) {
			if progress != nil {
				progress(path.Base(u.Path), done, size)
			}
		}}
		if _, err = io.Copy(w, io.LimitReader(r, limit+1)); err == nil && r.n > limit {
			return false, fmt.Errorf("more than the %d bytes allowed", limit)
		}
		again = true
	}
	if err != nil && errors.Is(context.Cause(attempt), errStalled) {
		err = errStalled
	}
	return again && ctx.Err() == nil, err
}

// reader puts the watch off with every byte, and tells of them.
type reader struct {
	r     io.Reader
	n     int64
	watch *time.Timer
	tell  func(int64)
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n > 0 {
		r.n += int64(n)
		r.watch.Reset(stall)
		r.tell(r.n)
	}
	return n, err
}

// open starts to read u; size is -1 where it is not known. With an error it
// says whether another try could help.
func open(ctx context.Context, u *url.URL) (body io.ReadCloser, size int64, again bool, err error) {
	if u.Scheme == "file" {
		f, err := os.Open(filepath.FromSlash(u.Path))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, false, ErrNotFound
		}
		if err != nil {
			return nil, 0, false, err
		}
		return f, -1, false, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, false, errors.New("not a URL to ask for")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the other repeats the URL, and a password in it
		}
		return nil, 0, true, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, resp.ContentLength, false, nil
	}
	resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return nil, 0, false, fmt.Errorf("%w: %s", ErrNotFound, resp.Status)
	case code >= 500 || code == http.StatusTooManyRequests:
		again = true
	}
	return nil, 0, again, errors.New(resp.Status)
}
