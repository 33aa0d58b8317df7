// Package agentbin carries the holdfast-agent that this holdfast puts into
// images, and the holdfast-registry that it brings into clusters, so that one
// static file is all that is needed.
package agentbin

import (
	"embed"
	"fmt"
)

// The Makefile puts the programs beside the note that keeps the folder.
//
//go:embed bin
var files embed.FS

// Agent is the bytes of holdfast-agent.
func Agent() ([]byte, error) { return read("holdfast-agent") }

// Registry is the bytes of holdfast-registry.
func Registry() ([]byte, error) { return read("holdfast-registry") }

func read(name string) ([]byte, error) {
	b, err := files.ReadFile("bin/" + name)
	if err != nil {
		return nil, fmt.Errorf("cannot find %s: this holdfast was built without it\nhint: build with \"make build\"", name)
	}
	return b, nil
}
