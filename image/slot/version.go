package slot

import (
	"cmp"
	"strings"
)

// compareVersions compares as the UAPI Group's "Version Format Specification"
// has it, by which systemd-boot orders entries.
func compareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, notVersion), strings.TrimLeftFunc(b, notVersion)
		if c := separator(&a, &b, "~"); c != 0 {
			return c
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		for _, sep := range []string{"-", "^", "."} {
			if c := separator(&a, &b, sep); c != 0 {
				return c
			}
		}
		kind := isLetter
		if digitFirst(a) || digitFirst(b) {
			kind = isDigit
		}
		x, y := leading(a, kind), leading(b, kind)
		a, b = a[len(x):], b[len(y):]
		if c := compareParts(x, y, digitFirst(x) || digitFirst(y)); c != 0 {
			return c
		}
	}
}

// separator says which is older because it alone begins with sep; from both it
// is removed.
func separator(a, b *string, sep string) int {
	x, inA := strings.CutPrefix(*a, sep)
	y, inB := strings.CutPrefix(*b, sep)
	switch {
	case inA && inB:
		*a, *b = x, y
	case inA:
		return -1
	case inB:
		return 1
	}
	return 0
}

func compareParts(x, y string, numbers bool) int {
	if !numbers {
		return strings.Compare(x, y)
	}
	if c := cmp.Compare(min(len(x), 1), min(len(y), 1)); c != 0 {
		return c
	}
	x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
	return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
}

func leading(s string, kind func(rune) bool) string {
	return s[:len(s)-len(strings.TrimLeftFunc(s, kind))]
}

func digitFirst(s string) bool { return s != "" && isDigit(rune(s[0])) }

func isDigit(r rune) bool    { return '0' <= r && r <= '9' }
func isLetter(r rune) bool   { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }
func notVersion(r rune) bool { return !isDigit(r) && !isLetter(r) && !strings.ContainsRune("~-^.", r) }
