package main

import (
	"strings"
	"testing"
	"time"
)

func TestCount(t *testing.T) {
	const pass = `{"Action":"pass","Package":"a","Test":"TestOne"}` + "\n" + `{"Action":"pass","Package":"a","Elapsed":1.25}` + "\n"
	for name, c := range map[string]struct {
		in   string
		ok   bool
		want []string // in the output, the count last
	}{
		"pass": {pass, true, []string{"pass a (1.2s)", "1 passed, 0 failed, 0 skipped\n"}},
		"skip": {pass + `{"Action":"output","Package":"a","Test":"TestTwo","Output":"=== RUN   TestTwo\n"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"    a_test.go:7: no tool\n"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"--- SKIP: TestTwo (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestTwo"}
`, true, []string{"skipped: a TestTwo: a_test.go:7: no tool\n", "1 passed, 0 failed, 1 skipped\n"}},
		"fail": {pass + `{"Action":"output","Package":"b","Test":"TestBad","Output":"    b_test.go:1: want 1\n"}
{"Action":"fail","Package":"b","Test":"TestBad"}
{"Action":"fail","Package":"b"}
`, false, []string{"FAIL b TestBad\n    b_test.go:1: want 1\n", "1 passed, 1 failed, 0 skipped\n"}},
		"does not compile": {pass + `{"ImportPath":"b","Action":"build-output","Output":"b.go:1: syntax error\n"}
{"Action":"fail","Package":"b"}
`, false, []string{"b.go:1: syntax error\n", "1 passed, 1 failed, 0 skipped\n"}},
		"no JSON":         {pass + "go: cannot find module\n", true, []string{"go: cannot find module\n", "1 passed, 0 failed, 0 skipped\n"}},
		"boot as it goes": {pass + `{"Action":"output","Package":"boot","Test":"TestBoot","Output":"node ready\n"}` + "\n", true, []string{"node ready\n", "1 passed"}},
		"nothing ran":     {"", false, []string{"0 passed, 0 failed, 0 skipped\n"}},
	} {
		var out strings.Builder
		if _, ok := count(strings.NewReader(c.in), &out); ok != c.ok {
			t.Errorf("%s: %v", name, ok)
		}
		rest := out.String()
		for _, w := range c.want {
			_, after, found := strings.Cut(rest, w)
			if !found {
				t.Errorf("%s: %q is not in its place in:\n%s", name, w, out.String())
			}
			rest = after
		}
	}
}

func TestReport(t *testing.T) {
	tests, _ := count(strings.NewReader(`{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"run","Package":"a","Test":"TestOne/Sub"}
{"Action":"pass","Package":"a","Test":"TestOne/Sub","Elapsed":61.5}
{"Action":"fail","Package":"a","Test":"TestOne","Elapsed":62}
{"Action":"run","Package":"a","Test":"TestTwo"}
`), &strings.Builder{})
	got := report("Boot", "v1-2", time.Unix(0, 0).UTC(), tests)
	for _, want := range []string{"# Boot\n", "v1-2", "1970-01-01", "| TestOne | **FAIL** | 62 s |\n| TestOne/Sub | pass | 62 s |\n| TestTwo | **did not end** | |"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the report:\n%s", want, got)
		}
	}
}
