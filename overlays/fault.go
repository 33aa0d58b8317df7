package overlays

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// maxFaults bounds what one file can make us print.
const maxFaults = 50

// Fault is one thing wrong with one place of a file. Line and Column count
// from 1; Line 0 means the whole file.
type Fault struct {
	File         string
	Line, Column int
	Message      string
	Hint         string // may be empty
	Excerpt      string // of the source; may be empty

	about []string // JSON pointers of the values that it is about
}

// Error gives file:line:column and the message, then the hint, then the
// excerpt, each on lines of its own.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(printable(f.File))
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	fmt.Fprintf(&b, ": %s", printable(f.Message))
	if f.Hint != "" {
		fmt.Fprintf(&b, "\nhint: %s", printable(f.Hint))
	}
	if f.Excerpt != "" {
		fmt.Fprintf(&b, "\n%s", f.Excerpt)
	}
	return b.String()
}

// joinFaults sorts fs by place and makes one error of them, nil if there are
// none.
func joinFaults(fs []*Fault) error {
	slices.SortStableFunc(fs, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column), cmp.Compare(a.Message, b.Message))
	})
	var errs []error
	for i, f := range fs {
		if i == maxFaults {
			errs = append(errs, fmt.Errorf("and %d more faults", len(fs)-i))
			break
		}
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// printable keeps control characters from the terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return '→'
		case !unicode.IsPrint(c):
			return unicode.ReplacementChar
		}
		return c
	}, s)
}

// password is the user and password of a URL.
var password = regexp.MustCompile(`//[^/@\s]+@`)

// excerpt shows the line, the two before and the one after, and a caret. It is
// our own because the bytes may be hostile: long lines are cut and control
// characters do not reach the terminal.
func excerpt(lines []string, line, column int) string {
	if line < 1 || line > len(lines) {
		return ""
	}
	const width = 100
	show := func(s string) string {
		s = password.ReplaceAllStringFunc(s, func(p string) string { return "//" + strings.Repeat("*", len(p)-3) + "@" })
		r := []rune(s)
		if len(r) > width {
			r = append(r[:width:width], '…')
		}
		return strings.TrimRight(printable(string(r)), " ")
	}
	var b strings.Builder
	for n := max(1, line-2); n <= min(len(lines), line+1); n++ {
		mark := " "
		if n == line {
			mark = ">"
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("%s %4d | %s", mark, n, show(lines[n-1])), " ") + "\n")
		if n == line && column >= 1 && column <= width {
			fmt.Fprintf(&b, "       | %s^\n", strings.Repeat(" ", column-1))
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// nearest returns the name closest to got, empty if none is close.
func nearest(got string, names []string) string {
	best, at := "", 1+max(1, min(3, len(got)/3))
	if len(got) > 100 {
		return ""
	}
	for _, n := range names {
		if d := distance(strings.ToLower(got), strings.ToLower(n)); d < at {
			best, at = n, d
		}
	}
	return best
}

// didYouMean is a hint: the nearest name, or else all of them.
func didYouMean(got string, names []string) string {
	if n := nearest(got, names); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(names) == 0 || len(names) > 30 {
		return ""
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return "known here: " + strings.Join(names, ", ")
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diag, row[j] = row[j], min(row[j]+1, row[j-1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
