package deb_test

import (
	"fmt"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/deb"
)

// index makes an index from lines "name version; Field: value; …".
func index(t testing.TB, lines ...string) *deb.Index {
	t.Helper()
	var b strings.Builder
	for _, l := range lines {
		head, fields, _ := strings.Cut(l, ";")
		name, version, _ := strings.Cut(head, " ")
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s.deb\nSize: 1\nSHA256: %064d\n", name, version, name, 0)
		for f := range strings.SplitSeq(fields, ";") {
			if f = strings.TrimSpace(f); f != "" {
				b.WriteString(f + "\n")
			}
		}
		b.WriteString("\n")
	}
	ix, err := deb.ParsePackages(strings.NewReader(b.String()), "debian", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

var archive = []string{
	"base-files 13; Pre-Depends: awk; Essential: yes",
	"mawk 1.3; Provides: awk", "gawk 5; Provides: awk",
	"app 1; Depends: libc6 (>= 2), ui | text, base-files",
	"ui 1; Depends: x11", "text 1", "x11 1", "libc6 2.41",
	"old 1; Depends: libc6 (>= 3)",
	"tool 1; Depends: awk, debconf (>= 0.5) | debconf-2.0",
	"debconf 1.5; Depends: perl", "perl 5", "cdebconf 1; Provides: debconf-2.0",
	"enemy 1; Conflicts: ui", "newer 1; Breaks: libc6 (<< 2.42)",
	"mta-a 1; Provides: mta; Conflicts: mta", "mta-b 1; Provides: mta (= 3); Conflicts: mta",
	"wants-mta3 1; Depends: mta (>= 3)", "wants-mta4 1; Depends: mta (>= 4)", "lost 1; Depends: gone",
	"python 3; Multi-Arch: allowed", "script 1; Depends: python:any", "foreign 1; Depends: python:arm64",
}

func TestResolve(t *testing.T) {
	for name, c := range map[string]struct {
		want, exclude, expect string
	}{
		"closure, first alternative":    {"app mawk", "", "base-files app libc6 mawk ui x11"},
		"an alternative asked for":      {"mawk text app", "", "base-files app libc6 mawk text"},
		"exclusion cuts what it pulls":  {"tool mawk", "debconf", "mawk tool"},
		"a virtual package is excluded": {"base-files", "awk", "base-files"},
		"versioned provides":            {"wants-mta3", "", "mta-b wants-mta3"},
		"a pin":                         {"libc6=2.41", "", "libc6"},
		"any architecture":              {"script", "", "python script"},
	} {
		var ex []deb.Exclude
		for e := range strings.FieldsSeq(c.exclude) {
			ex = append(ex, deb.Exclude{Name: e, Reason: "test"})
		}
		sel, err := deb.Resolve(index(t, archive...), strings.Fields(c.want), ex)
		var got []string
		for _, p := range sel.Packages {
			got = append(got, p.Name)
		}
		if err != nil || strings.Join(got, " ") != c.expect {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.expect)
		}
		if len(ex) > 0 && len(sel.Skipped) == 0 {
			t.Errorf("%s: the cut is not reported", name)
		}
	}
}

func TestResolveFaults(t *testing.T) {
	for name, c := range map[string]struct {
		want, exclude string
		faults        []string
	}{
		"all at once":         {"nothing old lost", "", []string{"cannot find package nothing", "libc6 (>= 3), needed by old; the archive has libc6=2.41", "cannot satisfy gone, needed by lost"}},
		"several providers":   {"tool", "debconf", []string{"awk, needed by tool: provided by gawk, mawk", "hint: ask for one"}},
		"a virtual name":      {"mta", "", []string{"provided by mta-a, mta-b"}},
		"conflict":            {"app mawk enemy", "", []string{"enemy conflicts with ui", "ui, needed by app"}},
		"breaks":              {"newer libc6", "", []string{"newer breaks libc6 (<< 2.42)"}},
		"conflict by provide": {"mta-a mta-b", "", []string{"mta-a conflicts with mta"}},
		"unused exclusion":    {"text", "perl", []string{"cannot exclude perl: no package"}},
		"excluded and wanted": {"text", "text", []string{"cannot choose text: it is excluded: test"}},
		"pin not there":       {"text=9", "", []string{"cannot find package text=9", "the archive has text=1"}},
		"provided too old":    {"wants-mta4", "", []string{"cannot satisfy mta (>= 4)"}},
		"foreign":             {"foreign", "", []string{"cannot satisfy python:arm64"}},
	} {
		var ex []deb.Exclude
		for e := range strings.FieldsSeq(c.exclude) {
			ex = append(ex, deb.Exclude{Name: e, Reason: "test"})
		}
		_, err := deb.Resolve(index(t, archive...), strings.Fields(c.want), ex)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, f := range c.faults {
			if !strings.Contains(err.Error(), f) {
				t.Errorf("%s: %q is not in:\n%v", name, f, err)
			}
		}
	}
}

func TestMerge(t *testing.T) {
	main := index(t, "a 1.0-1", "b 2")
	security := index(t, "a 1.0-1+deb13u1", "b 1")
	m, err := deb.Merge(main, security)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := m.Get("a")
	b, _ := m.Get("b")
	if a.Version != "1.0-1+deb13u1" || b.Version != "2" || m.Len() != 4 {
		t.Errorf("got %s, %s of %d", a, b, m.Len())
	}
	sel, err := deb.Resolve(m, []string{"a=1.0-1"}, nil)
	if err != nil || sel.Packages[0].Version != "1.0-1" {
		t.Errorf("the pin was not kept: %v, %v", sel, err)
	}
}

func TestBadIndex(t *testing.T) {
	good := "Package: a\nVersion: 1\nArchitecture: all\nFilename: pool/a.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n"
	if _, err := deb.ParsePackages(strings.NewReader(good), "debian", "amd64"); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"Package: a", "Package: ../a"}, {"Version: 1", "Version: x"}, {"all", "arm64"}, {"pool/a", "../a"},
		{"pool/a", "/a"}, {"Size: 1", "Size: -1"}, {"SHA256: 0", "SHA256: x"}, {"Size: 1\n", ""},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if _, err := deb.ParsePackages(strings.NewReader(bad), "debian", "amd64"); err == nil {
			t.Errorf("taken:\n%s", bad)
		}
	}
}
