// Command holdfast builds, signs, carries and tries sovereign sites.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"holdfast.dev/holdfast/cmd/holdfast/cli"
)

// memory is a soft limit in bytes: the collector runs more often near it, so
// that a build machine needs no more than 300 MiB for holdfast itself.
const memory = 200 << 20

func main() {
	debug.SetMemoryLimit(memory)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.System(), os.Args[1:])
	stop()
	os.Exit(code)
}
