package deb_test

import (
	"io"
	"os/exec"
	"strings"
	"testing"

	"holdfast.dev/holdfast/image/deb"
)

func TestParagraphs(t *testing.T) {
	text := "# a comment\nPackage: a\nDescription: short\n long\n .\n more\n\n \nPackage: b\nempty:\n"
	var got []string
	err := deb.ReadParagraphs(strings.NewReader(text), func(p deb.Paragraph) error {
		got = append(got, p.Get("package")+"/"+p.Get("Description"))
		return nil
	})
	if err != nil || strings.Join(got, "|") != "a/short\nlong\n.\nmore|b/" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{" x\n", "no colon\n", "a: 1\nA: 2\n", "a b: 1\n", "", "a: 1\n\nb: 2\n"} {
		if _, err := deb.ParseParagraph(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	endless := io.MultiReader(strings.NewReader("a: "), io.LimitReader(zeros{}, 5<<20))
	if err := deb.ReadParagraphs(endless, nil); err == nil {
		t.Error("a paragraph of 5 MiB was taken")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestRelations(t *testing.T) {
	for in, want := range map[string]string{
		"a (>= 1) | b [amd64] <!nocheck>, c:any": "a (>= 1) | b; c:any",
		"a [arm64], b [!arm64]":                  "b",
		"a <nocheck>, b <nocheck> <!nodoc>":      "b",
		"a(<<1:2~rc1-3),":                        "a (<< 1:2~rc1-3)",
		"a\n (> 2),\n b":                         "a (>= 2); b",
		"":                                       "",
	} {
		all, err := deb.ParseRelations(in, "amd64")
		var got []string
		for _, a := range all {
			got = append(got, a.String())
		}
		if err != nil || strings.Join(got, "; ") != want {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{"A", "a (", "a (>=)", "a (~ 1)", "a (= 1) (= 2)", "a b", "a:", "|", "a (= \x00)"} {
		if _, err := deb.ParseRelations(bad, "amd64"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestVersions(t *testing.T) {
	ordered := []string{"0~~", "0~", "0", "0.1", "1.0~rc1", "1.0~rc1-1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1+deb13u2", "1.0-1+deb13u10", "1.0a", "1.0+dfsg", "1:0"}
	dpkg, _ := exec.LookPath("dpkg")
	for i, a := range ordered {
		for j, b := range ordered {
			want := min(1, max(-1, i-j))
			if got := deb.CompareVersions(a, b); got != want {
				t.Errorf("%s against %s: got %d, want %d", a, b, got, want)
			}
			if dpkg != "" && i < j && exec.Command(dpkg, "--compare-versions", a, "lt", b).Run() != nil {
				t.Errorf("dpkg does not think that %s is lower than %s", a, b)
			}
		}
	}
}

func FuzzParagraphs(f *testing.F) {
	f.Add("Package: a\nDescription: short\n long\n\nPackage: b\n")
	f.Fuzz(func(t *testing.T, s string) {
		_ = deb.ReadParagraphs(strings.NewReader(s), func(p deb.Paragraph) error {
			if len(p) == 0 {
				t.Error("an empty paragraph")
			}
			return nil
		})
		_, _ = deb.ParsePackages(strings.NewReader(s), "x", "amd64")
	})
}

func FuzzRelations(f *testing.F) {
	f.Add("a (>= 1) | b [amd64] <!nocheck>, c:any")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := deb.ParseRelations(s, "amd64")
		if err != nil {
			return
		}
		for _, a := range all {
			again, err := deb.ParseRelations(a.String(), "amd64")
			if err != nil || len(again) != 1 || again[0].String() != a.String() {
				t.Errorf("%q does not read back: %v", a, err)
			}
		}
	})
}
