package gobuild

import (
	"bytes"
	"log/slog"
	"strings"
	"time"
)

// progress reads what the go command says: names of packages as they are
// compiled, and complaints. It reports the first every two seconds and keeps
// the end of the second.
type progress struct {
	log    *slog.Logger
	recipe string

	line     []byte
	packages int
	reported time.Time
	said     []string
	size     int
}

const keep = 16 << 10 // bytes of complaints; the last are the ones that count

func (p *progress) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if len(p.line) < keep {
				p.line = append(p.line, b...)
			}
			break
		}
		p.take(string(append(p.line, b[:i]...)))
		p.line, b = p.line[:0], b[i+1:]
	}
	return n, nil
}

func (p *progress) take(line string) {
	// A package is named alone on its line, without a space or a colon.
	if line != "" && !strings.ContainsAny(line, " \t:#") {
		p.packages++
		if now := time.Now(); now.Sub(p.reported) >= 2*time.Second {
			p.reported = now
			p.log.Info("compiling", "recipe", p.recipe, "packages", p.packages, "package", line)
		}
		return
	}
	p.said = append(p.said, line)
	p.size += len(line)
	for p.size > keep && len(p.said) > 1 {
		p.size -= len(p.said[0])
		p.said = p.said[1:]
	}
}

func (p *progress) tail() string {
	if len(p.line) > 0 {
		p.take(string(p.line))
		p.line = nil
	}
	return strings.Join(p.said, "\n")
}
