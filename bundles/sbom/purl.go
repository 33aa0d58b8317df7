package sbom

import (
	"fmt"
	"strings"
)

// PURL is a package URL (https://github.com/package-url/purl-spec): of a type,
// a name whose parts are separated by slashes, a version, which may be empty,
// and pairs of qualifiers in the order of their keys, of which those with an
// empty value are left out.
func PURL(kind, name, version string, qualifiers ...[2]string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	out := "pkg:" + kind + "/" + strings.Join(parts, "/")
	if version != "" {
		out += "@" + escape(version)
	}
	sep := "?"
	for _, q := range qualifiers {
		if q[1] != "" {
			out += sep + q[0] + "=" + escape(q[1])
			sep = "&"
		}
	}
	return out
}

// escape leaves the characters that a package URL has no use for.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(".-_~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
