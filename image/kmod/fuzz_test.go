package kmod

import (
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parse(b)
	})
}

// FuzzEncodeIndex looks every key of an index up again.
func FuzzEncodeIndex(f *testing.F) {
	f.Add("a\nab\nabc\nb\n\na")
	f.Fuzz(func(t *testing.T, keys string) {
		var es []entry
		for i, k := range strings.Split(keys, "\n") {
			es = append(es, entry{k, k + "!", uint32(i)})
		}
		b, err := encodeIndex(es)
		if err != nil {
			return
		}
		for _, e := range es {
			if !strings.Contains(lookup(b, e.key), e.value+";") {
				t.Fatalf("%q is not to be found", e.key)
			}
		}
	})
}

// lookup returns the values of a key, each ended by a semicolon.
func lookup(b []byte, key string) (values string) {
	word := func(at uint32) uint32 {
		return uint32(b[at])<<24 | uint32(b[at+1])<<16 | uint32(b[at+2])<<8 | uint32(b[at+3])
	}
	str := func(at uint32) string { s, _, _ := strings.Cut(string(b[at:]), "\x00"); return s }
	for ref := word(8); ref != 0; {
		at := ref & maxOffset
		if ref&hasPrefix != 0 {
			p := str(at)
			at += uint32(len(p)) + 1
			var ok bool
			if key, ok = strings.CutPrefix(key, p); !ok {
				return ""
			}
		}
		ref0 := ref
		ref = 0
		if ref0&hasChildren != 0 {
			first, last := b[at], b[at+1]
			if key != "" && key[0] >= first && key[0] <= last {
				ref = word(at + 2 + 4*uint32(key[0]-first))
			}
			at += 2 + 4*(uint32(last)-uint32(first)+1)
		}
		if key == "" {
			if ref0&hasValues != 0 {
				n := word(at)
				at += 4
				for range n {
					v := str(at + 4)
					values += v + ";"
					at += 4 + uint32(len(v)) + 1
				}
			}
			return values
		}
		key = key[1:]
	}
	return ""
}
