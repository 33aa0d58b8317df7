// Package registry is the program behind `holdfast apply --kubeconfig`: a store
// of images, read by the OCI distribution API and filled by one of its own, and
// what leads containerd on each node there.
//
// The images are verified by who fills the store, and by containerd, which asks
// by digest. What the store itself sees to is that a blob has the bytes of its
// digest, and that a release is whole before it counts.
package registry

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const usage = `usage:
  holdfast-registry store --dir DIR --listen ADDRESS --tokens DIR
  holdfast-registry forward --to URL --listen ADDRESS --tokens DIR`

// Main runs the program until ctx ends, and returns its exit code.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := run(ctx, args, log); err != nil {
		log.Error(err.Error())
		return 1
	}
	return 0
}

func run(ctx context.Context, args []string, log *slog.Logger) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(io.Discard)
	dir := f.String("dir", "", "where the store is")
	to := f.String("to", "", "the store's address")
	listen := f.String("listen", "", "where to listen")
	tokens := f.String("tokens", "", "the directory of the tokens")
	if err := f.Parse(args[1:]); err != nil {
		return fmt.Errorf("cannot start: %w\n%s", err, usage)
	}
	if f.NArg() > 0 {
		return fmt.Errorf("cannot start: too many arguments: %q\n%s", f.Args(), usage)
	}
	var h http.Handler
	switch args[0] {
	case "store":
		t, err := ReadTokens(*tokens, "read", "write")
		if err != nil {
			return err
		}
		if h, err = Handler(*dir, t, log); err != nil {
			return err
		}
	case "forward":
		t, err := ReadTokens(*tokens, "read")
		if err != nil {
			return err
		}
		u, err := url.Parse(*to)
		if err != nil || u.Host == "" {
			return fmt.Errorf("cannot start: %q is no address of a store", *to)
		}
		h = Forward(u, t.Read, log)
	default:
		return errors.New(usage)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	log.Info("listening", "as", args[0], "address", l.Addr().String())
	return Serve(ctx, l, h)
}

// Serve answers at l until ctx ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			_ = s.Close()
		}
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Tokens are what requests show in the header TokenHeader: one to read, one to
// write, which also reads.
type Tokens struct{ Read, Write string }

// TokenHeader is not Authorization, as an API server that passes a request on
// takes that for itself.
const TokenHeader = "Holdfast-Token"

// ReadTokens reads those of the names from files of these names.
func ReadTokens(dir string, names ...string) (Tokens, error) {
	var t Tokens
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			return Tokens{}, fmt.Errorf("cannot read a token: %w", err)
		}
		s := strings.TrimSpace(string(b))
		if len(s) < 16 {
			return Tokens{}, fmt.Errorf("cannot use the token %s: it has %d characters, fewer than 16", n, len(s))
		}
		if n == "read" {
			t.Read = s
		} else {
			t.Write = s
		}
	}
	return t, nil
}
