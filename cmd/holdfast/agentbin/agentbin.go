// Package agentbin carries the holdfast-agent that this holdfast puts into
// images, so that one static file is all that a build machine needs.
package agentbin

import (
	"embed"
	"errors"
)

// The Makefile puts the program beside the note that keeps the folder.
//
//go:embed bin
var files embed.FS

// Agent is the program's bytes.
func Agent() ([]byte, error) {
	b, err := files.ReadFile("bin/holdfast-agent")
	if err != nil {
		return nil, errors.New("cannot find holdfast-agent: this holdfast was built without it\nhint: build with \"make build\"")
	}
	return b, nil
}
