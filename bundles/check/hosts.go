package check

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"holdfast.dev/holdfast/bundles/catalog"
)

var (
	scheme   = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://`)
	nameForm = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]*[a-z0-9])?\.)+([a-z]|xn--)[a-z0-9-]*[a-z]$`)
	label    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	variable = regexp.MustCompile(`^.*(\$\([^)]*\)|\$?\{[^}]*\}+|\$[A-Za-z_][A-Za-z0-9_]*|%[a-z])`)
)

// maxWord is the longest word that is looked at; names of hosts and images are
// shorter.
const maxWord = 4096

// isName reports whether s is a DNS name of several labels, the last of them
// letters: a name that can be a host's outside.
func isName(s string) bool { return len(s) <= 253 && nameForm.MatchString(strings.ToLower(s)) }

func isLabel(s string) bool { return len(s) <= 63 && label.MatchString(strings.ToLower(s)) }

// inURLs returns the hosts of the URLs in a line, whatever their scheme, and
// the line without these URLs.
func inURLs(line string) (hosts []string, rest string) {
	var b strings.Builder
	from := 0
	for _, m := range scheme.FindAllStringIndex(line, -1) {
		authority := line[m[1] : m[1]+until(line[m[1]:], "/?# \t\"'`<>\\")]
		for part := range strings.SplitSeq(authority, ",") {
			part = part[strings.LastIndexByte(part, '@')+1:] // behind a user's name
			if h, ok := urlHost(part); ok {
				hosts = append(hosts, h)
			}
		}
		if m[0] >= from { // not one in another's query
			b.WriteString(line[from:m[0]] + " ")
			from = m[0] + until(line[m[0]:], " \t\"'`<>\\,;)}]")
		}
	}
	return hosts, b.String() + line[min(from, len(line)):]
}

// until is the number of bytes before the first of chars in s.
func until(s, chars string) int {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return i
	}
	return len(s)
}

// urlHost reads the host of a URL, whatever stands as its port. What is no name
// of the usual form, in another script for example, counts all the same.
func urlHost(s string) (string, bool) {
	if len(s) > maxWord {
		return "", false
	}
	if a, ok := address(s); ok {
		return a.String(), true
	}
	s, _, _ = strings.Cut(s, ":")
	h, ok := hostOf(s)
	return h, ok || strings.Contains(strings.Trim(h, "."), ".") && !strings.ContainsFunc(h, notInNames)
}

func notInNames(r rune) bool {
	return r != '.' && r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}

// hostOf reads host, host:port or [address]:port. A name of which a variable
// hides the beginning is *.REST.
func hostOf(s string) (string, bool) {
	if len(s) > maxWord {
		return "", false
	}
	if addr, ok := address(s); ok {
		return addr.String(), true
	}
	if hidden := variable.FindString(s); hidden != "" {
		if s = s[len(hidden):]; !strings.HasPrefix(s, ".") {
			return "", false
		}
		s = "*" + s
	}
	s = strings.Trim(s, "()[]{};,")
	host := s
	if h, port, ok := strings.Cut(s, ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", false
		}
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	name := strings.TrimPrefix(host, "*.")
	return host, isName(name) || isLabel(name) && name == host
}

// address reads an IP address, with or without a port.
func address(s string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

// withPort reads a word that is a name of several labels, or an IP address,
// with a port and perhaps a path behind.
func withPort(word string) (string, bool) {
	if len(word) > maxWord {
		return "", false
	}
	s := word[:until(word, "/?#")]
	i := strings.LastIndexByte(s, ':')
	if i < 0 || !strings.ContainsAny(s, ".[") {
		return "", false
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return "", false // IPv6 without a port
	}
	h, ok := hostOf(s)
	return h, ok && strings.ContainsAny(h, ".:")
}

// outside reports whether a host is neither of the site nor of the cluster nor
// of the node. Names of one label are looked up in the cluster alone.
func (s Site) outside(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		for _, n := range s.Networks {
			if n.Contains(a) {
				return false
			}
		}
		return a.IsGlobalUnicast() && !a.IsPrivate()
	}
	name := strings.TrimPrefix(host, "*.")
	if !strings.Contains(name, ".") && name == host {
		return false
	}
	for _, in := range []string{s.Domain, "cluster.local", "svc", "localhost", "in-addr.arpa", "ip6.arpa"} {
		if in != "" && (name == in || strings.HasSuffix(name, "."+in)) {
			return false
		}
	}
	return true
}

// services are the names, with their namespaces, under which the objects can
// reach each other in the cluster.
func services(objects []catalog.Object) map[string]bool {
	out := map[string]bool{}
	for _, o := range objects {
		if o.Kind == "Service" && o.APIVersion == "v1" {
			out[o.Name+"."+o.Namespace] = true
		}
	}
	return out
}

// service reports whether a host is one of the cluster's services, or a pod
// behind one, as it is called from a namespace.
func (c *checker) service(host, namespace string) bool {
	host = strings.TrimPrefix(host, "*.")
	for _, h := range []string{host, host + "." + namespace} {
		if c.services[h] {
			return true
		}
		if _, rest, ok := strings.Cut(h, "."); ok && c.services[rest] {
			return true
		}
	}
	return false
}
