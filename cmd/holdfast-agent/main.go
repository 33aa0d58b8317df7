// Command holdfast-agent is the daemon on every node.
package main

import (
	"context"
	"crypto/rand"
	"os"
	"os/signal"
	"syscall"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := agent.Main(ctx, os.Args[1:], func(root string) agent.Host {
		return agent.Machine(root, rand.Reader, os.Getenv)
	}, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
