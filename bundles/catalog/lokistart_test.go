package catalog

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A site that gets object storage reads what it wrote before, and writes there
// from the day on that it noted.
func TestLokiStart(t *testing.T) {
	program := buildRecipe(t, "loki-start")
	const key = "0123456789abcdefKEY"
	tomorrow := time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	for _, c := range []struct {
		name, store   string
		chunks, since string   // what is on the volume
		periods       []string // from and store of each
		says          string   // where it does not start
	}{
		{"on the volume", "filesystem", "line", "", []string{"2026-01-01 filesystem"}, ""},
		{"in objects from the first day", "s3", "", "", []string{"2026-01-01 s3"}, ""},
		{"in objects from tomorrow", "s3", "line", "", []string{"2026-01-01 filesystem", tomorrow + " s3"}, ""},
		{"in objects for long", "s3", "line", "2026-03-04\n", []string{"2026-01-01 filesystem", "2026-03-04 s3"}, ""},
		{"objects are gone", "filesystem", "line", "2026-03-04\n", nil, "object storage since 2026-03-04, and this release has none"},
		{"a mark that is none", "s3", "line", "soon\n", nil, `"soon" is no day`},
		{"another store", "tape", "", "", nil, `STORE is "tape"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/config/loki.yaml", "target: all\n", 0o600)
			put(t, dir+"/config/store.yaml", "compactor: {}\n", 0o600)
			put(t, dir+"/key", key+"\n", 0o600)
			put(t, dir+"/data/keep", "", 0o600)
			if c.chunks != "" {
				put(t, dir+"/data/chunks/"+c.chunks, "", 0o600)
			}
			if c.since != "" {
				put(t, dir+"/data/objects-since", c.since, 0o600)
			}
			run := func() (string, error) {
				cmd := exec.Command(program, "/bin/sh", "-c", `echo "$OBJECTS_KEY $*"`, "loki")
				cmd.Env = []string{"CONFIG=" + dir + "/config", "CONFIG_FILE=" + dir + "/loki.yaml", "DATA=" + dir + "/data", "STORE=" + c.store, "OBJECTS_KEY_FILE=" + dir + "/key"}
				b, err := cmd.CombinedOutput()
				return string(b), err
			}
			out, err := run()
			if c.says != "" {
				if err == nil || !strings.Contains(out, c.says) {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err != nil || out != key+" -config.file="+dir+"/loki.yaml -config.expand-env=true\n" {
				t.Errorf("%v: %s", err, out)
			}
			b, err := os.ReadFile(dir + "/loki.yaml")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(string(b)) {
				line = strings.TrimSpace(line)
				if from, ok := strings.CutPrefix(line, "- from: "); ok {
					got = append(got, strings.Trim(from, `"`))
				} else if store, ok := strings.CutPrefix(line, "object_store: "); ok {
					got[len(got)-1] += " " + store
				}
			}
			if strings.Join(got, ", ") != strings.Join(c.periods, ", ") || !strings.HasPrefix(string(b), "target: all\ncompactor: {}\nschema_config:\n") || strings.Contains(string(b), key) {
				t.Errorf("the configuration is\n%s", b)
			}
			if _, err := run(); err != nil {
				t.Error(err)
			}
			if again, err := os.ReadFile(dir + "/loki.yaml"); err != nil || string(again) != string(b) {
				t.Errorf("the second start makes another one: %v\n%s", err, again)
			}
		})
	}
}
