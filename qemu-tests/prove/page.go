package prove

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
	"took": func(p Phase) string { return p.Ended.Sub(p.Began).Round(time.Second).String() },
	"join": func(s []string) string { return strings.Join(s, "; ") },
	"size": func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) },
}).Parse(page))

// Page writes r for people: one file of HTML that asks for nothing else.
// signed is the digest of the report that was signed, and recorded how long in
// all.
func Page(w io.Writer, r Report, signed string) error {
	var recorded time.Duration
	for _, x := range r.Wire {
		recorded += x.Last.Sub(x.First)
	}
	return pageTemplate.Execute(w, struct {
		Report
		Signed   string
		Recorded time.Duration
	}{r, signed, recorded.Round(time.Second)})
}
