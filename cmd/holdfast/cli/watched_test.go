package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/monitor"
)

// watched is the node that monitoring watches: "watched ADDRESS TOKEN DIR". What
// it measures is in DIR/measures.json, what it is told goes to DIR/alerts.
func watched() {
	dir := os.Args[3]
	measure := func() (m monitor.Measures) {
		b, err := os.ReadFile(filepath.Join(dir, "measures.json"))
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return m
	}
	alerts := func(as []monitor.Alert) {
		f, err := os.OpenFile(filepath.Join(dir, "alerts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		defer f.Close()
		for _, a := range as {
			fmt.Fprintf(f, "%s (%s, over: %t): %s\n", a.Name, a.Severity, a.Over, a.Summary)
		}
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], monitor.Handler(os.Args[2], measure, alerts)))
	os.Exit(1)
}
