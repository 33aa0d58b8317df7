package journal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/holdfast/cmd/holdfast-agent/agent/journal"
)

const dir = "JOURNAL_node1_00000000-0000-0000-0000-000000000000"

func TestWrite(t *testing.T) {
	root := t.TempDir()
	w := journal.NewWriter(root, "node1")
	const at = `"__REALTIME_TIMESTAMP":"1700000000000001"`
	const said = "2023-11-14T22:13:20.000001Z stdout F "
	for _, c := range []struct {
		line, cursor, unit, want string
	}{
		{`{"__CURSOR":"s=1","MESSAGE":"one","_SYSTEMD_UNIT":"kubelet.service",` + at + `}`, "s=1", "kubelet", said + "one\n"},
		{`{"__CURSOR":"s=2","MESSAGE":"two\nthree\n","_SYSTEMD_UNIT":"kubelet.service",` + at + `}`, "s=2", "kubelet", said + "one\n" + said + "two\n" + said + "three\n"},
		{`{"__CURSOR":"s=3","MESSAGE":"a","SYSLOG_IDENTIFIER":"kernel",` + at + `}`, "s=3", "kernel", said + "a\n"},
		{`{"__CURSOR":"s=4","MESSAGE":"b","_SYSTEMD_UNIT":"systemd-fsck@dev-disk.service",` + at + `}`, "s=4", "systemd-fsck-dev-disk", said + "b\n"},
		// No bytes that are no text, and no name that leads elsewhere.
		{`{"__CURSOR":"s=5","MESSAGE":[104,255,105],"SYSLOG_IDENTIFIER":"../../etc/x_y",` + at + `}`, "s=5", "etc-x-y", said + "h\uFFFDi\n"},
		{`{"__CURSOR":"s=6","MESSAGE":"c","SYSLOG_IDENTIFIER":"..",` + at + `}`, "s=6", "unknown", said + "c\n"},
		{`{"__CURSOR":"s=7","MESSAGE":null,"_SYSTEMD_UNIT":"kubelet.service",` + at + `}`, "s=7", "kubelet", said + "one\n" + said + "two\n" + said + "three\n"},
		{`-- no entries --`, "", "kubelet", said + "one\n" + said + "two\n" + said + "three\n"},
	} {
		cursor, err := w.Write([]byte(c.line))
		if err != nil || cursor != c.cursor {
			t.Errorf("%s: cursor %q, %v", c.line, cursor, err)
		}
		b, err := os.ReadFile(filepath.Join(root, dir, c.unit, "0.log"))
		if err != nil || string(b) != c.want {
			t.Errorf("%s: %q, %v; want %q", c.line, b, err, c.want)
		}
	}
	if found, err := filepath.Glob(filepath.Join(root, "*")); err != nil || len(found) != 1 {
		t.Errorf("written: %q, %v", found, err)
	}
}

// A full file is put aside under a name as the kubelet gives, the one before it
// goes, and many units share a file.
func TestBounds(t *testing.T) {
	root := t.TempDir()
	w := journal.NewWriter(root, "node1")
	long := strings.Repeat("x", 1<<20)
	for i := range 7 {
		if _, err := w.Write(fmt.Appendf(nil, `{"__CURSOR":"1","MESSAGE":"%d %s","_SYSTEMD_UNIT":"loud.service","__REALTIME_TIMESTAMP":"170000000%d000000"}`, i, long, i)); err != nil {
			t.Fatal(err)
		}
	}
	for name, first := range map[string]string{"0.log": "6 ", "0.log.20231114-221326": "4 "} {
		b, err := os.ReadFile(filepath.Join(root, dir, "loud", name))
		if err != nil {
			t.Fatal(err)
		}
		if _, text, _ := strings.Cut(string(b), " F "); !strings.HasPrefix(text, first) {
			t.Errorf("%s begins with %.40s", name, b)
		}
	}
	for i := range 100 {
		if _, err := w.Write(fmt.Appendf(nil, `{"__CURSOR":"1","MESSAGE":"x","_SYSTEMD_UNIT":"unit%d.service","__REALTIME_TIMESTAMP":"1700000000000000"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := filepath.Glob(filepath.Join(root, dir, "*"))
	if err != nil || len(found) != 65 {
		t.Errorf("%d units have files, %v", len(found), err)
	}
	// Another agent goes on in the same file.
	if _, err := journal.NewWriter(root, "node1").Write([]byte(`{"__CURSOR":"1","MESSAGE":"later","_SYSTEMD_UNIT":"unit1.service","__REALTIME_TIMESTAMP":"1700000000000000"}`)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, dir, "unit1", "0.log")); err != nil || strings.Count(string(b), "\n") != 2 {
		t.Errorf("%q, %v", b, err)
	}
}
