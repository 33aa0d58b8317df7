package boot_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// step is one command of a transcript and what it should print.
type step struct {
	command string
	want    []string
}

// transcript takes the first block marked console out of a Markdown text. A
// line that begins with "$ " is a command, one that begins with "> " goes on
// with it, and the others are what it prints.
func transcript(markdown string) ([]step, error) {
	_, rest, ok := strings.Cut(markdown, "\n```console\n")
	if !ok {
		return nil, fmt.Errorf("cannot find a console block")
	}
	block, _, ok := strings.Cut(rest, "\n```")
	if !ok {
		return nil, fmt.Errorf("cannot find the console block's end")
	}
	var steps []step
	for _, line := range strings.Split(block, "\n") {
		command, isCommand := strings.CutPrefix(line, "$ ")
		more, goesOn := strings.CutPrefix(line, "> ")
		last := len(steps) - 1
		switch {
		case isCommand:
			steps = append(steps, step{command: command})
		case last < 0:
			return nil, fmt.Errorf("cannot read the console block: it begins with output: %q", line)
		case goesOn && len(steps[last].want) == 0:
			steps[last].command += "\n" + more
		default:
			steps[last].want = append(steps[last].want, line)
		}
	}
	return steps, nil
}

// pattern is a regular expression for lines in which "…" stands for anything
// within a line, and a line of only "…" for any number of lines. Space at
// lines' ends and empty lines at the end do not count.
func pattern(want []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`^`)
	for _, line := range want {
		line = strings.TrimRight(line, " ")
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", `[^\n]*`) + `[ \t]*\n`)
	}
	b.WriteString(`\n*$`)
	return regexp.MustCompile(b.String())
}

// moving are lines on standard error that come or not, as time goes by.
var moving = regexp.MustCompile(`(?m)^(?:\S[^\n]*: [^\n]* of [^\n]*/s, [^\n]* left: [^\n]*|\S[^\n]*: [0-9]+ of [0-9]+: [^\n]*| *[0-9]+ s  [^\n]*|note: [^\n]*)\n`)

// printed is what a command said.
type printed struct{ stdout, both string }

// fits reports whether the output is the one wanted: all of it, without what
// moves, or standard output alone.
func (p printed) fits(want []string) bool {
	re := pattern(want)
	for _, s := range []string{p.both, moving.ReplaceAllString(p.both, ""), p.stdout} {
		if s != "" && !strings.HasSuffix(s, "\n") {
			s += "\n"
		}
		if re.MatchString(s) {
			return true
		}
	}
	return false
}

func TestTranscript(t *testing.T) {
	steps, err := transcript("# x\n```console\n$ a b\nout … end\n…\nlast\n$ c \\\n>  d\n```\ny")
	if err != nil || len(steps) != 2 || steps[1].command != "c \\\n d" || len(steps[0].want) != 3 {
		t.Fatalf("%q, %v", steps, err)
	}
	for out, want := range map[string]bool{
		"out 1 end\nlast\n": true, "out 1 end\nx\ny\nlast\n": true, "out 1 end  \nlast": true,
		"out end\nlast\n": false, "out 1 end\nlast\nmore\n": false, "": false, "out 1 end\n   12 s  starting\nlast\n": true,
	} {
		if got := (printed{both: out}).fits(steps[0].want); got != want {
			t.Errorf("%q fits: %v", out, got)
		}
	}
	if !(printed{both: "note: x\n", stdout: ""}).fits(nil) {
		t.Error("a note is output that was not foretold")
	}
	for _, bad := range []string{"", "\n```console\n$ a", "\n```console\nout\n$ a\n```"} {
		if _, err := transcript(bad); err == nil {
			t.Errorf("%q is a transcript", bad)
		}
	}
}
