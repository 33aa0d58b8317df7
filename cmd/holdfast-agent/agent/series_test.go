package agent_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/bundles"
	"holdfast.dev/holdfast/cmd/holdfast-agent/agent"
)

// appliance is a running node with release 7 and no Kubernetes.
func appliance(t *testing.T) (*box, func(number uint64) string) {
	b := newBox(t)
	b.engine = map[string]any{"name": "none"}
	k := key(t)
	b.trust(k)
	b.seed(k, mac)
	return b, func(number uint64) string { return b.bundle(k, mac, number) }
}

// dryRun asks what would be done with a file.
func (b *box) dryRun(file string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = agent.Main(b.t.Context(), []string{"apply", "--dry-run", file}, func(string) agent.Host { return b.Host }, nil, &o, &e)
	return code, o.String(), e.String()
}

// Of a file with several releases the oldest comes first that is newer than the
// running one. What is behind it need be of nobody who is trusted.
func TestSeriesPlan(t *testing.T) {
	b, bundle := appliance(t)
	foreign := b.bundle(key(t), mac, 6)
	b.write("series", bundle(8)+bundle(9)+bundle(11))
	b.write("begun", foreign+bundle(7)+bundle(8)+bundle(9))
	b.write("next", foreign+bundle(8))
	b.write("old", bundle(5)+bundle(7))
	b.write("foreign", foreign+b.bundle(key(t), mac, 8)+bundle(9))
	b.startAnd("healthy: release demo 7", func() {
		for file, want := range map[string]string{
			"series": "from release 7 to 8\n|then release 9 of the same file|then release 11 of",
			"begun":  "from release 7 to 8\n|then release 9 of the same file",
			"next":   "from release 7 to 8\n",
		} {
			code, out, errs := b.dryRun(filepath.Join(b.Root, file))
			if code != 0 {
				t.Errorf("%s: %d, %s", file, code, errs)
			}
			for _, w := range strings.Split(want, "|") {
				if !strings.Contains(out, w) {
					t.Errorf("%s: no %q in\n%s", file, w, out)
				}
			}
			if file == "next" && strings.Contains(out, "then release") {
				t.Errorf("%s: something follows:\n%s", file, out)
			}
		}
		for file, want := range map[string]string{"old": "numbers only grow", "foreign": "bundle 2 of 3"} {
			if code, _, errs := b.dryRun(filepath.Join(b.Root, file)); code != 3 || !strings.Contains(errs, want) {
				t.Errorf("%s: %d, %s", file, code, errs)
			}
		}
	})
	if strings.Contains(b.said(), "going on") {
		t.Error("a dry run began a series")
	}
}

// A node goes on in the file that it was given, and stops where it is another,
// or where a release of it failed.
func TestSeriesGoesOn(t *testing.T) {
	b, bundle := appliance(t)
	file := filepath.Join(b.Root, "series.bundle")
	b.write("series.bundle", bundle(8)+bundle(9)+bundle(10))
	sections, err := bundles.Sections(t.Context(), strings.NewReader(b.read("series.bundle")), int64(len(b.read("series.bundle"))))
	if err != nil {
		t.Fatal(err)
	}
	begun := func(index string) {
		b.write("var/lib/holdfast/series.json", `{"file":"`+file+`","releases":[{"release":7,"index":"sha256:00"},{"release":8,"index":"`+index+`"},{"release":9,"index":"`+string(sections[1].Index.Digest)+`"}]}`)
	}
	begun("sha256:" + strings.Repeat("1", 64))
	b.start("the series of releases ends at demo 7: release 8 is not of the file that the series began with")
	begun(string(sections[0].Index.Digest))
	// It begins, and ends as these releases have no root that could be written.
	b.start("the series of releases ends at demo 7: cannot update to release demo 8: ")
	if s := b.said(); !strings.Contains(s, "going on in the series: releases 8, 9 to come") || !strings.Contains(s, "then release 9 of the same file") {
		t.Error(s)
	}
	if s := b.status(); len(s.Update.Then) != 0 || s.Update.Step != "idle" {
		t.Errorf("%+v", s.Update)
	}
	begun(string(sections[0].Index.Digest))
	b.start("the series of releases ends at demo 7: release demo 8 failed")
}
