package check

import (
	"fmt"
	"strings"
	"unicode"
)

// String gives file:line, object, field and message, and the hint on a line of
// its own.
func (f Finding) String() string {
	return f.message() + f.remedy()
}

func (f Finding) message() string {
	s := f.Message
	if at := strings.TrimSpace(f.Object + " " + f.Field); at != "" {
		s = strings.Map(printable, at) + ": " + s
	}
	if p := f.place(); p != "" {
		s = p + ": " + s
	}
	return s
}

// printable keeps control characters from the terminal.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

func (f Finding) place() string {
	if f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

func (f Finding) remedy() string {
	if f.Hint == "" {
		return ""
	}
	return "\nhint: " + f.Hint
}

// morePlaces is how many further places of the same are listed.
const morePlaces = 5

// Texts are findings for people: what is said of the same image or host in many
// places is said once, with the others' places.
func Texts(fs []Finding) []string {
	type same struct{ kind, value, message string }
	places := map[same][]string{}
	var first []Finding
	key := func(f Finding) same { return same{f.Kind, f.Value, f.Message} }
	for _, f := range fs {
		if f.Value == "" || places[key(f)] == nil {
			first = append(first, f)
		}
		places[key(f)] = append(places[key(f)], f.place())
	}
	var out []string
	for _, f := range first {
		s := f.message()
		if also := places[key(f)][1:]; f.Value != "" && len(also) > 0 {
			s += "\nand at " + strings.Join(also[:min(len(also), morePlaces)], ", ")
			if n := len(also) - morePlaces; n > 0 {
				s += fmt.Sprintf(", and %d more (--json has all)", n)
			}
		}
		out = append(out, s+f.remedy())
	}
	return out
}
