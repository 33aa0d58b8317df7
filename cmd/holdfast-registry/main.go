// Command holdfast-registry holds the images of releases in a cluster that
// holdfast did not install; `holdfast apply` brings it there.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"holdfast.dev/holdfast/cmd/holdfast-registry/registry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := registry.Main(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}
