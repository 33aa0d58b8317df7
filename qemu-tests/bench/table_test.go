package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One part's new table leaves the others', and what people wrote, as they are.
func TestWrite(t *testing.T) {
	name := filepath.Join(t.TempDir(), "performance.md")
	doc, err := os.ReadFile("../../" + results)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, doc, 0o644); err != nil {
		t.Fatal(err)
	}
	write := func(part, row string) {
		t.Helper()
		var measured table
		if row != "" {
			measured.add(row, "1 s", "2 s", "half")
		}
		if err := measured.write(name, part, "today, commit abc"); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range parts {
		write(part, "old row of "+part)
	}
	write("flash", "new row")
	write("boots", "") // was not measured
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"old row of root", "old row of build", "old row of verify", "old row of collect", "*flash*: today, commit abc.", "| new row | 1 s | 2 s | half |", "old row of boots"} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("%q is not there once", want)
		}
	}
	if strings.Contains(string(got), "old row of flash") {
		t.Error("the old table is still there")
	}
	outside := func(doc string) string {
		for _, part := range parts {
			before, rest, _ := strings.Cut(doc, "<!-- measured: "+part)
			_, after, _ := strings.Cut(rest, "<!-- end of "+part)
			doc = before + after
		}
		return doc
	}
	if outside(string(got)) != outside(string(doc)) {
		t.Error("what lies outside of the tables changed")
	}
	var lost table
	lost.add("x", "", "", "")
	if err := lost.write(name, "nowhere", ""); err == nil {
		t.Error("a part without a place is no error")
	}
}
