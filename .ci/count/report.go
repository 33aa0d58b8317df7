package main

import (
	"fmt"
	"strings"
	"time"
)

// report is a table of how tests ended.
func report(title, commit string, now time.Time, tests []event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nOf commit %s, on %s. A test's time has that of its parts in it.\n\n| test | result | time |\n|---|---|---|\n",
		title, commit, now.Format("2006-01-02 15:04 MST"))
	for _, e := range tests {
		result, took := e.Action, fmt.Sprintf(" %.0f s", e.Elapsed)
		switch e.Action {
		case "fail":
			result = "**FAIL**"
		case "run":
			result, took = "**did not end**", ""
		}
		fmt.Fprintf(&b, "| %s | %s |%s |\n", e.Test, result, took)
	}
	return b.String()
}
