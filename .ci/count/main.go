// Command count reads the output of "go test -json", shows the progress of the
// packages and the output of failed tests, and ends with a line that counts:
// "N passed, N failed, N skipped". It exits 1 if anything failed. With -report
// it also writes a table of the tests, as Markdown.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

func main() {
	name := flag.String("report", "", "file to write the table into")
	title := flag.String("title", "Tests", "its title")
	commit := flag.String("commit", "", "what was tested, for the table")
	flag.Parse()
	tests, ok := count(os.Stdin, os.Stdout)
	if *name != "" {
		doc := report(*title, *commit, time.Now().UTC(), tests)
		if err := os.WriteFile(*name, []byte(doc), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "cannot write the report:", err)
			ok = false
		}
	}
	if !ok {
		os.Exit(1)
	}
}

// count also returns how each test ended, in the order in which they began.
func count(r io.Reader, w io.Writer) (tests []event, ok bool) {
	at := map[string]int{}
	var passed, failed, skipped, broken int
	var skips []string
	output := map[string]*strings.Builder{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Fprintln(w, sc.Text())
			continue
		}
		key := e.Package + " " + e.Test
		out := output[key]
		if out == nil {
			out = &strings.Builder{}
			output[key] = out
		}
		switch e.Action {
		case "run":
			at[key] = len(tests)
			tests = append(tests, e)
			continue
		case "output", "build-output":
			out.WriteString(e.Output)
			if e.Action == "build-output" || live(e.Test) {
				fmt.Fprint(w, e.Output)
			}
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		if i, ok := at[key]; ok {
			tests[i] = e
		}
		switch {
		case e.Test == "":
			if e.Action == "fail" {
				broken++
				fmt.Fprint(w, out.String())
			}
			fmt.Fprintf(w, "%-4s %s (%.1fs)\n", e.Action, e.Package, e.Elapsed)
		case e.Action == "pass":
			passed++
		case e.Action == "skip":
			skipped++
			skips = append(skips, key+": "+reason(out.String()))
		case e.Action == "fail":
			failed++
			fmt.Fprintf(w, "FAIL %s\n%s", key, out)
		}
		delete(output, key)
	}
	slices.Sort(skips)
	for _, s := range skips {
		fmt.Fprintln(w, "skipped:", s)
	}
	// A package that fails without a failing test did not compile, or died.
	if broken > 0 && failed == 0 {
		failed = broken
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return tests, failed == 0 && sc.Err() == nil && passed > 0
}

// live reports whether a test's output is shown as it comes: it takes minutes.
func live(test string) bool {
	for _, p := range []string{"TestBoot", "TestSecureBoot", "TestUpdate"} {
		if strings.HasPrefix(test, p) {
			return true
		}
	}
	return false
}

// reason is what a skipped test said, without the frame around it.
func reason(out string) string {
	var lines []string
	for _, l := range strings.Split(out, "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, " ")
}
